"Weights and presets: conversions that are interrupted or run twice at once, what is missing, and the real SmolLM2."

import hashlib
import json
import multiprocessing
import os
import re
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from empathy_probes import models
from empathy_probes.activations import extract, extract_batches
from empathy_probes.concepts import labelled_texts, load_concept
from empathy_probes.hooks import pool_tokens
from empathy_probes.metrics import auroc
from empathy_probes.models import ModelSpec, PresetError, converted_folder, load_model, load_preset, model_spec, select_models
from empathy_probes.probes import fit_layers, project

PARTS = [b"first half, ", b"second half"]
EMBEDDED = ModelSpec(
    key="embedded",
    title="Embedded",
    blocks=1,
    layers=[0],
    package={"requirements": ["tiny-weights==1.0"], "files": ["tiny_weights/a", "tiny_weights/b"], "sha256": hashlib.sha256(b"".join(PARTS)).hexdigest()},
)
SMOKE = load_preset("smoke")
TINY = SMOKE.models["tiny-llama"]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    "A package that holds a file of weights in two parts."
    package = tmp_path / "site" / "tiny_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name, part in zip("ab", PARTS):
        (package / name).write_bytes(part)
    monkeypatch.syspath_prepend(package.parent)
    return package


def cheap_convert(parts, folder, sha256) -> None:
    "Stands in for the slow conversion: checks as that one does, writes one file, and notes that it ran."
    models.join_checked(parts, folder / "weights.gguf", sha256)
    with open(folder.parent / "ran.txt", "a") as log:
        log.write("x")
    time.sleep(0.5)  # long enough for another to come in
    (folder / "weights.gguf").rename(folder / "model.safetensors")


def is_whole(folder) -> bool:
    return [path.name for path in folder.iterdir()] == ["model.safetensors"] and (folder / "model.safetensors").read_bytes() == b"".join(PARTS)


def in_a_process(cache, together, convert) -> None:
    "Convert in another process; leave with status 0 if the folder is whole."
    models._convert = convert
    together.wait()
    raise SystemExit(not is_whole(converted_folder(EMBEDDED, cache)))


