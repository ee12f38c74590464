"Weights and presets: conversions that are interrupted or run twice at once, what is missing, and the real SmolLM2."

import hashlib
import json
import multiprocessing
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from sklearn.metrics import roc_auc_score
from transformers import LlamaConfig, Phi3Config, Qwen2Config

from empathy_probes.method.activations import extract, extract_batches, pool_tokens
from empathy_probes.method.detection import auroc
from empathy_probes.method.directions import fit_layers, project
from empathy_probes.method.residual_stream import input_device
from empathy_probes.method.texts import labelled_texts
from empathy_probes.machine.concepts import load_concept
from empathy_probes.machine.models import load_model
from empathy_probes.machine.presets import ModelSpec, PresetError, load_preset, model_spec, select_models
from empathy_probes.machine.resources import ResourceError, check_resources, shortage
from empathy_probes.machine.tensor_store import activation_keys
from empathy_probes.machine.weights import converted_folder, hub_commit, weights_identity
from MISSING import metrics, models

PARTS = [b"first half, ", b"second half"]
EMBEDDED = ModelSpec(
    key="embedded",
    title="Embedded",
    blocks=1,
    layers=[0],
    package={"requirements": ["tiny-weights==1.0"], "files": ["tiny_weights/a", "tiny_weights/b"], "sha256": hashlib.sha256(b"".join(PARTS)).hexdigest()},
)
SMOKE = load_preset("smoke")
PAPER = load_preset("paper")
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
        ("models: {m: {blocks: 2, layers: [0], folder: a, dtype: float8}}", "dtype must be one of float32, bfloat16, float16, not 'float8'"),
        ("models: {m: {blocks: 2, layers: [0], folder: a, behavior_reading: end}}", "behavior_reading must be one of full_text, beginning, not 'end'"),
        ("models: {m: {blocks: 2, layers: [0], folder: a, max_rows: 0}}", "max_rows must be a whole number of 1 or more, not 0"),
        ("models: {m: {blocks: 2, layers: [0], hub: {id: b, revision: main}}}", "revision must be the 40 digits of a commit"),
        ("models: {m: {blocks: 2, layers: [0], hub: b}}", "hub must be a mapping"),
        ("models: {m: {blocks: 2, layers: [0], folder: a, published: {threshold: best}}}", "model 'm', published: threshold must be one of"),
        ("models: {m: null}", "model 'm': expected a mapping"),
        ("protocol: printed", "protocol must be one of published, described, not 'printed'"),
        ("device: tpu", "device must be one of cpu, cuda, not 'tpu'"),
        ("threshold: best", "threshold must be one of median, midpoint, train, not 'best'"),
        ("alpha_unit: sigma", "alpha_unit must be one of raw, separation, not 'sigma'"),
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


@pytest.fixture
def gpu(monkeypatch):
    "Pretend that there are CUDA devices; the function sets how many GiB are free on each."

    def free(*gibibytes):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gibibytes))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (gibibytes[number] << 30, 80 << 30))

    return free


# The published sizes of the paper's models; as large as they are, on the meta device they cost nothing.
CONFIGS = {
    "phi-3-mini-4k": Phi3Config(vocab_size=32064, hidden_size=3072, intermediate_size=8192, num_hidden_layers=32, num_attention_heads=32, dtype="bfloat16"),
    "qwen2.5-7b": Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, dtype="bfloat16"
    ),
    "dolphin-llama-3.1-8b": LlamaConfig(
        vocab_size=128258, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, dtype="bfloat16"
    ),
}


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    "A hub's cache that holds the configs of the paper's models, at the commit 0101... of main and at any pinned one, and no weights."
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for key, spec in PAPER.models.items():
        folder = tmp_path / f"models--{spec.hub['id'].replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text("01" * 20)
        for commit in {"01" * 20, spec.hub["revision"] or "01" * 20}:
            CONFIGS[key].save_pretrained(folder / "snapshots" / commit)
    monkeypatch.setattr(models, "_source", lambda spec: (tmp_path / f"models--{spec.hub['id'].replace('/', '--')}" / "snapshots" / hub_commit(spec), {}))
    return tmp_path


def test_cuda_that_is_not_there_is_an_error_before_anything_is_fetched(monkeypatch):
    "A silent fall back to the CPU would run for days."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(models, "hf_hub_download", None)
    monkeypatch.setattr(models, "_source", None)
    with pytest.raises(ResourceError, match="'cuda', but PyTorch sees no CUDA device"):
        load_model(TINY, "cuda")
    with pytest.raises(ResourceError, match="cannot run phi-3-mini-4k, qwen2.5-7b, dolphin-llama-3.1-8b") as caught:
        check_resources(PAPER.models.values(), PAPER.device)
    for way_out in ("load_in_4bit", "load_in_8bit", "max_rows", "PRESET=mini"):
        assert way_out in str(caught.value)


def test_the_paper_needs_as_much_memory_as_its_weights(hub_cache, gpu):
    "3.8, 7.6 and 8.0 billion parameters of two bytes, in GiB, and two more to work in."
    gpu(17)
    check_resources(PAPER.models.values(), "cuda")
    gpu(8)
    message = shortage(PAPER.models.values(), "cuda")
    needed = dict(re.findall(r"- (\S+): ([\d.]+) GiB of GPU memory for its float16 weights and a small batch, and 8.0 GiB are free", message))
    assert needed == {"phi-3-mini-4k": "9.1", "qwen2.5-7b": "16.2", "dolphin-llama-3.1-8b": "17.0"}
    assert "of weights to download" not in message


