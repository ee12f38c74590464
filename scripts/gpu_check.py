"""Two minutes on a machine with a CUDA device: does it run this project right, how fast, and how long will the preset `paper` take?

python scripts/gpu_check.py                     (or: make gpu-check)
python scripts/gpu_check.py --device cpu --model tiny-llama    the same on the CPU with a tiny model, to try this script

The model is as large as Qwen2.5-7B, and its weights are random, so nothing is downloaded. If the device has no room for it, it gets
fewer blocks, and the report says so. The last lines go into a report of a problem as they are.
"""
import argparse
import ctypes
import platform
import sys
import time
from math import ceil

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from empathy_probes.machine.batch import start
from empathy_probes.machine.concepts import load_concept
from empathy_probes.machine.generation import sample_tokens
from empathy_probes.machine.memory import paper_configs
from empathy_probes.machine.models import prepare_cuda
from empathy_probes.machine.plan import conditions_of
from empathy_probes.machine.presets import load_preset
from empathy_probes.machine.resources import WORKSPACE, extraction_tokens, rows_that_fit
from empathy_probes.machine.shared_prompts import Row
from empathy_probes.machine.steps import Texts, measure_steps, step_costs, sweep_seconds
from empathy_probes.machine.weights import byte_tokenizer, random_model
from empathy_probes.method.activations import extract_batches
from empathy_probes.method.directions import random_direction
from empathy_probes.method.residual_stream import find_blocks, input_device

PAPER, CONCEPT = load_preset("paper"), load_concept("empathy")
STEPS, SAMPLES, PROMPT_TOKENS = 20, PAPER.samples, 150
NOT_EQUAL = "NOT EQUAL, though nothing changed"
WITHOUT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def describe(device: str) -> dict[str, str]:
    "The machine, and what PyTorch sees of it."
    found = {"torch": torch.__version__, "python": platform.python_version(), "system": platform.platform()}
    if device == "cpu":
        return found | {"device": f"{platform.machine()} CPU, {torch.get_num_threads()} threads"}
    driver = ctypes.c_int(0)
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(driver))
    properties = torch.cuda.get_device_properties(0)
    return found | {
        "device": f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, compute capability {properties.major}.{properties.minor}",
        "CUDA": f"of PyTorch {torch.version.cuda}, of the driver {driver.value // 1000}.{driver.value % 1000 // 10}, cuDNN {torch.backends.cudnn.version()}",
        "bfloat16": "yes" if torch.cuda.is_bf16_supported(including_emulation=False) else "no",
    }


def load(device: str, name: str) -> tuple[PreTrainedModel, str]:
    "A model with random weights in the preset's precision, and what it is."
    if name in load_preset("smoke").models:
        return random_model(**load_preset("smoke").models[name].random).to(device), name
    config, dtype = paper_configs()[name], getattr(torch, PAPER.models[name].dtype)
    blocks = _blocks_that_fit(config, dtype.itemsize) if device == "cuda" else config.num_hidden_layers
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(with_blocks(config, blocks), dtype=dtype, attn_implementation="sdpa").eval()
    return model, f"as large as {name}, random {PAPER.models[name].dtype} weights, {blocks} of {config.num_hidden_layers} blocks"


def with_blocks(config: PreTrainedConfig, blocks: int) -> PreTrainedConfig:
    "The config of a model with fewer blocks."
    values = {key: value for key, value in config.to_dict().items() if key != "layer_types"}
    return AutoConfig.for_model(**values | {"num_hidden_layers": blocks})


def _blocks_that_fit(config: PreTrainedConfig, itemsize: int) -> int:
    "How many blocks of a model the free memory of the GPU has room for."
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    block = sum(parameter.numel() for parameter in find_blocks(model)[0].parameters()) * itemsize
    rest = model.num_parameters() * itemsize - block * config.num_hidden_layers
    fitting = int(torch.cuda.mem_get_info()[0] - 2 * WORKSPACE - rest) // block
    if fitting < 1:
        sys.exit(f"The GPU has no room for one block of {config.model_type} and its embeddings; try --model phi-3-mini-4k")
    return min(fitting, config.num_hidden_layers)


