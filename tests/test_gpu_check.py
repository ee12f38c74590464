"`make gpu-check`, as far as it goes without a GPU."

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from empathy_probes.machine.memory import paper_configs
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
