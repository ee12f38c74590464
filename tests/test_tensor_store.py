"The store of activations: what is kept, what is told apart, and what survives faults."

import json
import multiprocessing
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tokenizers import normalizers
from transformers.utils import chat_template_utils

from empathy_probes.method import activations as method_activations
from empathy_probes.method.activations import extract
from empathy_probes.machine.models import load_model
from empathy_probes.machine.presets import ModelSpec, load_preset
from empathy_probes.machine.tensor_store import activations, add_to_store, load_probes, load_store, save_probes
from empathy_probes.machine.sources import folder_files, weights_identity
from empathy_probes.machine.weights import random_model
from empathy_probes.machine import sources, tensor_store

SMOKE = load_preset("smoke")
SPEC = SMOKE.models["tiny-llama"]
TEXTS = [f"Text number {number}, {'with more words ' * number}" for number in range(6)]


@pytest.fixture
def computed(monkeypatch):
    "The texts that pass through a model, in a list that grows."
    texts = []
    original = tensor_store.extract_batches

    def watched(model, tokenizer, some, *arguments, **options):
        texts.extend(some)
        return original(model, tokenizer, some, *arguments, **options)

    monkeypatch.setattr(tensor_store, "extract_batches", watched)
    return texts


def no_model(*arguments):
    raise AssertionError("a model was loaded although all activations were kept")


def expected(spec=SPEC, layers=(1, 2, 3, 4, 5), **options):
    "The activations of the texts, computed without a store."
    return extract(*load_model(spec), TEXTS, list(layers), "mean_without_first", **options)


def test_a_second_call_loads_no_model(tmp_path, monkeypatch):
    first = activations(SMOKE, SPEC, TEXTS, tmp_path)
    monkeypatch.setattr(tensor_store, "shared_model", no_model)
    np.testing.assert_array_equal(activations(SMOKE, SPEC, TEXTS, tmp_path), first)
    np.testing.assert_array_equal(activations(SMOKE, SPEC, TEXTS[::-2], tmp_path), first[::-2])
    np.testing.assert_allclose(first, expected(), rtol=1e-5, atol=1e-6)


def test_a_changed_text_costs_only_itself(tmp_path, computed):
    activations(SMOKE, SPEC, TEXTS, tmp_path)
    changed = [*TEXTS[:3], "Changed.", *TEXTS[4:]]
    assert computed == TEXTS
    vectors = activations(SMOKE, SPEC, changed, tmp_path)
    assert computed == [*TEXTS, "Changed."]
    np.testing.assert_allclose(vectors[3], extract(*load_model(SPEC), ["Changed."], SPEC.layers, "mean_without_first")[0], rtol=1e-5, atol=1e-6)


def test_a_repeated_text_is_computed_once(tmp_path, computed):
    vectors = activations(SMOKE, SPEC, ["twice", "once", "twice"], tmp_path)
    assert computed == ["twice", "once"]
    np.testing.assert_array_equal(vectors[0], vectors[2])


