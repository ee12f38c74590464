"Loading: a model that is spread by accelerate, one that cannot be loaded, and the real SmolLM2 against plain transformers."

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from empathy_probes.method.activations import POOLINGS, extract, extract_batches, pool_tokens
from empathy_probes.method.detection import auroc
from empathy_probes.method.directions import fit_layers, project
from empathy_probes.method.residual_stream import input_device
from empathy_probes.method.texts import labelled_texts
from empathy_probes.machine.concepts import load_concept
from empathy_probes.machine.models import load_model
from empathy_probes.machine.presets import ModelSpec, PresetError, load_preset
from empathy_probes.machine.weights import byte_tokenizer

SMOKE = load_preset("smoke")
TINY = SMOKE.models["tiny-llama"]


def test_a_chat_template_that_does_not_exist_is_not_made_up():
    with pytest.raises(PresetError, match="'tiny-llama': chat_template is true, but its tokenizer has none"):
        load_model(replace(TINY, chat_template=True))


def test_a_model_loads_through_accelerate(tmp_path, llama):
    "`device_map: auto` where there are no GPUs at all."
    llama.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    spec = ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path), device_map="auto")
    model, _ = load_model(spec)
    assert input_device(model) == torch.device("cpu")
    assert torch.equal(model.lm_head.weight, llama.lm_head.weight)


def test_a_model_that_is_only_released_data_cannot_be_loaded():
    for spec in load_preset("published").models.values():
        with pytest.raises(PresetError, match=f"'{spec.key}' has no weights here"):
            load_model(spec)


def every_pooling(model, tokenizer, texts: list[str], layers: list[int]) -> torch.Tensor:
    "Activations of texts in one batch [text, layer, pooling, width]."
    [(order, values)] = extract_batches(model, tokenizer, texts, layers)
    return values[np.argsort(order)]


def test_smollm2_reads_alike_alone_and_padded_on_either_side(smollm2):
    model, tokenizer = smollm2
    texts = ["I stop and listen.", "The door is three cells off, and I have not looked at it since the first message came.", "Go."]
    layers = [0, 11, 19, 28]
    tokenizer = type(tokenizer).from_pretrained(tokenizer.name_or_path, padding_side="left")
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert batch["attention_mask"][2, 0] == 0
    with torch.inference_mode():
        left = model(**batch, output_hidden_states=True).hidden_states
    right = every_pooling(model, tokenizer, texts, layers)
    alone = torch.cat([every_pooling(model, tokenizer, [text], layers) for text in texts])
    scale = alone.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(right / scale, alone / scale, rtol=0, atol=1e-4)
    for number, pooling in enumerate(POOLINGS):
        padded_left = torch.stack([pool_tokens(left[layer + 1], batch["attention_mask"], pooling) for layer in layers], dim=1)
        torch.testing.assert_close(padded_left / scale[:, :, number], alone[:, :, number] / scale[:, :, number], rtol=0, atol=1e-4)


def test_smollm2_detects_as_a_plain_computation_with_transformers_does(smollm2):
    "A wrong layer, a wrong token or shuffled rows would give other projections; ours may differ by rounding alone."
    model, tokenizer = smollm2
    pairs = load_concept("empathy").pairs
    few = pairs.groupby(["split", "scenario"]).head(1)
    layers = [11, 19]
    texts = {split: labelled_texts(few, split)[0] for split in ("train", "test")}
    labels = labelled_texts(few, "test")[1]

    def plain(text):
        ids = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            states = model(**ids, output_hidden_states=True).hidden_states
        return np.stack([states[layer + 1][0, 1:].double().mean(dim=0).numpy() for layer in layers])

    train, test = (np.stack([plain(text) for text in texts[split]]) for split in ("train", "test"))
    difference = train[:5].mean(axis=0) - train[5:].mean(axis=0)
    expected = np.einsum("tlw,lw->tl", test, difference / np.linalg.norm(difference, axis=-1, keepdims=True))

    ours_train, ours_test = (extract(model, tokenizer, texts[split], layers, "mean_without_first", max_tokens=64) for split in ("train", "test"))
    ours = project(ours_test, fit_layers(ours_train))
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * np.ptp(expected))
    for column in range(len(layers)):
        assert auroc(ours[:, column], labels) == roc_auc_score(labels, expected[:, column])