def timed_steps(model: PreTrainedModel, conditions: int, repeats: int = 2) -> tuple[float, list[list[int]]]:
    "Seconds of a step of writing, at its best, and the tokens that were written; every condition has its own push."
    device, layer = input_device(model), len(find_blocks(model)) // 2
    width = model.get_input_embeddings().embedding_dim
    direction = random_direction(width, "gpu check")
    prompt = [5 + number % 200 for number in range(PROMPT_TOKENS)]
    pushes = [{layer: np.float32(strength) * direction} for strength in np.linspace(-1, 1, conditions)]
    rows = [Row(prompt, push) for push in pushes for _ in range(SAMPLES)]
    uniforms = torch.tensor(np.random.default_rng(0).random((len(rows), STEPS)))
    best = float("inf")
    for _ in range(repeats):
        batch = start(model, rows, room=STEPS)
        _wait(device)
        begin = time.perf_counter()
        texts, _, _ = sample_tokens(batch, uniforms, 0.7)
        _wait(device)
        best = min(best, (time.perf_counter() - begin) / STEPS)
    return best, texts


def timed_reading(model: PreTrainedModel) -> float:
    "Tokens a second of extraction."
    texts = ["a" * PAPER.max_tokens] * (32 if torch.cuda.is_available() else 2)
    start = time.perf_counter()
    for _ in extract_batches(model, byte_tokenizer(), texts, [len(find_blocks(model)) // 2], PAPER.max_tokens):
        pass
    return len(texts) * PAPER.max_tokens / (time.perf_counter() - start)


def paper_minutes(model: PreTrainedModel, reading: float) -> dict[str, float]:
    "What each model of the preset `paper` takes without loading and downloads, if times follow the blocks."
    texts, longest = Texts(len(PAPER.scenarios), PROMPT_TOKENS, 0), max(spec.max_new_tokens for spec in PAPER.models.values())
    max_rows = rows_that_fit(model, longest + ceil(PROMPT_TOKENS / SAMPLES))
    costs = step_costs(measure_steps(model, max_rows, PROMPT_TOKENS, longest, SAMPLES))
    minutes = {}
    for key, spec in PAPER.models.items():
        steering = sweep_seconds(costs.scaled(spec.blocks / len(find_blocks(model))), PAPER, spec, texts)
        minutes[key] = (steering + extraction_tokens(PAPER, CONCEPT) / reading) / 60
    return minutes


def _wait(device: torch.device) -> None:
    "Until the device has done what it was given."
    if device.type == "cuda":
        torch.cuda.synchronize()


def report(device: str, name: str) -> str:
    "The check itself: a line per finding."
    lines = describe(device)
    if device == "cuda":
        prepare_cuda()
    model, what = load(device, name)
    conditions = len(conditions_of(PAPER.models["qwen2.5-7b"]))
    step, together = timed_steps(model, conditions)
    _, alone = timed_steps(model, 1, repeats=1)
    lines["model"] = what
    equal = sum(first == second for first, second in zip(together, alone))
    lines["a batch against its rows"] = f"{equal} of {len(alone)} texts are equal (in half precision a drawn token may differ)"
    again = timed_steps(model, conditions, repeats=1)[1]
    lines["the same batch again"] = "equal" if again == together else NOT_EQUAL
    lines[f"writing, {conditions * SAMPLES} rows"] = f"{step * 1000:.1f} ms a step, {conditions * SAMPLES / step:,.0f} tokens a second"
    if device == "cuda":
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, *WITHOUT_CUDNN], set_priority=True):
            slow, _ = timed_steps(model, conditions, repeats=1)
        prepare_cuda()
        lines["with attention by cuDNN"] = f"{slow / step:.1f} times as long, the first time"
    reading = timed_reading(model)
    lines["reading"] = f"{reading:,.0f} tokens a second"
    if device == "cuda":
        lines["peak memory"] = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    minutes = paper_minutes(model, reading)
    lines["the preset paper, by estimate"] = ", ".join(f"{key} {value:.1f} min" for key, value in minutes.items()) + ", and the downloads"
    return "\n".join(f"{key + ':':38} {value}" for key, value in lines.items())


def main() -> None:
    "Print the report; leave with an error if something is wrong."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--model", default="qwen2.5-7b", choices=[*PAPER.models, *load_preset("smoke").models])
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        hint = "Is there a driver (nvidia-smi)? Is this a build for CUDA"
        sys.exit(f"PyTorch {torch.__version__} sees no CUDA device here. {hint} (torch.version.cuda: {torch.version.cuda})?")
    found = report(options.device, options.model)
    print(found)
    sys.exit(int(NOT_EQUAL in found))


if __name__ == "__main__":
    main()
