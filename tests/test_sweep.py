"The sweep: its folder, its file, and runs that are interrupted, repeated or at work at once."

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from empathy_probes.machine import sweep
from empathy_probes.method.directions import random_direction
from empathy_probes.machine.concepts import load_concept
from empathy_probes.machine.models import load_model
from empathy_probes.machine.controls import control_directions
from empathy_probes.machine.plan import Sweep, plan, recipes, sweep_pushes
from empathy_probes.machine.presets import load_preset
from empathy_probes.machine.store import FolderInUse, fingerprint, lock_layers
from empathy_probes.machine.weights import byte_tokenizer
from empathy_probes.machine.sweep import generate_batch, generate_missing, load_generations

WIDTH = 32
SMOKE = load_preset("smoke")
SPEC = SMOKE.models["tiny-llama"]
CONCEPT = load_concept("empathy")
PROBES = np.stack([random_direction(WIDTH, "made-up probe", layer) for layer in SPEC.layers])
SEPARATIONS = np.full(len(SPEC.layers), 3.0)
MADE_UP = np.random.default_rng(0).normal(size=(2, 8, WIDTH))  # activations of training pairs
CONTROLS = {(4, kind): each for kind, each in control_directions(*MADE_UP, SMOKE.samples, 0, SPEC.key, 4).items()}
SWEEP = Sweep(SMOKE, SPEC, CONCEPT, PROBES, SEPARATIONS, byte_tokenizer(), controls=CONTROLS)


@pytest.fixture(scope="module")
def unbroken_path(tmp_path_factory):
    return generate_missing(SWEEP, tmp_path_factory.mktemp("unbroken"))


@pytest.fixture(scope="module")
def unbroken(unbroken_path):
    return unbroken_path.read_bytes()


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)  # as in conftest: on what a line was made stands in it
from empathy_probes.machine import sweep
sys.path.insert(0, {tests!r})
from test_sweep import SWEEP
append, appended = sweep.append_line, 0
def append_and_die(path, row):
    global appended
    if path.name == "generations.jsonl":
        if appended == {lines}:
            with open(path, "ab") as file:
                file.write(b'{{"model": "tiny-ll')
            os.kill(os.getpid(), signal.SIGKILL)
        appended += 1
    append(path, row)
