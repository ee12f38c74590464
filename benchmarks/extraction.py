"""Extraction of five layers for 100 texts, beside one pass per text and layer with all hidden states.

python benchmarks/extraction.py   (or: make bench)
Both run in this process on the same model and texts. The results are ratios; seconds depend on the machine.
"""
import numpy as np
import torch
from measure import matmul_rate, measure

from empathy_probes.method.activations import extract, tokenize
from empathy_probes.method.residual_stream import find_blocks
from empathy_probes.machine.concepts import load_concept
from empathy_probes.machine.models import load_model
from empathy_probes.machine.presets import block_indices, load_preset


@torch.inference_mode()
def one_by_one(model, tokenizer, texts, layers):
    "A pass for every text and layer that keeps all hidden states, as the paper's scripts do."
    rows = []
    for layer in layers:
        for text in texts:
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
            states = model(**inputs, output_hidden_states=True).hidden_states
            rows.append(states[layer + 1][0].mean(dim=0))
    return torch.stack(rows).reshape(len(layers), len(texts), -1).transpose(0, 1).numpy()


def main():
    spec = load_preset("mini").models["smollm2-135m"]
    model, tokenizer = load_model(spec)
    blocks = find_blocks(model)
    layers = block_indices(spec)
    pairs = load_concept("empathy").pairs
    texts = [*pairs.positive, *pairs.negative]
    tokens = sum(map(len, tokenize(tokenizer, texts)))

    extract(model, tokenizer, texts[:4], layers)  # warm up
    batched = measure(lambda: extract(model, tokenizer, texts, layers))
    baseline = measure(lambda: one_by_one(model, tokenizer, texts, layers))
    difference = np.abs(batched.result - baseline.result).max() / np.abs(baseline.result).max()
    assert difference < 1e-4, f"the two do not agree: largest relative difference {difference:.1e}"

    weights = sum(p.numel() for block in blocks[: max(layers) + 1] for p in block.parameters())
    rate = 2 * weights * tokens / batched.seconds
    print(f"extraction of {len(layers)} layers for {len(texts)} texts, {tokens} tokens, {spec.title}, {torch.get_num_threads()} threads")
    print(f"  one pass per text and layer, all hidden states: {baseline.seconds:6.1f} s, peak {baseline.peak_mib:5.0f} MiB above the model")
    print(f"  one batched pass, stopped at the deepest:     {batched.seconds:6.1f} s, peak {batched.peak_mib:5.0f} MiB above the model")
    print(f"  {baseline.seconds / batched.seconds:.1f} times faster; {rate / matmul_rate(2048):.2f} of this machine's matrix-product rate")


if __name__ == "__main__":
    main()
