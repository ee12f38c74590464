"What a sweep is counted to do, against what the engine does."

import numpy as np
import pytest
import torch

from empathy_probes.machine import generation, steps
from empathy_probes.machine import sweep as sweeping
from empathy_probes.machine.batch import start
from empathy_probes.machine.concepts import load_concept
from empathy_probes.machine.controls import control_directions
from empathy_probes.machine.models import shared_model
from empathy_probes.machine.plan import Sweep, encode_continuation, recipes, sweep_pushes
from empathy_probes.machine.presets import load_preset
from empathy_probes.machine.steps import Texts, batch_work, batches_of_sweep, measure_steps, timed
from empathy_probes.machine.store import read_lines
from empathy_probes.method.steering import encode_prompt

SMOKE, CONCEPT = load_preset("smoke"), load_concept("empathy")
SPEC = SMOKE.models["tiny-llama"]


@pytest.fixture
def tiny():
    "A model, its tokenizer and its sweep along made-up probes."
    model, tokenizer = shared_model(SPEC)
    probes = np.random.default_rng(0).normal(size=(len(SPEC.layers), 32)).astype(np.float32)
    made_up, layer = np.random.default_rng(1).normal(size=(2, 8, 32)), SPEC.steering_layers[0]
    controls = {(layer, kind): each for kind, each in control_directions(*made_up, SMOKE.samples, 0).items()}
    return model, tokenizer, Sweep(SMOKE, SPEC, CONCEPT, probes, np.ones(len(SPEC.layers)), tokenizer, controls=controls)


@pytest.mark.parametrize("max_rows", [1, 7, 16, 128])
def test_the_batches_are_those_that_a_sweep_makes(tiny, tmp_path, max_rows):
    "Two conditions of different layers or scenarios share a batch, and one condition has its samples in one batch."
    sweeping.generate_missing(tiny[2], tmp_path, max_rows=max_rows)
    tokens = [line["tokens"] for line in read_lines(tmp_path / "timings.jsonl", ["seconds", "tokens"])]
    counted = batches_of_sweep(SMOKE, SPEC, Texts(3, 150, 0), max_rows)
    assert [work.rows * work.steps for work in counted] == tokens


def test_the_tokens_are_those_that_the_model_reads(tiny, monkeypatch):
    "Prompts block by block, and every text that is read for its likelihood."
    model, tokenizer, sweep = tiny
    chosen, prompts, scored = recipes(sweep)[3:22], [], []
    conditions = [(recipe["layer"], SMOKE.scenarios.index(recipe["scenario"]), (recipe["direction"], recipe["alpha"])) for recipe in chosen]
    lengths = {(layer, kind, alpha): np.array([2.0, 3.0]) for layer, kind in sweep.controls for alpha in (-1.0, 1.0)}
    monkeypatch.setattr(sweeping, "end_tokens", lambda model, tokenizer: ())

    def starting(model, rows, **options):
        "`start`, which tells how many prompts each block was given."
        batch = start(model, rows, **options)
        prompts.append(np.mean([len(keys) for keys, _ in batch.prompts]))
        return batch

    likelihoods = generation.log_likelihoods

    def scoring(batch, rows, positions, texts):
        "`log_likelihoods`, which tells how many tokens it was given."
        scored.append(sum(len(text) - 1 for text in texts))
        return likelihoods(batch, rows, positions, texts)

    monkeypatch.setattr(sweeping, "start", starting)
    monkeypatch.setattr(generation, "start", starting)
    monkeypatch.setattr(generation, "log_likelihoods", scoring)
    sweeping.generate_batch(model, tokenizer, chosen, sweep_pushes(sweep, lengths))

    sides = {recipe["scenario"]: sum(len(encode_continuation(tokenizer, text)) for text in recipe["continuations"].values()) for recipe in chosen}
    mean = np.mean([sides[recipe["scenario"]] for recipe in chosen])
    work = batch_work(conditions, SMOKE, SPEC, Texts(3, 1, mean))
    assert work.rows == 19 * SMOKE.samples and work.steps == SPEC.max_new_tokens
    assert work.read == pytest.approx(sum(prompts))
    assert work.scored == pytest.approx(sum(scored))


def test_timings_are_per_token_and_per_step(tiny, monkeypatch):
    "With a clock that says one second for everything."
    monkeypatch.setattr(steps, "timed", lambda device, action: (1.0, action()))
    timings = measure_steps(tiny[0], max_rows=40, prompt=11, new_tokens=4, rounds=2)
    seconds = timings.groupby(["what", "rows"]).seconds.agg(list).to_dict()
    assert {size: seconds["step", size] for size in (1, 8, 32, 40)} == dict.fromkeys((1, 8, 32, 40), [1.0, 1.0])
    read = 10 * (4 * 1 + 2 * 2) / 6  # ten tokens; the first four of six blocks are given one prompt for both rows
    assert seconds["reading", 2] == pytest.approx([1 / read] * 2)
    assert seconds["scoring", 8] == pytest.approx([1 / (8 * steps.SCORED_TOKENS)] * 2)


def test_the_clock_waits_for_cuda(monkeypatch):
    "Or a step would seem to take no longer than its launches."
    events = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: events.append("wait"))
    assert timed("cuda", lambda: events.append("work") or 5)[1] == 5
    assert events == ["wait", "work", "wait"]
    timed("cpu", lambda: events.clear())
    assert events == []
