"Steering: families, batches, caches and interrupted runs; what the notebooks' small examples do not show."
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from conftest import FAMILIES

from empathy_probes.method.activations import extract
from empathy_probes.method.directions import random_direction
from empathy_probes.method.residual_stream import add_vectors, find_blocks, project_out, read_residual
from empathy_probes.method.steering import steer
from empathy_probes.machine.concepts import load_concept
from empathy_probes.machine.generation import copy_rows, log_odds, perplexities, read_prompt, sample_tokens
from empathy_probes.machine.models import load_model
from empathy_probes.machine.plan import plan, recipes, steering_directions
from empathy_probes.machine.presets import load_preset
from empathy_probes.machine.store import FolderInUse, fingerprint, lock_layers
from empathy_probes.machine.sweep import load_generations, sweep
from empathy_probes.machine.weights import byte_tokenizer, empty_model, loaded_bytes, random_model
from MISSING import generate_batch, steering

WIDTH, LAYER = 32, 1
PROMPT = byte_tokenizer()("You are at the well. What do you do?")["input_ids"]  # longer than the sliding windows
PUSHES = torch.tensor(np.outer([-6.0, 0.0, 6.0], random_direction(WIDTH, "test")), dtype=torch.float32)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return random_model(request.param, FAMILIES[request.param])


@pytest.fixture(scope="module")
def llama():
    return random_model("llama", FAMILIES["llama"])


def uniform_numbers(rows: int, steps: int = 10) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(5).random((rows, steps)))


def sample(model, doses, uniforms, temperature=1.0, end_ids=(), pushes=PUSHES):
    "Steered texts with an ending: tokens, the cache afterwards, and where each text is in it."
    cache = copy_rows(read_prompt(model, PROMPT, LAYER, pushes), doses, len(PROMPT) - 1, room=uniforms.shape[1])
    texts, places = sample_tokens(model, cache, PROMPT[-1], LAYER, pushes[doses], uniforms, temperature, set(end_ids))
    return texts, cache, places


@torch.inference_mode()
def without_cache(model, push, uniforms, temperature=1.0):
    "One steered text, every token from a pass over the whole text."
    ids = list(PROMPT)
    for number in uniforms:
        with add_vectors(model, LAYER, push[None]):
            logits = model(torch.tensor([ids]), use_cache=False).logits[:, -1]
        ids.append(steering.draw(logits, number[None], temperature).item())
    return ids[len(PROMPT) :]


def test_a_batch_equals_its_rows_and_the_model_without_cache(model):
    doses, uniforms = [0, 1, 2, 2], uniform_numbers(4, steps=6)
    texts, _, _ = sample(model, doses, uniforms)
    for row, dose in enumerate(doses):
        assert sample(model, [dose], uniforms[row : row + 1])[0] == [texts[row]]
        assert without_cache(model, PUSHES[dose], uniforms[row]) == texts[row]
    assert len(set(map(tuple, texts))) == 4


def test_each_alpha_reads_the_prompt_once_and_ended_rows_stop_costing(llama):
    doses, uniforms = [0, 0, 1, 1, 2, 2], uniform_numbers(6)
    full, _, _ = sample(llama, doses, uniforms)
    end = {full[0][2], full[3][6]}
    fed = []
    handle = find_blocks(llama)[0].register_forward_hook(lambda block, inputs, output: fed.append(tuple(inputs[0].shape[:2])))
    texts, _, _ = sample(llama, doses, uniforms, end_ids=end)
    handle.remove()
    going_on = [sum(len(text) >= step for text in texts) for step in range(10)]
    assert going_on[0] == 6 and going_on[-1] < 6
    assert fed == [(3, len(PROMPT) - 1)] + [(rows, 1) for rows in going_on if rows]