sweep.append_line = append_and_die
sweep.generate_missing(SWEEP, {folder!r})
"""


@pytest.mark.parametrize("lines", [7])  # in the middle of a batch
def test_a_killed_sweep_goes_on_to_the_same_file(tmp_path, unbroken, lines):
    script = KILLED.format(tests=os.path.dirname(__file__), lines=lines, folder=str(tmp_path))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    path = tmp_path / "generations.jsonl"
    assert path.read_bytes().count(b"\n") == lines and not path.read_bytes().endswith(b"\n")
    generate_missing(SWEEP, tmp_path)
    assert path.read_bytes() == unbroken


def test_lines_can_be_lost_anywhere(tmp_path, unbroken):
    lines = unbroken.splitlines(keepends=True)
    path = tmp_path / "generations.jsonl"
    path.write_bytes(b"".join(lines[:3] + lines[11:]))
    generate_missing(SWEEP, tmp_path)
    assert sorted(path.read_bytes().splitlines()) == sorted(unbroken.splitlines())
    table = plan(SWEEP)
    assert load_generations(path, table).fingerprint.unique().tolist() == table.fingerprint.tolist()


def test_a_finished_sweep_loads_no_model(tmp_path, unbroken, monkeypatch):
    (tmp_path / "generations.jsonl").write_bytes(unbroken)
    monkeypatch.setattr(sweep, "shared_model", None)
    generate_missing(SWEEP, tmp_path)
    assert (tmp_path / "generations.jsonl").read_bytes() == unbroken


def test_a_damaged_line_is_named(tmp_path, unbroken):
    lines = unbroken.splitlines(keepends=True)
    path = tmp_path / "generations.jsonl"
    path.write_bytes(lines[0] + lines[1][:40] + b"\n" + lines[2])
    with pytest.raises(ValueError, match=r"generations.jsonl, line 2: damaged"):
        generate_missing(SWEEP, tmp_path)


def test_a_full_disk_loses_only_the_line_it_hit(tmp_path, unbroken, monkeypatch):
    append, count = sweep.append_line, 0

    def disk_full(path, row):
        nonlocal count
        count += path.name == "generations.jsonl"
        if count == 4:
            with open(path, "ab") as file:
                file.write(json.dumps(row).encode()[:50])
            raise OSError(28, "No space left on device")
        append(path, row)

    monkeypatch.setattr(sweep, "append_line", disk_full)
    with pytest.raises(OSError, match="No space left"):
        generate_missing(SWEEP, tmp_path)
    monkeypatch.setattr(sweep, "append_line", append)
    assert generate_missing(SWEEP, tmp_path).read_bytes() == unbroken


@pytest.mark.parametrize(
    "change",
    [
        lambda preset, spec: (replace(preset, temperature=0.9), spec),
        lambda preset, spec: (replace(preset, samples=3), spec),
        lambda preset, spec: (replace(preset, alpha_unit="raw"), spec),
        lambda preset, spec: (preset, replace(spec, max_new_tokens=9)),
        lambda preset, spec: (preset, replace(spec, random=spec.random | {"seed": 3})),
        lambda preset, spec: (preset, replace(spec, dtype="bfloat16")),
    ],
    ids=["temperature", "samples", "alpha_unit", "max_new_tokens", "weights", "dtype"],
)
def test_a_changed_preset_takes_nothing_from_the_old_one(change):
    preset, spec = change(SMOKE, SPEC)
    old = {fingerprint(recipe) for recipe in recipes(SWEEP)}
    new = recipes(replace(SWEEP, preset=preset, spec=spec))
    assert not {fingerprint(recipe) for recipe in new if recipe["alpha"] != 0} & old


def test_new_alphas_keep_what_was_computed(tmp_path, unbroken):
    path = tmp_path / "generations.jsonl"
    path.write_bytes(unbroken)
    more = replace(SPEC, alphas=[-1, 0, 1, 2], steering_layers=[2])
    wider = replace(SWEEP, spec=more)
    generate_missing(wider, tmp_path)
    assert path.read_bytes().startswith(unbroken)
    samples = load_generations(path, plan(wider))
    assert len(samples) == 3 * 4 * SMOKE.samples
    assert len(load_generations(path)) == (30 + 3) * SMOKE.samples


def test_two_runs_do_not_mix(tmp_path):
    script = f"import time; from empathy_probes.machine.store import lock_layers\nwith lock_layers({str(tmp_path)!r}, [2]): print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FolderInUse, match=f"process {other.pid} on "):
            generate_missing(SWEEP, tmp_path)
    finally:
        other.kill()
        other.wait()
    with lock_layers(tmp_path, [2]):
        pass


def test_a_finished_sweep_is_read_while_others_hold_its_layers(tmp_path, unbroken):
    "Several sections read a model's samples at once."
    path = tmp_path / "generations.jsonl"
    path.write_bytes(unbroken)
    with lock_layers(tmp_path, SPEC.steering_layers):
        assert generate_missing(SWEEP, tmp_path) == path
    assert path.read_bytes() == unbroken


SHARE = """
import dataclasses, sys, torch
torch.set_num_threads(1)
from empathy_probes.machine.sweep import generate_missing
sys.path.insert(0, {tests!r})
from test_sweep import SWEEP
spec = dataclasses.replace(SWEEP.spec, steering_layers=[{layer}])
generate_missing(dataclasses.replace(SWEEP, spec=spec), {folder!r})
"""


def test_jobs_share_a_models_layers(tmp_path, unbroken_path):
    "Two processes at once, a layer each, as on a cluster: the samples of an unbroken run, in whatever order, and no two mixed up."
    scripts = [SHARE.format(tests=os.path.dirname(__file__), layer=layer, folder=str(tmp_path)) for layer in SPEC.steering_layers]
    jobs = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) for script in scripts]
    for job in jobs:
        assert job.wait() == 0, job.stderr.read()
    found, expected = (sweep.read_conditions(path) for path in (tmp_path / "generations.jsonl", unbroken_path))
    assert found.keys() == expected.keys()
    for name, line in found.items():
        assert line["samples"] == expected[name]["samples"] and {layer for layer, *_ in line["batch"]} == {line["layer"]}
        for key in ("perplexity", "log_odds"):
            np.testing.assert_allclose(np.array(line[key], float), np.array(expected[name][key], float), rtol=1e-4, atol=1e-4)


def test_batches_are_halved_when_memory_runs_out(tmp_path, unbroken, monkeypatch):
    tried = []

    def small_memory(model, tokenizer, batch, pushes):
        tried.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("pretended")
        return generate_batch(model, tokenizer, batch, pushes)

    monkeypatch.setattr(sweep, "generate_batch", small_memory)
    lines = [json.loads(line) for line in generate_missing(SWEEP, tmp_path).read_text().splitlines()]
    assert tried == [30, 15, 8, 4, 2, 2, 4, 2, 2, 7, 4, 2, 2, 3, 15, 8, 4, 2, 2, 4, 2, 2, 7, 4, 2, 2, 3]
    expected = [json.loads(line) for line in unbroken.splitlines()]
    assert [line["samples"] for line in lines] == [line["samples"] for line in expected]
    assert max(len(line["batch"]) for line in lines) == 3


def test_max_rows_bounds_a_batch_but_not_below_one_condition(tmp_path):
    lines = [json.loads(line) for line in generate_missing(SWEEP, tmp_path, max_rows=1, batches=2).read_text().splitlines()]
    assert [len(line["batch"]) for line in lines] == [1, 1]


def test_a_line_says_how_to_make_it_again(unbroken):
    for line in map(json.loads, unbroken.splitlines()):
        place = (line["layer"], line["direction"], line["alpha"])
        lengths = {place: np.array(line["lengths"])} if line["direction"] in ("random", "shuffled") else {}
        again = generate_batch(*load_model(SPEC), [line], sweep_pushes(SWEEP, lengths))[0]
        assert again["samples"] == line["samples"]
        assert again["lengths"] == pytest.approx(line["lengths"]) and len(set(line["lengths"])) == 1 + bool(lengths)


def test_released_scenarios_have_no_continuations_and_no_log_odds(tmp_path):
    scenarios = {name: replace(scenario, continuations={}) for name, scenario in CONCEPT.scenarios.items()}
    concept = replace(CONCEPT, scenarios=scenarios)
    path = generate_missing(replace(SWEEP, concept=concept), tmp_path, batches=1)
    assert load_generations(path).log_odds.isna().all()


def test_gpt2_runs_through_the_whole_sweep(tmp_path):
    spec = SMOKE.models["tiny-gpt2"]
    gpt2 = replace(SWEEP, spec=spec)
    samples = load_generations(generate_missing(gpt2, tmp_path), plan(gpt2))
    assert samples.log_odds.notna().all() and (samples.perplexity.notna() == (samples.tokens > 0)).all()