@pytest.mark.parametrize(
    "preset, spec, layers, options",
    [
        (replace(SMOKE, max_tokens=10), SPEC, SPEC.layers, {"max_tokens": 10}),
        (SMOKE, replace(SPEC, layers=[3, 1]), [3, 1], {}),
        (SMOKE, replace(SPEC, layer_convention="hidden_state"), [0, 1, 2, 3, 4], {}),
        (SMOKE, replace(SPEC, random=SPEC.random | {"seed": 7}), SPEC.layers, {}),
        (SMOKE, replace(SPEC, dtype="bfloat16"), SPEC.layers, {}),
    ],
    ids=["max_tokens", "layers", "layer_convention", "weights", "dtype"],
)
def test_options_do_not_collide_in_one_store(tmp_path, preset, spec, layers, options):
    "A key that forgot an option would hand out what was computed under another."
    before = activations(SMOKE, SPEC, TEXTS, tmp_path)
    other = activations(preset, spec, TEXTS, tmp_path)
    close = {"rtol": 0.05, "atol": 0.01} if spec.dtype == "bfloat16" else {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(other, expected(spec, layers, **options), **close)
    assert other.shape != before.shape or not np.array_equal(other, before)
    np.testing.assert_array_equal(activations(SMOKE, SPEC, TEXTS, tmp_path), before)


def test_a_chat_template_does_not_collide_with_the_plain_text(tmp_path, tokenizer):
    "Both are kept in one store; the template's own beginning-of-text token comes once."
    tokenizer.chat_template = "{{ bos_token }}you: {{ messages[0].content }}{% if add_generation_prompt %} me:{% endif %}"
    spec = local_model(tmp_path / "model", tokenizer)
    plain = activations(SMOKE, spec, TEXTS, tmp_path)
    templated = activations(SMOKE, spec, TEXTS, tmp_path, chat_template=True)
    assert len(load_store(tmp_path / "activations.safetensors")) == 2 * len(TEXTS)
    np.testing.assert_array_equal(activations(SMOKE, spec, TEXTS, tmp_path), plain)
    by_hand = [f"<s>you: {text} me:" for text in TEXTS]
    np.testing.assert_allclose(templated, extract(*load_model(spec), by_hand, [3], "mean_without_first"), rtol=1e-5, atol=1e-6)
    assert not np.allclose(templated, plain, rtol=1e-2, atol=1e-3)


def test_a_changed_chat_template_is_another_model(tmp_path, tokenizer):
    "transformers keeps the template in a file of its own."
    tokenizer.chat_template = "{{ messages[0].content }}"
    spec = local_model(tmp_path / "model", tokenizer)
    before = weights_identity(spec)
    (tmp_path / "model/chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert weights_identity(spec) != before


def test_a_template_that_writes_the_date_is_read_alike_on_every_day(tmp_path, tokenizer, monkeypatch, computed):
    "Llama 3's template does."
    tokenizer.chat_template = "{{ strftime_now('%d %B %Y') }}: {{ messages[0].content }}"
    spec = local_model(tmp_path / "model", tokenizer)

    def read(day):
        monkeypatch.setattr(chat_template_utils, "datetime", type("Day", (), {"now": lambda: datetime(2031, 1, day)}))
        return activations(SMOKE, spec, TEXTS[:2], tmp_path, chat_template=True)

    monday, tuesday = read(6), read(7)
    np.testing.assert_array_equal(monday, tuesday)
    assert len(computed) == 2
    by_hand = [f"01 January 2025: {text}" for text in TEXTS[:2]]
    np.testing.assert_allclose(tuesday, extract(*load_model(spec), by_hand, [3], "mean_without_first"), rtol=1e-5, atol=1e-6)


def test_another_tokenizer_of_the_same_weights_is_another_text(tmp_path, tokenizer, monkeypatch):
    "Not all of a tokenizer's files are a part of the weights' identity."
    plain = local_model(tmp_path / "plain", tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    lower = local_model(tmp_path / "lower", tokenizer)
    monkeypatch.setattr(tensor_store, "weights_identity", lambda spec: "the same")
    as_written = activations(SMOKE, plain, ["HELP", "help"], tmp_path)
    lowered = activations(SMOKE, lower, ["HELP", "help"], tmp_path)
    np.testing.assert_array_equal(lowered[0], as_written[1])
    assert not np.array_equal(lowered[0], as_written[0])


def test_poolings_are_kept_together_and_told_apart(tmp_path, monkeypatch):
    activations(SMOKE, SPEC, TEXTS, tmp_path, "last")
    monkeypatch.setattr(tensor_store, "shared_model", no_model)
    model, tokenizer = load_model(SPEC)
    for pooling in ("mean", "mean_without_first", "last"):
        alone = extract(model, tokenizer, TEXTS, SPEC.layers, pooling)
        np.testing.assert_allclose(activations(SMOKE, SPEC, TEXTS, tmp_path, pooling), alone, rtol=1e-5, atol=1e-6)


def test_a_text_without_a_second_token_is_named(tmp_path):
    with pytest.raises(ValueError, match="'x' has too few tokens for the pooling 'mean_without_first'; leave the text out"):
        activations(SMOKE, SPEC, ["fine", "x"], tmp_path)
    assert np.isfinite(activations(SMOKE, SPEC, ["fine", "x"], tmp_path, "mean")).all()


def test_an_unknown_pooling_is_refused_before_anything_is_computed(tmp_path, computed):
    with pytest.raises(ValueError, match="unknown pooling 'median'; use one of"):
        activations(SMOKE, SPEC, TEXTS, tmp_path, "median")
    assert computed == []


def test_activations_that_are_not_numbers_say_where_and_what_to_do(tmp_path, tokenizer):
    "A value above 65,504 is infinite in float16. Nothing of it is kept."
    spec = replace(local_model(tmp_path / "model", tokenizer, loud_block=2), layers=[1, 2, 3])
    assert np.isfinite(activations(SMOKE, spec, TEXTS, tmp_path)).all()
    kept = len(load_store(tmp_path / "activations.safetensors"))
    problem = r"at layer 2, activations in float16 are not finite numbers, first for the text 'Text number \d.*; use bfloat16"
    with pytest.raises(FloatingPointError, match=problem):
        activations(SMOKE, replace(spec, dtype="float16"), TEXTS, tmp_path)
    assert len(load_store(tmp_path / "activations.safetensors")) == kept
    assert np.isfinite(activations(SMOKE, replace(spec, dtype="bfloat16"), TEXTS, tmp_path)).all()


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", None], ids=["empty", "garbage", "cut short"])
def test_a_damaged_store_says_what_to_do(tmp_path, content):
    activations(SMOKE, SPEC, TEXTS, tmp_path)
    store = tmp_path / "activations.safetensors"
    store.write_bytes(store.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ValueError, match=r"activations\.safetensors: damaged .*delete it"):
        activations(SMOKE, SPEC, TEXTS, tmp_path)


def test_a_store_that_something_else_wrote_says_what_to_do(tmp_path):
    for name in ("activations", "probes"):
        save_file({"mean_difference": np.ones((1, 2)), "separations": np.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"activations\.safetensors: has no checksum, so something else wrote it; delete it"):
        activations(SMOKE, SPEC, TEXTS, tmp_path)
    with pytest.raises(ValueError, match=r"probes\.safetensors: has no checksum, so something else wrote it; delete it"):
        load_probes(tmp_path / "probes.safetensors", {"model": "toy"})


def test_no_flipped_bit_goes_unnoticed_in_probes(tmp_path):
    path, made_from = tmp_path / "probes.safetensors", {"model": "toy"}
    save_probes(path, {"mean_difference": np.array([[0.6, 0.8]])}, np.array([5.0]), made_from)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        path.write_bytes(flipped(whole, bit))
        with pytest.raises(ValueError, match=r"probes\.safetensors: (damaged|has no checksum).*; delete it and run"):
            load_probes(path, made_from)


def test_a_flipped_bit_in_stored_activations_is_noticed(tmp_path):
    activations(SMOKE, SPEC, TEXTS, tmp_path)
    store = tmp_path / "activations.safetensors"
    store.write_bytes(flipped(store.read_bytes(), 8 * store.stat().st_size - 100))
    with pytest.raises(ValueError, match=r"activations\.safetensors: damaged .*checksum.*; delete it"):
        activations(SMOKE, SPEC, TEXTS, tmp_path)


def flipped(content: bytes, bit: int) -> bytes:
    "The content with one bit changed."
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_an_interrupted_extraction_goes_on_where_it_was(tmp_path, computed, monkeypatch):
    monkeypatch.setitem(method_activations.BATCH_TOKENS, "cpu", 200)
    forward, passes = method_activations._forward, []

    def interrupted(*arguments):
        passes.append(len(passes))
        if len(passes) == 3:
            raise KeyboardInterrupt
        return forward(*arguments)

    monkeypatch.setattr(method_activations, "_forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        activations(SMOKE, SPEC, TEXTS, tmp_path)
    kept = load_store(tmp_path / "activations.safetensors")
    assert 0 < len(kept) < len(TEXTS)
    computed.clear()
    vectors = activations(SMOKE, SPEC, TEXTS, tmp_path)
    assert len(computed) == len(TEXTS) - len(kept)
    np.testing.assert_allclose(vectors, expected(), rtol=1e-5, atol=1e-6)


def add_many(store, process: int, together) -> None:
    "Add 20 rows, one at a time, from another process."
    together.wait()
    for number in range(20):
        add_to_store(store, {f"{process}-{number}": torch.full((1, 3, 2), 100.0 * process + number)})


def test_two_processes_at_once_lose_nothing(tmp_path):
    store = tmp_path / "activations.safetensors"
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(2)  # both have started up before either adds
    processes = [context.Process(target=add_many, args=(store, number, together)) for number in (1, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    kept = load_store(store)
    assert {key: row[0, 0, 0].item() for key, row in kept.items()} == {f"{p}-{n}": 100.0 * p + n for p in (1, 2) for n in range(20)}


def local_model(folder, tokenizer, loud_block: int | None = None) -> ModelSpec:
    "A model in a folder of the user's own; one of its blocks may write very large numbers."
    model = random_model("llama", SPEC.random["config"])
    if loud_block is not None:
        model.model.layers[loud_block].mlp.down_proj.weight.data *= 1e7
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelSpec(key="local", title="Local", blocks=6, layers=[3], folder=str(folder))


def test_weights_in_a_folder_are_hashed_once_and_not_for_every_text(tmp_path, tokenizer, monkeypatch):
    "Hashing the 15 GB of a real model takes longer than reading a text with it."
    spec = local_model(tmp_path / "model", tokenizer)
    original, hashed = sources.pooch.file_hash, []
    monkeypatch.setattr(sources.pooch, "file_hash", lambda path: hashed.append(path) or original(path))
    activations(SMOKE, spec, TEXTS, tmp_path)
    assert sorted(hashed) == folder_files(spec)


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_keeps_the_first_512_tokens(tmp_path, tokenizer, side):
    "Some models' tokenizers cut off the beginning unless told not to."
    spec = local_model(tmp_path / "model", tokenizer)
    settings = tmp_path / "model/tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"truncation_side": side}))
    beginning = "one two " * 64
    assert len(beginning) == SMOKE.max_tokens == 512  # a byte is a token
    whole, longer, other_end = activations(SMOKE, spec, [beginning, beginning + "z" * 400, "z" * 400 + beginning], tmp_path)
    np.testing.assert_allclose(longer, whole, rtol=1e-5, atol=1e-6)
    assert not np.allclose(other_end, whole, rtol=1e-2, atol=1e-3)
