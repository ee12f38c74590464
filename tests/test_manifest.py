"Jobs of a cluster that work in one folder at once. Activations and generations have their tests in test_activations and test_steering."

import json
import multiprocessing
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from empathy_probes.machine.manifest import record_stage
from empathy_probes.machine.presets import load_preset
from empathy_probes.machine.study import open_study
from empathy_probes.machine.tensor_store import load_probes, save_probes

ROOT = Path(__file__).resolve().parents[1]
SMOKE = load_preset("smoke")


def two_at_once(work, *arguments) -> list[int]:
    "Run `work(number, together, *arguments)` in two processes, 0 and 1, that wait for each other; their exit codes."
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(2)
    processes = [context.Process(target=work, args=(number, together, *arguments)) for number in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def save_often(number: int, together, path: Path) -> None:
    directions = {"mean_difference": np.ones((50, 1000), dtype=np.float32)}
    together.wait()
    for _ in range(20):
        save_probes(path, directions, np.arange(50.0), {"model": "toy"})
        load_probes(path, {"model": "toy"})


def test_two_jobs_may_fit_the_same_probes(tmp_path):
    path = tmp_path / "probes.safetensors"
    assert two_at_once(save_often, path) == [0, 0]
    directions, separations = load_probes(path, {"model": "toy"})
    assert directions["mean_difference"].sum() == 50_000
    assert separations.tolist() == list(range(50))


def record_often(number: int, together, folder: Path) -> None:
    study = open_study({"preset": "smoke", "runs": str(folder), "figures": str(folder)})
    together.wait()
    for stage in range(10):
        record_stage(study, f"{number}-{stage}")


def test_no_job_is_left_out_of_the_manifest(tmp_path):
    assert two_at_once(record_often, tmp_path) == [0, 0]
    manifest = json.loads((tmp_path / "smoke/manifest.json").read_text())
    assert set(manifest["stages"]) == {f"{number}-{stage}" for number in (0, 1) for stage in range(10)}


def test_a_cluster_gets_one_job_per_layer_and_is_told_what_it_needs():
    command = [sys.executable, "-m", "snakemake", "-n", "--forceall", "--nolock", "--config", "preset=smoke", "split_layers=true"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    jobs = re.findall(r"rule activation_steering:.*?output: (\S+).*?resources: (.*?)\n", result.stdout + result.stderr, re.DOTALL)
    expected = {f"runs/smoke/{key}/34_activation_steering-{layer}.ipynb" for key, spec in SMOKE.models.items() for layer in spec.steering_layers}
    assert {output for output, _ in jobs} == expected
    for _, resources in jobs:
        assert re.search(r"\bmem_mb=\d", resources) and re.search(r"\bruntime=\d", resources)
