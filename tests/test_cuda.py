"The paths of CUDA without a GPU: fake tensors on one GPU and on two, and half precision on the CPU."

from dataclasses import replace
from itertools import chain, repeat

import numpy as np
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from conftest import FAMILIES

from empathy_probes.machine.concepts import load_concept
from empathy_probes.machine.generation import check_steerable, prediction_shifts, stream_norm
from empathy_probes.machine.memory import fake_gpu, fake_model
from empathy_probes.machine.plan import Sweep, recipes, sweep_pushes
from empathy_probes.machine.presets import load_preset
from empathy_probes.machine.sweep import generate_batch
from empathy_probes.machine.weights import byte_tokenizer, random_model
from empathy_probes.method.activations import extract_batches, token_norms
from empathy_probes.method.directions import random_direction
from empathy_probes.method.residual_stream import find_blocks, input_device, project_out

SMOKE = load_preset("smoke")
SPEC = replace(SMOKE.models["tiny-llama"], blocks=4, layers=[1, 2], steering_layers=[1], max_new_tokens=4)
PROBES = np.stack([random_direction(32, "made-up probe", layer) for layer in SPEC.layers])
SWEEP = Sweep(SMOKE, SPEC, load_concept("empathy"), PROBES, np.full(2, 3.0), byte_tokenizer())
TEXTS = ["A short text.", "A text that is quite a bit longer than the first one."]
PAPER_FAMILIES = ["llama", "qwen2", "phi3"]


def one_gpu(name: str) -> str:
    return "cuda:0"


def two_gpus(name: str) -> str:
    "The last two blocks, the last norm and the output layer are on the second GPU."
    second = ("layers.2", "layers.3", "model.norm", "lm_head")
    return "cuda:1" if any(part in name for part in second) else "cuda:0"


def spread(model, device_of):
    "A model with accelerate's hooks, which move what a part is given to where the part is, as `device_map` puts them there."
    blocks = {f"model.layers.{number}" for number in range(len(find_blocks(model)))}
    for name, module in model.named_modules():
        if name in blocks | {"model.norm", "lm_head"}:
            add_hook_to_module(module, AlignDevicesHook(execution_device=device_of(name), io_same_device=name == "lm_head"))
    add_hook_to_module(model, AlignDevicesHook(io_same_device=True))
    return model


def everything(model):
    "Whatever the sections ask of a model."
    for texts, values in extract_batches(model, byte_tokenizer(), TEXTS, [1, 3]):
        assert values.device.type == "cpu" and values.shape == (len(texts), 2, 3, 32)
    token_norms(model, byte_tokenizer(), TEXTS, [1, 3])
    ids, push = [5, 6, 7, 8], {1: PROBES[0]}
    stream_norm(model, ids, 1)
    prediction_shifts(model, ids, [8, 9], [push, push])
    with project_out(model, [0, 1, 2, 3], torch.ones(32)):
        model(torch.tensor([ids], device=input_device(model)), use_cache=False)
    for batch in [recipes(SWEEP), recipes(replace(SWEEP, baselines_at=1))]:
        results = generate_batch(model, byte_tokenizer(), batch, sweep_pushes(SWEEP))
        assert [len(result["log_odds"]) for result in results] == [SMOKE.samples] * len(batch)


@pytest.mark.parametrize(
    "family, device_of, ends",
    [(family, device_of, False) for family in PAPER_FAMILIES for device_of in (one_gpu, two_gpus)] + [("llama", one_gpu, True)],
)
def test_nothing_mixes_devices(family, device_of, ends):
    "Every third token ends a text, or none does: rows that end are moved about in the cache."
    tokens = chain.from_iterable(repeat([40, 41, 2])) if ends else repeat(40)
    config = random_model(family, FAMILIES[family]).config
    with fake_gpu(tokens):
        model = fake_model(config, device_of=device_of)
        everything(spread(model, device_of) if device_of is two_gpus else model)


def test_mixing_devices_would_be_noticed():
    with fake_gpu():
        here, there, second = torch.ones(3), torch.ones(3, device="cuda"), torch.ones(3, device="cuda:1")
        for other in (here, second):
            with pytest.raises(RuntimeError, match="Unhandled FakeTensor Device Propagation|on the same device"):
                there + other
        model = fake_model(random_model("llama", FAMILIES["llama"]).config)
        with pytest.raises(RuntimeError, match="Unhandled FakeTensor Device Propagation|on the same device"):
            model(torch.tensor([[5, 6, 7]]))


def test_a_model_on_two_gpus_without_hooks_would_be_noticed():
    "So the hooks of the test above are needed, and it is not blind to the second GPU."
    with fake_gpu():
        model = fake_model(random_model("llama", FAMILIES["llama"]).config, device_of=two_gpus)
        with pytest.raises(RuntimeError, match="Unhandled FakeTensor Device Propagation|on the same device"):
            model(torch.tensor([[5, 6, 7]], device="cuda:0"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", PAPER_FAMILIES)
def test_half_precision_runs_and_a_batch_is_near_its_rows(family, dtype):
    "Sums of another order differ in the last digits of half precision, so a drawn token may differ; nothing else does."
    model = random_model(family, FAMILIES[family]).to(dtype)
    everything(model)
    check_steerable(model)
    [(order, together)] = list(extract_batches(model, byte_tokenizer(), TEXTS, [1, 3]))
    for row, number in zip(together, order):
        [(_, alone)] = list(extract_batches(model, byte_tokenizer(), [TEXTS[number]], [1, 3]))
        torch.testing.assert_close(row, alone[0], rtol=0.02, atol=0.02)
    for result in generate_batch(model, byte_tokenizer(), recipes(SWEEP), sweep_pushes(SWEEP)):
        assert np.isfinite(np.array(result["log_odds"] + [value for value in result["perplexity"] if value is not None])).all()
