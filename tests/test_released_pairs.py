"On the released texts SmolLM2 detects as measured for the design, with the first token in the mean and out of it."

import numpy as np
import pytest

from empathy_probes.method.activations import POOLINGS, extract_batches
from empathy_probes.method.detection import auroc
from empathy_probes.method.directions import fit_layers, project
from empathy_probes.method.texts import labelled_texts
from empathy_probes.machine.concepts import load_concept

BLOCKS = [11, 15]  # hidden_states 12 and 16, which the first token spoils
EXPECTED = {"mean": [0.804, 0.942], "mean_without_first": [0.996, 0.996]}


@pytest.fixture(scope="module")
def scores(smollm2, released_folder):
    "Projections of the test texts under each pooling [text, layer], and their labels."
    pairs = load_concept(released_folder).pairs
    pooled, labels = {}, {}
    for split in ("train", "test"):
        texts, labels[split] = labelled_texts(pairs, split)
        rows = {i: row for batch, values in extract_batches(*smollm2, texts, BLOCKS) for i, row in zip(batch, values.numpy())}
        pooled[split] = np.stack([rows[i] for i in range(len(texts))])
    projections = {
        pooling: project(pooled["test"][:, :, number], fit_layers(pooled["train"][:, :, number])) for number, pooling in enumerate(POOLINGS)
    }
    return projections, labels["test"]


@pytest.mark.parametrize("pooling", EXPECTED)
def test_auroc_on_the_released_pairs(scores, pooling):
    projections, labels = scores
    found = [round(auroc(column, labels), 3) for column in projections[pooling].T]
    assert found == EXPECTED[pooling]
