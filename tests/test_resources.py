"What a machine lacks is said before anything is fetched: a CUDA device, its memory, room on the disk, a package."

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from empathy_probes.machine import resources, sources, weights
from empathy_probes.machine.models import load_model
from empathy_probes.machine.presets import ModelSpec, load_preset
from empathy_probes.machine.resources import ResourceError, check_resources, shortage
from empathy_probes.machine.sources import hub_commit

SMOKE = load_preset("smoke")
PAPER = load_preset("paper")
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
