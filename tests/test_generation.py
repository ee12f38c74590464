"Generation: families, batches, caches and precisions; what the notebooks' small examples do not show."

import importlib.util
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from conftest import FAMILIES

from empathy_probes.method.activations import extract
from empathy_probes.method.directions import random_direction
from empathy_probes.method.residual_stream import add_vectors, find_blocks, project_out, read_residual
from empathy_probes.method.steering import encode_prompt, steer
from empathy_probes.machine.batch import Batch, start
from empathy_probes.machine.generation import draw, log_odds, perplexities, sample_tokens
from empathy_probes.machine.models import load_model
from empathy_probes.machine.presets import load_preset
from empathy_probes.machine.shared_prompts import Row
from empathy_probes.machine.weights import byte_tokenizer, empty_model, loaded_bytes, random_model
from empathy_probes.machine import generation
from empathy_probes.method import activations

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


def steered_rows(doses, pushes=PUSHES):
    return [Row(PROMPT, {LAYER: pushes[dose].numpy()}) for dose in doses]


def sample(model, doses, uniforms, temperature=1.0, end_ids=(), pushes=PUSHES):
    "Steered texts: tokens, the batch afterwards, and where each text is in it."
    batch = start(model, steered_rows(doses, pushes), room=uniforms.shape[1])
    texts, places, _ = sample_tokens(batch, uniforms, temperature, end_ids)
    return texts, batch, places


@torch.inference_mode()
def without_cache(model, push, uniforms, temperature=1.0):
    "One steered text, every token from a pass over the whole text."
    ids = list(PROMPT)
    for number in uniforms:
        with add_vectors(model, LAYER, push[None]):
            logits = model(torch.tensor([ids]), use_cache=False).logits[:, -1]
        ids.append(draw(logits, number[None], temperature).item())
    return ids[len(PROMPT) :]


def test_a_batch_equals_its_rows_and_the_model_without_cache(model):
    doses, uniforms = [0, 1, 2, 2], uniform_numbers(4, steps=6)
    texts, _, _ = sample(model, doses, uniforms)
    for row, dose in enumerate(doses):
        assert sample(model, [dose], uniforms[row : row + 1])[0] == [texts[row]]
        assert without_cache(model, PUSHES[dose], uniforms[row]) == texts[row]
    assert len(set(map(tuple, texts))) == 4


def test_the_prompt_is_read_once_and_ended_rows_stop_costing(llama):
    doses, uniforms = [0, 0, 1, 1, 2, 2], uniform_numbers(6)
    full, _, _ = sample(llama, doses, uniforms)
    end = {full[0][2], full[3][6]}
    fed = []
    handle = find_blocks(llama)[0].register_forward_hook(lambda block, inputs, output: fed.append(tuple(inputs[0].shape[:2])))
    texts, _, _ = sample(llama, doses, uniforms, end_ids=end)
    handle.remove()
    going_on = [sum(len(text) >= step for text in texts) for step in range(10)]
    assert going_on[0] == 6 and going_on[-1] < 6
    assert fed == [(1, len(PROMPT) - 1)] + [(rows, 1) for rows in going_on if rows]


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
    texts, batch, places = sample(model, doses, uniforms, end_ids=end)
    assert texts == [text[: next((i for i, token in enumerate(text) if token in end), len(text))] for text in full]
    assert len(set(map(len, texts))) > 2 and sorted(places) == list(range(6))
    sides = {"positive": PROMPT[:4], "negative": PROMPT[4:9]}
    odds, per_token = log_odds(batch, places, texts, [sides] * 6)
    for text, dose, value, of_token in zip(texts, doses, odds, per_token):
        expected = [log_p(model, PUSHES[dose], [*PROMPT, *text], side) for side in sides.values()]
        assert value == pytest.approx(expected[0] - expected[1], abs=1e-4)
        assert of_token == pytest.approx(expected[0] / 4 - expected[1] / 5, abs=1e-4)


@torch.inference_mode()
def log_p(model, push, before, tokens):
    with add_vectors(model, LAYER, push[None]):
        table = model(torch.tensor([[*before, *tokens]])).logits[0].log_softmax(-1)
    return sum(table[len(before) - 1 + i, token].item() for i, token in enumerate(tokens))


def test_perplexity_is_that_of_the_unsteered_model(model, monkeypatch):
    texts = [PROMPT[:7], [], PROMPT[3:5], PROMPT[9:20]]
    found = perplexities(model, [PROMPT] * len(texts), texts)
    monkeypatch.setattr(generation, "LOGITS_AT_ONCE", 1)  # one text at a time
    one_at_a_time = perplexities(model, [PROMPT] * len(texts), texts)
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half_precision(dtype):
    model = random_model("llama", FAMILIES["llama"]).to(dtype)
    texts, batch, _ = sample(model, [0, 1, 2], uniform_numbers(3))
    assert {each.dtype for _, *kept in batch.own for each in kept} == {dtype} and all(len(text) == 10 for text in texts)
    with torch.inference_mode(), steer(model, LAYER, PUSHES[2], [0.0]):
        steered = model(torch.tensor([PROMPT])).logits
    assert steered.dtype == dtype


@pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="needs bitsandbytes: pip install -e '.[cuda]' (it runs on a CPU, too)")
@pytest.mark.parametrize("packing, dtype", [("load_in_4bit", torch.uint8), ("load_in_8bit", torch.int8)])
def test_packed_weights_are_read_and_steered(tmp_path, packing, dtype):
    width = 64  # bitsandbytes packs 64 numbers at a time
    random_model("llama", FAMILIES["llama"] | {"hidden_size": width}).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    spec = replace(load_preset("smoke").models["tiny-llama"], random=None, folder=str(tmp_path), blocks=4, layers=[LAYER], dtype="float16", **{packing: True})
    model, tokenizer = load_model(spec)
    assert find_blocks(model)[LAYER].mlp.up_proj.weight.dtype == dtype
    packed = [module.weight for module in find_blocks(model).modules() if hasattr(module, "compute_dtype") or hasattr(module, "state")]
    scales = [weight.quant_state.absmax if packing == "load_in_4bit" else weight.SCB for weight in packed]
    needed = model.get_memory_footprint() + sum(scale.nbytes for scale in scales)
    assert loaded_bytes(spec, empty_model(spec)) == pytest.approx(needed, rel=0.001)
    assert packing == "load_in_8bit" or {weight.quant_type for weight in packed} == {"nf4"}

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
        steered, batch, places = sample(model, [0, 1, 2], uniforms)
        odds, _ = log_odds(batch, places, steered, [{"positive": PROMPT[:4], "negative": PROMPT[4:9]}] * 3)
        return read, steered, odds, perplexities(model, [PROMPT] * 3, steered)

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
    drawn = draw(logits.expand(len(uniforms), -1), uniforms, temperature=0.7)
    shares = torch.bincount(drawn, minlength=logits.shape[1]) / len(drawn)
    expected = torch.softmax(logits[0] / 0.7, dim=-1)
    assert (shares - expected).abs().max() < 4 * (expected.max() / len(drawn)) ** 0.5


def test_a_chat_template_does_not_double_the_first_token():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{% for turn in messages %}{{ turn.content }}{% endfor %}>"
    tokenizer.add_bos_token = True
    ids = encode_prompt(tokenizer, "What now?", chat_template=True)
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id


def test_likelihoods_copy_some_rows_and_halve_them_when_memory_runs_out(llama, monkeypatch):
    "A copy of all rows for both continuations could need more memory than all the steps before it."
    texts, batch, places = sample(llama, [0, 0, 1, 1, 2, 2], uniform_numbers(6))
    sides = [{"positive": PROMPT[:4], "negative": PROMPT[4:9]}] * 6
    (expected, _), copied, branch = log_odds(batch, places, texts, sides), [], Batch.branch

    def small_memory(batch, rows, *args, **options):
        copied.append(len(rows))
        if len(rows) > 2:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return branch(batch, rows, *args, **options)

    monkeypatch.setattr(Batch, "branch", small_memory)
    positions = 10 + 6  # of a text, and of the longer continuation behind its last token
    one_row = positions * sum(each[:, 0, :, :1].nbytes for _, *kept in batch.own for each in kept)
    monkeypatch.setattr(generation, "COPIED_AT_ONCE", 3 * one_row)
    assert log_odds(batch, places, texts, sides)[0] == pytest.approx(expected, abs=1e-5)
    assert copied == [3, 2, 1] * 4  # two times six texts


def test_a_number_that_is_none_at_a_padding_position_spoils_nothing(llama):
    "In half precision a padding token may overflow, and a mask that multiplies keeps what is not a number."
    texts = [PROMPT[:7], PROMPT[9:20]]
    expected = perplexities(llama, [PROMPT] * len(texts), texts)

    def spoil_padding(block, inputs, output):
        output = output.clone()
        if output.shape[1] == 12:  # the last token of the prompt, and the texts
            output[0, 8:] = torch.nan
        return output

    handle = llama.model.norm.register_forward_hook(spoil_padding)
    assert perplexities(llama, [PROMPT] * len(texts), texts) == expected
    handle.remove()


def test_values_that_are_not_finite_are_none_and_the_others_stay(llama):
    texts = [PROMPT[:7], PROMPT[9:20]]
    expected = perplexities(llama, [PROMPT] * len(texts), texts)

    def spoil_first_row(block, inputs, output):
        output = output.clone()
        output[0, 3] = torch.nan
        return output

    handle = llama.model.norm.register_forward_hook(spoil_first_row)
    found = perplexities(llama, [PROMPT] * len(texts), texts)
    handle.remove()
    assert found == [None, expected[1]]


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_a_push_that_is_too_large_is_an_error_at_every_temperature(llama, temperature):
    "The most likely of logits that are not numbers is some token, and would be stored as a sample."
    with pytest.raises(FloatingPointError, match="the push is too large for this precision"):
        sample(llama, [0], uniform_numbers(1), temperature=temperature, pushes=PUSHES * 1e38 * 10)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")])
def test_extraction_halves_a_batch_when_memory_runs_out(llama, error, monkeypatch):
    texts = ["One text.", "Another one, which is longer.", "A third one."]
    expected, forward = extract(llama, byte_tokenizer(), texts, [LAYER]), activations._forward

    def small_memory(model, tokens, mask, layers):
        if len(tokens) > 1:
            raise error
        return forward(model, tokens, mask, layers)

    monkeypatch.setattr(activations, "_forward", small_memory)
    np.testing.assert_allclose(extract(llama, byte_tokenizer(), texts, [LAYER]), expected, rtol=1e-4, atol=1e-6)
