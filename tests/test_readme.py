"What the README says of results is what the committed tables say; it shows and links to files that are there."
import re
from pathlib import Path

import pandas as pd
import pytest

from empathy_probes.machine.presets import load_preset
from empathy_probes.evidence.size import broken_controls, describe_sizes

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SIZE = pd.read_csv(ROOT / "figures/ladder/size.csv")
TITLES = {key: spec.title for key, spec in load_preset("ladder").models.items()}


@pytest.mark.parametrize("sentence", [*describe_sizes(SIZE, TITLES), broken_controls(SIZE, TITLES)])
def test_a_finding_stands_there_with_its_models_and_numbers(sentence):
    assert sentence in README


def test_the_numbers_of_texts_and_samples_are_those_of_the_table():
    counted = {finding: set(rows.n) for finding, rows in SIZE[SIZE.direction == "probe"].groupby("finding")}
    assert counted["auroc_test"] == {30} and "tell 15 texts" in README
    assert counted["auroc_hard"] == {60} and "In the 30 *hard pairs*" in README
    assert counted["coherent_high"] == {30} and "30 samples a dose" in README


def test_the_answers_are_those_of_the_run():
    answers = pd.read_csv(ROOT / "figures/ladder/answers.csv").query("model == 'qwen2.5-coder-1.5b'")
    assert answers.dose.tolist() == [-2, 0, 2]
    for text in answers.text:
        assert " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;") in README


def test_every_picture_and_link_leads_to_a_file():
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")}
    assert sorted(link for link in links if not (ROOT / link).exists()) == []
    assert len(links) > 50
