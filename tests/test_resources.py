"What a machine lacks is said before anything is fetched: a CUDA device, its memory, room on the disk, a package."

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from empathy_probes.machine import resources, sources, weights
from empathy_probes.machine.models import load_model
from empathy_probes.machine.presets import ModelSpec, load_preset
from empathy_probes.machine.resources import ResourceError, check_resources, job_needs, parameter_count, shortage
from empathy_probes.machine.sources import hub_commit

SMOKE = load_preset("smoke")
PAPER = load_preset("paper")
LADDER = load_preset("ladder").models
TINY = SMOKE.models["tiny-llama"]


def test_cuda_that_is_not_there_is_an_error_before_anything_is_fetched(monkeypatch):
    "A silent fall back to the CPU would run for days."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sources, "hf_hub_download", None)
    monkeypatch.setattr(weights, "model_source", None)
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
    monkeypatch.setattr(resources.importlib.util, "find_spec", lambda name: True)
    gpu(9, 9)
    assert (shortage([replace(PAPER.models["qwen2.5-7b"], **change)], "cuda") == "") is enough


@pytest.fixture
def main_memory(monkeypatch):
    "Pretend that so many GiB of main memory are available."
    return lambda gibibytes: monkeypatch.setattr(resources.psutil, "virtual_memory", lambda: SimpleNamespace(available=int(gibibytes * 2**30)))


def test_too_little_main_memory_is_said_before_a_package_is_fetched_or_converted(tmp_path, monkeypatch, main_memory):
    "A file of 1 GB of 4-bit numbers is converted to 6.6 GiB; Linux ends a process that has no room for them without a word."
    monkeypatch.setattr(sources, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(weights, "converted_folder", None)
    main_memory(6)
    check_resources(load_preset("mini").models.values(), "cpu")
    with pytest.raises(ResourceError, match="cannot run smollm2-135m, gemma3-270m, qwen2.5-coder-0.5b, qwen2.5-coder-1.5b") as caught:
        check_resources(LADDER.values(), "cpu")
    short = [line for line in str(caught.value).splitlines() if line.startswith("- ")]
    assert short == ["- qwen2.5-coder-1.5b: 8.6 GiB of main memory for its float32 weights and a small batch, and 6.0 GiB are free"]
    for way_out in ("close other programs", "-p models", "PRESET=mini", "more memory"):
        assert way_out in str(caught.value)
    with pytest.raises(ResourceError, match="qwen2.5-coder-1.5b: 8.6 GiB of main memory"):
        load_model(LADDER["qwen2.5-coder-1.5b"])
    main_memory(9)
    check_resources(LADDER.values(), "cpu")


def test_on_a_cpu_a_model_needs_as_much_memory_as_its_weights_when_they_are_loaded(hub_cache, main_memory):
    "Of a folder, of the hub, or of a package that is converted; random models are too small to ask."
    phi = PAPER.models["phi-3-mini-4k"]
    main_memory(9)
    assert "- phi-3-mini-4k: 9.1 GiB of main memory for its float16 weights and a small batch, and 9.0 GiB are free" in shortage([phi], "cpu")
    main_memory(9.2)
    assert shortage([phi], "cpu") == ""
    main_memory(0)
    assert shortage(SMOKE.models.values(), "cpu") == ""


def test_a_package_that_is_converted_needs_what_it_is_loaded_with(tmp_path, llama, monkeypatch, main_memory):
    "Its config says how much; in half the precision, half as much."
    monkeypatch.setattr(sources, "cache_folder", lambda: tmp_path)
    smol = replace(LADDER["smollm2-135m"], dtype="bfloat16")
    main_memory(2.4)
    assert "2.5 GiB of main memory for its float32 weights" in shortage([smol], "cpu")
    llama.save_pretrained(sources.conversion_folder(smol))
    assert shortage([smol], "cpu") == ""
    main_memory(2)
    assert "2.0 GiB of main memory for its bfloat16 weights" in shortage([smol], "cpu")


def test_what_a_job_on_the_cpu_needs_is_known_without_anything_on_the_disk(tmp_path, monkeypatch):
    "A login node has no weights, and is no place to convert them."
    monkeypatch.setattr(sources, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(weights, "converted_folder", None)
    qwen = LADDER["qwen2.5-coder-1.5b"]
    assert parameter_count(qwen) == 1_777_088_000
    assert job_needs(load_preset("ladder"), [qwen], [0])["mem_mb"] > 1.5 * 4 * 1_777_088_000 / 2**20


def test_a_disk_without_room_is_named_and_what_is_there_is_not_asked_for_again(hub_cache, gpu, monkeypatch):
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda folder: SimpleNamespace(free=20 << 30))
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
    monkeypatch.setattr(resources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="'local' needs bitsandbytes: pip install"):
        load_model(spec)