def test_every_row_and_every_token_is_steered(model):
    "Neither row 0 alone, nor the prompt alone."
    rows = PROMPT[:6], PROMPT[2:8]
    streams = {}
    for name, steering_on in {"off": nullcontext(), "on": steer(model, LAYER, PUSHES[2], [0.5, -1.0])}.items():
        with torch.inference_mode(), steering_on, read_residual(model, [LAYER], torch.clone) as residual:
            model(torch.tensor(rows))
        streams[name] = residual[LAYER]
    moved = streams["on"] - streams["off"]
    torch.testing.assert_close(moved, torch.stack([0.5 * PUSHES[2], -PUSHES[2]])[:, None].expand_as(moved), atol=1e-4, rtol=0)


def test_new_tokens_are_steered_too(model):
    "Through transformers' generate on its own cache: the steered block moves at every step, not in the prompt alone."
    moved = []

    def watch(module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        moved.append(tuple(hidden.shape[:2]))

    ids = torch.tensor([PROMPT, PROMPT])
    options = dict(attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, eos_token_id=None)
    with steer(model, LAYER, PUSHES[2], [1.0, -1.0]):
        handle = find_blocks(model)[LAYER].register_forward_hook(watch)
        steered = model.generate(ids, **options)[:, len(PROMPT) :].tolist()
        handle.remove()
    assert moved == [(2, len(PROMPT))] + [(2, 1)] * 4
    expected = [without_cache(model, push, torch.zeros(5), temperature=0) for push in (PUSHES[2], -PUSHES[2])]
    assert steered == expected


def test_alpha_zero_is_the_untouched_model(model):
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        untouched = model(ids).logits
        with steer(model, LAYER, PUSHES[2], [0.0]):
            steered = model(ids).logits
    assert torch.equal(untouched, steered)


def test_left_padding_changes_nothing(model):
    "Rows of different lengths through transformers' generate, as other code would batch them."
    texts = [PROMPT, PROMPT[:11]]
    padded = torch.tensor([PROMPT, [0] * (len(PROMPT) - 11) + PROMPT[:11]])
    mask = torch.tensor([[1] * len(PROMPT), [0] * (len(PROMPT) - 11) + [1] * 11])
    options = dict(max_new_tokens=5, do_sample=False, eos_token_id=None)
    with steer(model, LAYER, PUSHES[2], [1.0, -1.0]):
        together = model.generate(padded, attention_mask=mask, **options)[:, len(PROMPT) :].tolist()
    for row, alpha in enumerate([1.0, -1.0]):
        ids = torch.tensor([texts[row]])
        with steer(model, LAYER, PUSHES[2], [alpha]):
            alone = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(texts[row]) :].tolist()
        assert together[row] == alone


def test_ended_rows_leave_the_others_alone(model):
    doses, uniforms = [0, 0, 1, 1, 2, 2], uniform_numbers(6)
    full, _, _ = sample(model, doses, uniforms)
    end = {full[0][2], full[3][6], full[5][0]}
    texts, cache, places = sample(model, doses, uniforms, end_ids=end)
    assert texts == [text[: next((i for i, token in enumerate(text) if token in end), len(text))] for text in full]
    assert len(set(map(len, texts))) > 2 and sorted(places) == list(range(6))
    sides = {"positive": PROMPT[:4], "negative": PROMPT[4:9]}
    odds = log_odds(model, cache, places, PROMPT, texts, LAYER, PUSHES[doses], sides)
    for text, dose, value in zip(texts, doses, odds):
        expected = [log_p(model, PUSHES[dose], [*PROMPT, *text], side) for side in sides.values()]
        assert value == pytest.approx(expected[0] - expected[1], abs=1e-4)


@torch.inference_mode()
def log_p(model, push, before, tokens):
    with add_vectors(model, LAYER, push[None]):
        table = model(torch.tensor([[*before, *tokens]])).logits[0].log_softmax(-1)
    return sum(table[len(before) - 1 + i, token].item() for i, token in enumerate(tokens))


