"`make gpu-check`, as far as it goes without a GPU."

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from conftest import FAMILIES
from transformers import AutoModelForCausalLM

from empathy_probes.machine.memory import fake_gpu, fake_model, paper_configs
from empathy_probes.machine.resources import WORKSPACE
from empathy_probes.machine.weights import random_model
from empathy_probes.method.residual_stream import find_blocks

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/gpu_check.py"
SPECIFICATION = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
gpu_check = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(gpu_check)


def test_the_check_runs_on_the_cpu_with_a_tiny_model():
    lines = dict(line.split(":", 1) for line in gpu_check.report("cpu", "tiny-llama").splitlines())
    found = {key.strip(): value.strip() for key, value in lines.items()}
    assert found["a batch against its rows"].startswith("5 of 5 texts are equal")
    assert found["the same batch again"] == "equal"
    assert float(found["reading"].split()[0].replace(",", "")) > 0
    for key in gpu_check.PAPER.models:
        assert key in found["the preset paper, by estimate"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_cuda_device_it_says_so():
    run = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert run.returncode == 1 and "sees no CUDA device here" in run.stderr


def test_a_batch_that_is_not_the_same_twice_is_a_failure(monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "report", lambda device, name: f"the same batch again: {gpu_check.NOT_EQUAL}")
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--device", "cpu", "--model", "tiny-llama"])
    with pytest.raises(SystemExit, match="1"):
        gpu_check.main()
    assert gpu_check.NOT_EQUAL in capsys.readouterr().out


def test_a_small_gpu_gets_fewer_blocks(gpu, monkeypatch):
    config = paper_configs()["qwen2.5-7b"]
    for gibibytes, blocks in [(80, 28), (16, 22)]:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (gibibytes << 30, 80 << 30))
        assert gpu_check._blocks_that_fit(config, 2) == blocks
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(gpu_check.with_blocks(config, 22))
    assert len(find_blocks(model)) == 22
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4 << 30, 80 << 30))
    with pytest.raises(SystemExit, match="no room for one block"):
        gpu_check._blocks_that_fit(config, 2)


def test_the_estimate_counts_the_steps_of_a_sweeps_batches(monkeypatch):
    "Not a batch for each layer and scenario: 153 conditions of five samples are three batches of up to 300 rows."
    timings = pd.DataFrame({"what": ["reading", "scoring", "step", "step"], "rows": [2, 8, 1, 300], "seconds": [0.0, 0.0, 1.0, 1.0]})
    monkeypatch.setattr(gpu_check, "rows_that_fit", lambda model, positions: 300)
    monkeypatch.setattr(gpu_check, "measure_steps", lambda model, max_rows, *sizes: timings)
    model = random_model("qwen2", FAMILIES["qwen2"])
    seconds = gpu_check.paper_minutes(model, reading=float("inf"))["qwen2.5-7b"] * 60
    assert seconds == pytest.approx(3 * 200 * 28 / len(find_blocks(model)))


def test_its_lines_for_a_gpu(monkeypatch):
    "All that is run on CUDA alone, on a fake GPU."

    class Driver:
        def cuDriverGetVersion(self, pointer):
            pointer._obj.value = 13000

    answers = {
        "get_device_properties": SimpleNamespace(name="a fake GPU", total_memory=24 * 10**9, major=8, minor=6),
        "is_bf16_supported": True, "synchronize": None, "max_memory_allocated": 3 << 30,
        "empty_cache": None, "mem_get_info": (WORKSPACE + (5 << 20), 24 << 30),
    }  # fmt: skip
    for key, answer in answers.items():
        monkeypatch.setattr(torch.cuda, key, lambda *args, answer=answer, **options: answer)
    monkeypatch.setattr(gpu_check.ctypes, "CDLL", lambda name: Driver())
    monkeypatch.setattr(gpu_check, "STEPS", 2)
    config = random_model("qwen2", FAMILIES["qwen2"]).config
    monkeypatch.setattr(gpu_check, "load", lambda device, name: (fake_model(config), f"{name} on {device}"))
    with fake_gpu():
        lines = dict(line.split(":", 1) for line in gpu_check.report("cuda", "qwen2.5-7b").splitlines())
    found = {key.strip(): value.strip() for key, value in lines.items()}
    assert found["device"] == "a fake GPU, 24 GB, compute capability 8.6"
    assert "of the driver 13.0" in found["CUDA"] and found["bfloat16"] == "yes"
    assert found["model"] == "qwen2.5-7b on cuda" and found["peak memory"] == "3.0 GiB"
    assert found["the same batch again"] == "equal" and "times as long" in found["with attention by cuDNN"]
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # it is switched off again