def killed(parts, folder, sha256) -> None:
    "A conversion that kill -9 ends in the middle."
    (folder / "model.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)


def run_processes(count: int, cache, convert) -> list[int]:
    "Exit statuses of processes that convert at the same moment."
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(count)
    processes = [context.Process(target=in_a_process, args=(cache, together, convert)) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def finished(cache) -> list[str]:
    "Folders in the cache that would be taken for finished conversions."
    return [path.name for path in cache.iterdir() if path.is_dir() and not path.name.endswith(".partial")]


def test_a_killed_conversion_leaves_nothing_that_looks_finished(tmp_path, installed, monkeypatch):
    cache = tmp_path / "cache"
    assert run_processes(1, cache, killed) == [-signal.SIGKILL]
    assert finished(cache) == []
    monkeypatch.setattr(models, "_convert", cheap_convert)
    assert is_whole(converted_folder(EMBEDDED, cache))
    assert not list(cache.glob("*.partial"))


def test_two_conversions_at_once_are_one(tmp_path, installed):
    cache = tmp_path / "cache"
    assert run_processes(2, cache, cheap_convert) == [0, 0]
    assert (cache / "ran.txt").read_text() == "x"
    assert len(finished(cache)) == 1


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_conversion_is_made_again(tmp_path, installed, monkeypatch, error):
    def fail(parts, folder, sha256):
        (folder / "model.safetensors").write_bytes(b"half")
        raise error("no space left")

    monkeypatch.setattr(models, "_convert", fail)
    with pytest.raises(error):
        converted_folder(EMBEDDED, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    monkeypatch.setattr(models, "_convert", cheap_convert)
    assert is_whole(converted_folder(EMBEDDED, tmp_path / "cache"))
    assert is_whole(converted_folder(EMBEDDED, tmp_path / "cache"))
    assert (tmp_path / "cache/ran.txt").read_text() == "x"


def test_weights_with_another_checksum_are_never_read(tmp_path, installed):
    (installed / "b").write_bytes(b"tampered")
    with pytest.raises(ValueError, match="SHA-256 is .* expected .* install the pinned version again"):
        converted_folder(EMBEDDED, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


@pytest.mark.parametrize("missing", ["package", "part"])
def test_a_missing_package_comes_with_the_command_that_installs_it(tmp_path, request, missing):
    if missing == "part":
        (request.getfixturevalue("installed") / "b").unlink()
    with pytest.raises(FileNotFoundError, match=r"'embedded'.*pip install --no-deps tiny-weights==1\.0"):
        converted_folder(EMBEDDED, tmp_path / "cache")


def test_a_layer_past_the_last_block_is_named():
    entry = {"random": TINY.random, "blocks": 6}
    with pytest.raises(PresetError, match="'m': there is no layer 6; .* layers go from 0 to 5"):
        model_spec("m", entry | {"layers": [1, 6]})
    with pytest.raises(PresetError, match="there is no layer 0; .* layers go from 1 to 5"):
        model_spec("m", entry | {"layers": [0], "layer_convention": "hidden_state"})
    with pytest.raises(PresetError, match="has 6 blocks, its preset says 8"):
        load_model(replace(TINY, blocks=8))


def test_a_chat_template_that_does_not_exist_is_not_made_up():
    with pytest.raises(PresetError, match="'tiny-llama': chat_template is true, but its tokenizer has none"):
        load_model(replace(TINY, chat_template=True))


@pytest.mark.parametrize(
    "change, message",
    [
        ("poolin: mean", "unknown key 'poolin'; did you mean 'pooling'"),
        ("pooling: median", "pooling must be one of"),
        ("models: {}", "at least one entry under 'models'"),
        ("models: {m: {blocks: 2, layers: [0], random: {}, colour: red}}", "model 'm': unknown key 'colour'"),
        ("models: {m: {blocks: 2, layers: [0]}}", "model 'm': exactly one source of weights .* found none"),
        ("models: {m: {blocks: 2, layers: [0], folder: a, hub: {id: b}}}", "exactly one source of weights"),
        ("models: {m: {layers: [0], folder: a}}", "'blocks' must say"),
        ("models: {m: {blocks: 2, layers: [0], folder: a, dtype: float8}}", "dtype must be float32, bfloat16 or float16"),
        ("models: [", "not valid YAML"),
    ],
)
def test_a_broken_preset_is_refused_by_name(tmp_path, change, message):
    key = change.split(":")[0]
    lines = {"models": "models: {m: {blocks: 2, layers: [0], folder: a}}"} | {key: change}
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(lines.values()))
    with pytest.raises(PresetError, match=message) as caught:
        load_preset(path)
    assert "mine.yaml" in str(caught.value)


def test_unknown_presets_and_models_are_answered_with_what_there_is():
    with pytest.raises(PresetError, match="maxi: .*mini.*paper.*smoke"):
        load_preset("maxi")
    with pytest.raises(PresetError, match="'smoke' has no model 'gpt-5'; it has tiny-llama, tiny-gpt2"):
        select_models(SMOKE, "tiny-gpt2,gpt-5")


def test_models_come_in_the_presets_order():
    assert [spec.key for spec in select_models(SMOKE, " tiny-gpt2 , tiny-llama,")] == ["tiny-llama", "tiny-gpt2"]
    assert [spec.key for spec in select_models(SMOKE, ["tiny-gpt2"])] == ["tiny-gpt2"]


def test_cuda_that_is_not_there_is_an_error(monkeypatch):
    "A silent fall back to the CPU would run for days."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="'cuda', but PyTorch sees no CUDA device"):
        load_model(TINY, "cuda")


def test_hub_weights_are_loaded_from_a_pinned_revision_only():
    paper = load_preset("paper")
    unpinned = replace(paper.models["qwen2.5-7b"], hub={"id": "Qwen/Qwen2.5-7B-Instruct", "revision": None})
    for use in (load_model, models.weights_identity):
        with pytest.raises(PresetError, match="'qwen2.5-7b': weights need a pinned revision; copy a commit's 40 digits"):
            use(unpinned)
    pinned = models.weights_identity(paper.models["qwen2.5-7b"])
    assert re.fullmatch(r"Qwen/Qwen2\.5-7B-Instruct@[0-9a-f]{40} float16", pinned)


def test_a_model_that_is_only_released_data_cannot_be_loaded():
    for spec in load_preset("published").models.values():
        with pytest.raises(PresetError, match=f"'{spec.key}' has no weights here"):
            load_model(spec)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    spec = ModelSpec(key="local", title="Local", blocks=1, layers=[0], folder=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="'local': .*nowhere is no folder with .safetensors files"):
        load_model(spec)


def test_identity_follows_the_content_of_a_folder(tmp_path, llama):
    "Weights trained further under the same name must not be mistaken for those before."
    llama.save_pretrained(tmp_path)
    spec = ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path))
    before = models.weights_identity(spec)
    assert models.weights_identity(spec) == before
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert models.weights_identity(spec) != before


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
    for number, pooling in enumerate(models.POOLINGS):
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