def test_perplexity_is_that_of_the_unsteered_model(model, monkeypatch):
    texts = [PROMPT[:7], [], PROMPT[3:5], PROMPT[9:20]]
    found = perplexities(model, PROMPT, texts)
    monkeypatch.setattr(steering, "LOGITS_AT_ONCE", 1)  # one text at a time
    one_at_a_time = perplexities(model, PROMPT, texts)
    assert found[1] is one_at_a_time[1] is None
    for i in (0, 2, 3):
        expected = np.exp(-log_p(model, torch.zeros(WIDTH), PROMPT, texts[i]) / len(texts[i]))
        assert found[i] == pytest.approx(expected, rel=1e-4) == one_at_a_time[i]


def test_projected_out_directions_are_gone(model):
    layers = list(range(len(find_blocks(model))))
    with torch.inference_mode(), project_out(model, layers, 3 * PUSHES[2]):
        with read_residual(model, layers, lambda hidden: hidden @ PUSHES[2] / PUSHES[2].norm()) as along:
            model(torch.tensor([PROMPT, PROMPT]))
    for values in along.values():
        assert values.shape == (2, len(PROMPT)) and values.abs().max() < 1e-4


def test_the_cache_is_never_reallocated(model):
    uniforms = uniform_numbers(2)
    cache = copy_rows(read_prompt(model, PROMPT, LAYER, PUSHES), [0, 2], len(PROMPT) - 1, room=10)
    before = [layer.all_keys.data_ptr() for layer in cache.layers]
    sample_tokens(model, cache, PROMPT[-1], LAYER, PUSHES[[0, 2]], uniforms, 1.0, set())
    assert [layer.all_keys.data_ptr() for layer in cache.layers] == before
    assert cache.get_seq_length() == len(PROMPT) - 1 + 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half_precision(dtype):
    model = random_model("llama", FAMILIES["llama"]).to(dtype)
    texts, cache, _ = sample(model, [0, 1, 2], uniform_numbers(3))
    assert cache.layers[0].all_keys.dtype == dtype and all(len(text) == 10 for text in texts)
    with torch.inference_mode(), steer(model, LAYER, PUSHES[2], [0.0]):
        steered = model(torch.tensor([PROMPT])).logits
    assert steered.dtype == dtype


@pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="needs bitsandbytes: pip install -e '.[cuda]' (it runs on a CPU, too)")
@pytest.mark.parametrize("packing, dtype", [("load_in_4bit", torch.uint8), ("load_in_8bit", torch.int8)])
def test_packed_weights_are_read_and_steered(tmp_path, packing, dtype):
    width = 64  # bitsandbytes packs 64 numbers at a time
    random_model("llama", FAMILIES["llama"] | {"hidden_size": width}).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    spec = dataclasses.replace(SPEC, random=None, folder=str(tmp_path), blocks=4, layers=[LAYER], dtype="float16", **{packing: True})
    model, tokenizer = load_model(spec)
    assert find_blocks(model)[LAYER].mlp.up_proj.weight.dtype == dtype
    assert loaded_bytes(spec, empty_model(spec)) == pytest.approx(model.get_memory_footprint(), rel=0.001)

    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        states = model(ids, output_hidden_states=True).hidden_states[LAYER + 1][0].float().mean(dim=0)
    read = extract(model, tokenizer, [tokenizer.decode(PROMPT), "A longer text, so that the other one is padded."], [LAYER])
    np.testing.assert_allclose(read[0, 0], states, atol=1e-3)

    pushes = torch.tensor(np.outer([-6.0, 0.0, 6.0], random_direction(width, "test")), dtype=torch.float32)
    doses, uniforms = [0, 1, 2], uniform_numbers(3, steps=6)
    texts, _, _ = sample(model, doses, uniforms, pushes=pushes)
    assert texts == [without_cache(model, pushes[dose], uniforms[row]) for row, dose in enumerate(doses)]
    assert len(set(map(tuple, texts))) == 3


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_that_is_spread_over_devices_has_no_device_of_its_own(kind, monkeypatch):
    "On one machine without GPUs every block is on the CPU, but each with accelerate's hooks around it, and `model.device` is of no use."
    model = random_model(kind, FAMILIES[kind])
    texts, uniforms = ["One text.", "Another one, which is longer."], uniform_numbers(3, steps=6)

    def read_and_steer(model):
        read = extract(model, byte_tokenizer(), texts, [0, LAYER, 2])
        steered, cache, places = sample(model, [0, 1, 2], uniforms)
        odds = log_odds(model, cache, places, PROMPT, steered, LAYER, PUSHES, {"positive": PROMPT[:4], "negative": PROMPT[4:9]})
        return read, steered, odds, perplexities(model, PROMPT, steered)

    expected = read_and_steer(model)
    decoder = next(name for name, module in model.named_children() if module is model.get_decoder())
    blocks = next(name for name, module in model.get_decoder().named_children() if module is find_blocks(model))
    others = [f"{decoder}.{name}" for name, _ in model.get_decoder().named_children() if name != blocks]
    places = [*others, *[f"{decoder}.{blocks}.{number}" for number in range(4)], "lm_head"]
    spread = dispatch_model(model, dict.fromkeys(places, "cpu"), force_hooks=True, skip_keys=model._skip_keys_device_placement)
    assert all(hasattr(block, "_hf_hook") for block in find_blocks(spread))
    monkeypatch.setattr(type(model), "device", property(lambda self: torch.device("meta")))
    found = read_and_steer(spread)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1:] == expected[1:]


def test_noise_follows_the_distribution(llama):
    "Many draws of a next token against its probabilities."
    with torch.inference_mode():
        logits = llama(torch.tensor([PROMPT])).logits[:, -1]
    uniforms = torch.tensor(np.random.default_rng(0).random(20_000))
    drawn = steering.draw(logits.expand(len(uniforms), -1), uniforms, temperature=0.7)
    shares = torch.bincount(drawn, minlength=logits.shape[1]) / len(drawn)
    expected = torch.softmax(logits[0] / 0.7, dim=-1)
    assert (shares - expected).abs().max() < 4 * (expected.max() / len(drawn)) ** 0.5


def test_a_chat_template_does_not_double_the_first_token():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{% for turn in messages %}{{ turn.content }}{% endfor %}>"
    tokenizer.add_bos_token = True
    ids = steering.encode_prompt(tokenizer, "What now?", chat_template=True)
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id


# ---- the sweep: a folder, its file and interruptions

SMOKE = load_preset("smoke")
SPEC = SMOKE.models["tiny-llama"]
CONCEPT = load_concept("empathy")
PROBES = np.stack([random_direction(WIDTH, "made-up probe", layer) for layer in SPEC.layers])
SEPARATIONS = np.full(len(SPEC.layers), 3.0)
OPTIONS = (SMOKE, SPEC, CONCEPT, PROBES, SEPARATIONS)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return sweep(*OPTIONS, tmp_path_factory.mktemp("unbroken")).read_bytes()


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)  # as in conftest: on what a line was made stands in it
from empathy_probes import steering
sys.path.insert(0, {tests!r})
from test_steering import OPTIONS
append, appended = steering.append_line, 0
def append_and_die(path, row):
    global appended
    if path.name == "generations.jsonl":
        if appended == {lines}:
            with open(path, "ab") as file:
                file.write(b'{{"model": "tiny-ll')
            os.kill(os.getpid(), signal.SIGKILL)
        appended += 1
    append(path, row)
