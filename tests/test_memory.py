"The memory that a model needs: the stages are those of a sweep, a position is what a cache holds, and rows follow what is free."

import pytest
import torch
from conftest import FAMILIES
from test_cuda import SMOKE, SWEEP, spread, two_gpus

from empathy_probes.machine.memory import LiveBytes, fake_gpu, fake_model, stage_peaks
from empathy_probes.machine.plan import encode_continuation, recipes, sweep_pushes
from empathy_probes.machine.resources import LOGIT_BYTES, WORKSPACE, position_bytes, rows_that_fit
from empathy_probes.machine.sweep import generate_batch
from empathy_probes.machine.weights import byte_tokenizer, random_model


def test_the_stages_together_are_a_sweeps_batch(llama):
    "`stage_peaks` calls what `generate_batch` calls; if they part, another of its stages is the highest."
    batch = [recipe for recipe in recipes(SWEEP) if recipe["scenario"] == recipes(SWEEP)[0]["scenario"]]
    sides = [len(encode_continuation(byte_tokenizer(), text)) for text in batch[0]["continuations"].values()]
    size = {"prompt_tokens": len(batch[0]["prompt"]), "new_tokens": 4, "continuation_tokens": max(sides)}
    with fake_gpu() as memory:
        model = fake_model(llama.config, torch.float32)
        stages = stage_peaks(memory, model, layers=[0], layer=1, text_tokens=10, batch_tokens=10, rows=(len(batch), SMOKE.samples), **size)
    with fake_gpu() as memory:
        generate_batch(fake_model(llama.config, torch.float32), byte_tokenizer(), batch, sweep_pushes(SWEEP))
    assert memory.peak == pytest.approx(stages.peak.max(), rel=0.1)


def test_memory_that_is_let_go_is_subtracted():
    with torch.inference_mode(), LiveBytes("cpu") as memory:
        for _ in range(3):
            kept = torch.zeros(1000).view(10, 100)[3:]
            assert memory.live == 4000
            del kept
        assert (memory.live, memory.peak) == (0, 4000)
        memory.restart()
        assert memory.peak == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_the_memory_of_a_position_is_what_a_cache_holds(name):
    "In every family: heads that are shared, keys and values of different width, codes in their place."
    model = random_model(name, FAMILIES[name])
    with torch.inference_mode():
        layers = model(input_ids=torch.zeros(2, 5, dtype=torch.long), use_cache=True).past_key_values.layers
    assert sum(layer.keys.nbytes + layer.values.nbytes for layer in layers) == 2 * 5 * sum(position_bytes(model).values())


def test_rows_follow_the_gpu_that_is_shortest_of_memory(llama, monkeypatch):
    with fake_gpu():
        model = spread(fake_model(llama.config, torch.float32, two_gpus), two_gpus)
        size = {str(device): number for device, number in position_bytes(model).items()}
        assert size == dict.fromkeys(["cuda:0", "cuda:1"], 2 * 2 * 2 * 8 * 4)  # keys and values, two blocks, two heads of eight floats
        row = 100 * 256 + 259 * LOGIT_BYTES
        free = {"cuda:0": WORKSPACE + 10 * row, "cuda:1": WORKSPACE + 5 * row}
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[str(device)], 80 << 30))
        assert rows_that_fit(model, 100) == 5
        free["cuda:1"] = 0
        assert rows_that_fit(model, 100) == 1