@pytest.mark.parametrize("change, enough", [({}, False), ({"load_in_8bit": True}, False), ({"load_in_4bit": True}, True), ({"device_map": "auto"}, True)])
def test_ways_out_of_a_gpu_that_is_too_small(hub_cache, gpu, monkeypatch, change, enough):
    "Two GPUs of 9 GiB: one holds no more than the model at 4 bits, both together hold it as it is."
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: True)
    gpu(9, 9)
    assert (shortage([replace(PAPER.models["qwen2.5-7b"], **change)], "cuda") == "") is enough


def test_a_disk_without_room_is_named_and_what_is_there_is_not_asked_for_again(hub_cache, gpu, monkeypatch):
    monkeypatch.setattr(models.shutil, "disk_usage", lambda folder: SimpleNamespace(free=20 << 30))
    gpu(40)
    assert "- 36.3 GiB of weights to download into" in shortage(PAPER.models.values(), "cuda")
    for key in ("phi-3-mini-4k", "qwen2.5-7b"):
        spec = PAPER.models[key]
        snapshot = hub_cache / f"models--{spec.hub['id'].replace('/', '--')}" / "snapshots" / hub_commit(spec)
        with open(snapshot / "model.safetensors", "wb") as file:
            file.truncate(15 << 30)  # a sparse file
    assert shortage(PAPER.models.values(), "cuda") == ""


def test_packing_without_bitsandbytes_comes_with_the_command_that_installs_it(tmp_path, llama, monkeypatch):
    llama.save_pretrained(tmp_path)
    spec = ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path), load_in_8bit=True)
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="'local' needs bitsandbytes: pip install"):
        load_model(spec)


def test_a_commit_that_no_preset_names_stays_the_one_in_the_cache(hub_cache):
    "Results of another commit are kept under another name, and the manifest says which it was."
    dolphin, phi = PAPER.models["dolphin-llama-3.1-8b"], PAPER.models["phi-3-mini-4k"]
    assert weights_identity(dolphin) == f"cognitivecomputations/dolphin-2.9.4-llama3.1-8b@{'01' * 20} float16"
    before = activation_keys(dolphin, ["A text."])
    moved = hub_cache / "models--cognitivecomputations--dolphin-2.9.4-llama3.1-8b"
    CONFIGS["dolphin-llama-3.1-8b"].save_pretrained(moved / "snapshots" / ("02" * 20))
    (moved / "refs/main").write_text("02" * 20)
    assert "@0202" in weights_identity(dolphin)
    assert activation_keys(dolphin, ["A text."]) != before
    assert weights_identity(phi) == "microsoft/Phi-3-mini-4k-instruct@0a67737cc96d2554230f90338b163bc6380a2a85 float16"


def test_the_newest_commit_is_asked_for_once(tmp_path, monkeypatch):
    dolphin, asked = PAPER.models["dolphin-llama-3.1-8b"], []

    def download(name, file):
        folder = tmp_path / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text("03" * 20)
        CONFIGS["dolphin-llama-3.1-8b"].save_pretrained(folder / "snapshots" / ("03" * 20))
        asked.append((name, file))
        return str(folder / "snapshots" / ("03" * 20) / file)

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "hf_hub_download", download)
    assert [hub_commit(dolphin) for _ in range(3)] == ["03" * 20] * 3
    assert asked == [("cognitivecomputations/dolphin-2.9.4-llama3.1-8b", "config.json")]


def test_a_hub_that_does_not_answer_is_named(tmp_path, monkeypatch):
    def offline(name, file):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "hf_hub_download", offline)
    with pytest.raises(ConnectionError, match="'dolphin-llama-3.1-8b': no copy of cognitivecomputations/dolphin.*the hub does not answer"):
        hub_commit(PAPER.models["dolphin-llama-3.1-8b"])


def test_the_paper_follows_either_protocol(tmp_path):
    "Where the protocol's page and the text differ: layer convention, threshold, and what is read of a completion."
    described = tmp_path / "described.yaml"
    described.write_text(Path(PAPER.path).read_text().replace("protocol: published", "protocol: described"))
    fields = ("layers", "layer_convention", "threshold", "behavior_reading")
    found = {
        preset.protocol: {key: tuple(getattr(spec, name) for name in fields) for key, spec in preset.models.items()}
        for preset in (PAPER, load_preset(described))
    }
    five = [8, 12, 16, 20, 24]
    assert found["published"] == {
        "phi-3-mini-4k": (five, "block", "median", "full_text"),
        "qwen2.5-7b": (five, "hidden_state", "midpoint", "beginning"),
        "dolphin-llama-3.1-8b": ([*five, 28], "hidden_state", "midpoint", "beginning"),
    }
    assert list(found["described"].values()) == [(five, "block", "train", "full_text")] * 3


def test_the_papers_sweep_has_its_276_conditions():
    scenarios = 3
    assert PAPER.scenarios == ["food_delivery", "the_listener", "the_protector"]
    assert sum(len(spec.steering_layers) * len(spec.alphas) * scenarios for spec in PAPER.models.values()) == 276
    assert {spec.dtype for spec in PAPER.models.values()} == {"float16"} and not any(spec.chat_template for spec in PAPER.models.values())


def test_the_threshold_rules_are_those_of_the_metrics():
    assert models.THRESHOLD_RULES == metrics.THRESHOLD_RULES


def test_a_model_loads_through_accelerate(tmp_path, llama):
    "`device_map: auto` where there are no GPUs at all."
    llama.save_pretrained(tmp_path)
    models.byte_tokenizer().save_pretrained(tmp_path)
    spec = ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path), device_map="auto")
    model, _ = load_model(spec)
    assert input_device(model) == torch.device("cpu")
    assert torch.equal(model.lm_head.weight, llama.lm_head.weight)


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