steering.append_line = append_and_die
steering.sweep(*OPTIONS, {folder!r})
"""


@pytest.mark.parametrize("lines", [7])  # in the middle of the second batch of five
def test_a_killed_sweep_goes_on_to_the_same_file(tmp_path, unbroken, lines):
    script = KILLED.format(tests=os.path.dirname(__file__), lines=lines, folder=str(tmp_path))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    path = tmp_path / "generations.jsonl"
    assert path.read_bytes().count(b"\n") == lines and not path.read_bytes().endswith(b"\n")
    sweep(*OPTIONS, tmp_path)
    assert path.read_bytes() == unbroken


def test_lines_can_be_lost_anywhere(tmp_path, unbroken):
    lines = unbroken.splitlines(keepends=True)
    path = tmp_path / "generations.jsonl"
    path.write_bytes(b"".join(lines[:3] + lines[11:]))
    sweep(*OPTIONS, tmp_path)
    assert sorted(path.read_bytes().splitlines()) == sorted(unbroken.splitlines())
    table = plan(*OPTIONS)
    assert load_generations(path, table).fingerprint.unique().tolist() == table.fingerprint.tolist()


def test_a_finished_sweep_loads_no_model(tmp_path, unbroken, monkeypatch):
    (tmp_path / "generations.jsonl").write_bytes(unbroken)
    monkeypatch.setattr(steering, "load_model", None)
    sweep(*OPTIONS, tmp_path)
    assert (tmp_path / "generations.jsonl").read_bytes() == unbroken


def test_a_damaged_line_is_named(tmp_path, unbroken):
    lines = unbroken.splitlines(keepends=True)
    path = tmp_path / "generations.jsonl"
    path.write_bytes(lines[0] + lines[1][:40] + b"\n" + lines[2])
    with pytest.raises(ValueError, match=r"generations.jsonl, line 2: damaged"):
        sweep(*OPTIONS, tmp_path)


def test_a_full_disk_loses_only_the_line_it_hit(tmp_path, unbroken, monkeypatch):
    append, count = steering.append_line, 0

    def disk_full(path, row):
        nonlocal count
        count += path.name == "generations.jsonl"
        if count == 4:
            with open(path, "ab") as file:
                file.write(json.dumps(row).encode()[:50])
            raise OSError(28, "No space left on device")
        append(path, row)

    monkeypatch.setattr(steering, "append_line", disk_full)
    with pytest.raises(OSError, match="No space left"):
        sweep(*OPTIONS, tmp_path)
    monkeypatch.setattr(steering, "append_line", append)
    assert sweep(*OPTIONS, tmp_path).read_bytes() == unbroken


@pytest.mark.parametrize(
    "change",
    [
        lambda preset, spec: (dataclasses.replace(preset, temperature=0.9), spec),
        lambda preset, spec: (dataclasses.replace(preset, samples=3), spec),
        lambda preset, spec: (dataclasses.replace(preset, alpha_unit="raw"), spec),
        lambda preset, spec: (preset, dataclasses.replace(spec, max_new_tokens=9)),
        lambda preset, spec: (preset, dataclasses.replace(spec, random=spec.random | {"seed": 3})),
        lambda preset, spec: (preset, dataclasses.replace(spec, dtype="bfloat16")),
    ],
    ids=["temperature", "samples", "alpha_unit", "max_new_tokens", "weights", "dtype"],
)
def test_a_changed_preset_takes_nothing_from_the_old_one(change):
    preset, spec = change(SMOKE, SPEC)
    old = {fingerprint(recipe) for recipe in recipes(*OPTIONS)}
    new = recipes(preset, spec, *OPTIONS[2:])
    assert not {fingerprint(recipe) for recipe in new if recipe["alpha"] != 0} & old


def test_new_alphas_keep_what_was_computed(tmp_path, unbroken):
    path = tmp_path / "generations.jsonl"
    path.write_bytes(unbroken)
    more = dataclasses.replace(SPEC, alphas=[-1, 0, 1, 2], steering_layers=[2])
    options = (SMOKE, more, *OPTIONS[2:])
    sweep(*options, tmp_path)
    assert path.read_bytes().startswith(unbroken)
    samples = load_generations(path, plan(*options))
    assert len(samples) == 3 * (4 + 3) * SMOKE.samples
    assert len(load_generations(path)) == (30 + 3 * 2) * SMOKE.samples


def test_two_runs_do_not_mix(tmp_path):
    script = f"import time; from empathy_probes.steering import lock_layers\nwith lock_layers({str(tmp_path)!r}, [2]): print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FolderInUse, match=f"process {other.pid} on "):
            sweep(*OPTIONS, tmp_path)
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
        assert sweep(*OPTIONS, tmp_path) == path
    assert path.read_bytes() == unbroken


SHARE = """
import dataclasses, sys, torch
torch.set_num_threads(1)
from empathy_probes.steering import sweep
sys.path.insert(0, {tests!r})
from test_steering import OPTIONS
preset, spec, *rest = OPTIONS
sweep(preset, dataclasses.replace(spec, steering_layers=[{layer}]), *rest, {folder!r})
"""


def test_jobs_share_a_models_layers(tmp_path, unbroken):
    "Two processes at once, a layer each, as on a cluster: the lines of an unbroken run, in whatever order, and no two mixed up."
    scripts = [SHARE.format(tests=os.path.dirname(__file__), layer=layer, folder=str(tmp_path)) for layer in SPEC.steering_layers]
    jobs = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) for script in scripts]
    for job in jobs:
        assert job.wait() == 0, job.stderr.read()
    assert sorted((tmp_path / "generations.jsonl").read_bytes().splitlines()) == sorted(unbroken.splitlines())


def test_batches_are_halved_when_memory_runs_out(tmp_path, unbroken, monkeypatch):
    tried = []

    def small_memory(model, tokenizer, batch, directions):
        tried.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("pretended")
        return generate_batch(model, tokenizer, batch, directions)

    monkeypatch.setattr(steering, "generate", small_memory)
    lines = [json.loads(line) for line in sweep(*OPTIONS, tmp_path).read_text().splitlines()]
    assert tried == [5] + [3, 2] * 6
    expected = [json.loads(line) for line in unbroken.splitlines()]
    assert [line["samples"] for line in lines] == [line["samples"] for line in expected]
    assert [len(line["batch"]) for line in lines] == [3, 3, 3, 2, 2] * 6


def test_max_rows_bounds_a_batch_but_not_below_one_condition(tmp_path):
    lines = [json.loads(line) for line in sweep(*OPTIONS, tmp_path, max_rows=1, batches=2).read_text().splitlines()]
    assert [len(line["batch"]) for line in lines] == [1, 1]


def test_a_line_says_how_to_make_it_again(unbroken):
    line = json.loads(unbroken.splitlines()[3])
    assert line["direction"] == "random" and line["strength"] == -3.0
    vectors = steering_directions(SPEC, PROBES, line["seed"])
    again = generate(*load_model(SPEC), [line], vectors)[0]
    assert again["samples"] == line["samples"]


def test_released_scenarios_have_no_continuations_and_no_log_odds(tmp_path):
    scenarios = {name: dataclasses.replace(scenario, continuations={}) for name, scenario in CONCEPT.scenarios.items()}
    concept = dataclasses.replace(CONCEPT, scenarios=scenarios)
    path = sweep(SMOKE, SPEC, concept, PROBES, SEPARATIONS, tmp_path, batches=1)
    assert load_generations(path).log_odds.isna().all()


def test_gpt2_runs_through_the_whole_sweep(tmp_path):
    spec = SMOKE.models["tiny-gpt2"]
    options = (SMOKE, spec, CONCEPT, PROBES, SEPARATIONS)
    samples = load_generations(sweep(*options, tmp_path), plan(*options))
    assert samples.log_odds.notna().all() and (samples.perplexity.notna() == (samples.tokens > 0)).all()
