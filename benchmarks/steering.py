"""Steered sampling of 45 rows, beside one row at a time without a cache and one `generate` call per alpha with the library steering-vectors.

python benchmarks/steering.py   (or: make bench)
All run in this process on the same model, prompt and direction, and no text ends early: on SmolLM2, and on random weights as large
as Qwen2.5-0.5B. The baselines are timed on a part of the work, because the whole takes them many minutes; tokens per second are
compared. The results are ratios; seconds depend on the machine.
"""
import numpy as np
import torch
from measure import matmul_rate, measure
from steering_vectors import SteeringVector
from transformers import AutoConfig, AutoModelForCausalLM

from empathy_probes.method.directions import random_direction
from empathy_probes.method.residual_stream import find_blocks
from empathy_probes.method.steering import encode_prompt, steer
from empathy_probes.machine.batch import start
from empathy_probes.machine.concepts import load_concept
from empathy_probes.machine.generation import sample_tokens
from empathy_probes.machine.models import load_model
from empathy_probes.machine.presets import load_preset
from empathy_probes.machine.shared_prompts import Row

ALPHAS, SAMPLES, TOKENS, LAYER = [-20, -10, -5, -3, 0, 3, 5, 10, 20], 5, 60, 15
LARGER = AutoConfig.for_model("qwen2", hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True)


def one_batch(model, prompt, direction):
    "All alphas and samples in one batch: the prompt is read once up to the steered block, and from there once an alpha."
    pushes = [{LAYER: np.float32(alpha) * direction.numpy()} for alpha in ALPHAS]
    rows = [Row(prompt, push) for push in pushes for _ in range(SAMPLES)]
    uniforms = torch.tensor(np.random.default_rng(0).random((len(rows), TOKENS)))
    texts, _, _ = sample_tokens(start(model, rows, room=TOKENS), uniforms, 0.7)
    return sum(map(len, texts))


def sample(model, prompt, **options):
    "transformers' own sampling, made to go on to the last token; how many tokens it gave."
    ids = torch.tensor([prompt])
    texts = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=0.7, top_k=0, min_new_tokens=TOKENS, max_new_tokens=TOKENS, **options
    )
    return texts[:, len(prompt):].numel()


def one_row(model, prompt, direction):
    "One sample at one alpha, without a cache, as the paper's scripts do."
    with steer(model, LAYER, direction, [5.0]):
        return sample(model, prompt, use_cache=False)


def call_per_alpha(model, prompt, direction):
    "A call of `generate` at each of two alphas, five samples each, steered by the library steering-vectors."
    vector = SteeringVector({LAYER: direction})
    tokens = 0
    for alpha in (-5, 5):
        with vector.apply(model, multiplier=alpha):
            tokens += sample(model, prompt, num_return_sequences=SAMPLES)
    return tokens


def floor_seconds(model, rows):
    "What the matrix products of one step would take at the rate that this machine reaches on that many rows."
    weights = sum(p.numel() for block in find_blocks(model) for p in block.parameters()) + model.lm_head.weight.numel()
    return 2 * weights * rows / matmul_rate(rows)


def compare(model, title, prompt):
    "Time the three ways on one model, and say what came out."
    direction = torch.tensor(random_direction(model.config.hidden_size, "benchmark"))
    rows = len(ALPHAS) * SAMPLES
    sample(model, prompt[:8], num_return_sequences=SAMPLES)  # warm up
    works = {
        "one row at a time, no cache (as released)": one_row,
        "one call per alpha, 5 samples (steering-vectors)": call_per_alpha,
        f"{rows} rows, one alpha per row (empathy_probes)": one_batch,
    }
    measured = {name: measure(lambda: work(model, prompt, direction)) for name, work in works.items()}
    rates = {name: each.result / each.seconds for name, each in measured.items()}
    ours = rates[name := list(works)[-1]]
    print(f"steered sampling, {TOKENS} tokens after a prompt of {len(prompt)}, {title}, {torch.get_num_threads()} threads")
    for label, each in measured.items():
        print(f"  {label:46} {rates[label]:7.1f} tokens/s, peak {each.peak_mib:5.0f} MiB above the model; ours is {ours / rates[label]:5.1f} times faster")
    share = TOKENS * floor_seconds(model, rows) / measured[name].seconds
    print(f"  the matrix products of {rows} rows alone would take {share:.2f} of our time")


def main():
    spec = load_preset("mini").models["smollm2-135m"]
    model, tokenizer = load_model(spec)
    prompt = encode_prompt(tokenizer, load_concept("empathy").scenarios["the_protector"].prompt, spec.chat_template)
    compare(model, spec.title, prompt)
    torch.manual_seed(0)
    compare(AutoModelForCausalLM.from_config(LARGER).eval(), "random weights as large as Qwen2.5-0.5B", prompt)


if __name__ == "__main__":
    main()
