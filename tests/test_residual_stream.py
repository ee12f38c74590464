"Activations of many model families: from the right blocks and the right tokens, with nothing computed too much and nothing left behind."

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, Gemma3Config, Gemma3ForConditionalGeneration, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from empathy_probes.method.activations import POOLINGS, extract, pool_tokens
from empathy_probes.method.residual_stream import find_blocks, read_residual

TEXTS = ["A text of medium length.", "short", "The longest text of all stands third, far from either end of its class.", "Zwölf Boxkämpfer", "ab"]
LAST = 3  # of the four blocks that each model has


def hidden_states(model, tokenizer, text: str) -> list[torch.Tensor]:
    "What transformers itself returns for one text without padding: a tensor [position, width] at each index."
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        return [states[0] for states in model(ids, output_hidden_states=True, use_cache=False).hidden_states]


def hook_count(model) -> int:
    "How many hooks sit anywhere in a model."
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_layer_l_is_hidden_states_l_plus_1(family, tokenizer):
    "A block too early or too late, or an expert taken for a block, would read something else."
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    with torch.inference_mode(), read_residual(family, list(range(LAST + 1)), torch.clone) as residual:
        family(ids, use_cache=False)
    expected = hidden_states(family, tokenizer, TEXTS[0])
    assert len(find_blocks(family)) == LAST + 1
    for layer in range(LAST):  # the last entry of hidden_states has the final norm in it
        torch.testing.assert_close(residual[layer][0], expected[layer + 1], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(residual[layer][0], expected[layer], atol=1e-2)
        assert not torch.allclose(residual[layer + 1][0], expected[layer + 1], atol=1e-2)


@pytest.mark.parametrize("batch_tokens", [1, 64, 10_000])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_company_order_and_padding_change_nothing(family, tokenizer, batch_tokens, padding_side):
    "A mean over padding, the last token of a padded row or shuffled rows would differ from transformers' own states of one text."
    tokenizer.padding_side = padding_side
    alone = [torch.stack(hidden_states(family, tokenizer, text)[1:LAST + 1]) for text in TEXTS]
    expected = {
        "mean": torch.stack([states.mean(dim=1) for states in alone]),
        "mean_without_first": torch.stack([states[:, 1:].mean(dim=1) for states in alone]),
        "last": torch.stack([states[:, -1] for states in alone]),
    }
    for pooling in POOLINGS:
        together = extract(family, tokenizer, TEXTS, [0, 1, 2], pooling, batch_tokens=batch_tokens)
        backwards = extract(family, tokenizer, TEXTS[::-1], [0, 1, 2], pooling, batch_tokens=batch_tokens)
        np.testing.assert_allclose(together, expected[pooling], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(backwards[::-1], expected[pooling], rtol=1e-4, atol=1e-4)


def test_layers_come_in_the_order_asked_for(llama, tokenizer):
    ordered = extract(llama, tokenizer, TEXTS, [0, 1, 2])
    np.testing.assert_array_equal(extract(llama, tokenizer, TEXTS, [2, 0, 1]), ordered[:, [2, 0, 1]])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("junk", [1e30, float("inf"), float("nan")])
def test_what_stands_at_padded_positions_is_never_looked_at(pooling, junk):
    "In float16 a padding token may overflow; times a mask of 0 that is still not a number."
    real = torch.arange(1.0, 9.0).reshape(1, 4, 2)
    padding = torch.full((1, 3, 2), junk)
    expected = pool_tokens(real, torch.ones(1, 4), pooling)
    right = pool_tokens(torch.cat([real, padding], dim=1), torch.tensor([[1, 1, 1, 1, 0, 0, 0]]), pooling)
    left = pool_tokens(torch.cat([padding, real], dim=1), torch.tensor([[0, 0, 0, 1, 1, 1, 1]]), pooling)
    torch.testing.assert_close(right, expected)
    torch.testing.assert_close(left, expected)


@pytest.mark.parametrize("pooling", ["mean_without_first", "last"])
def test_a_first_token_that_overflows_spoils_only_poolings_it_is_part_of(pooling):
    "The first token's activations are by far the largest, so it is the one to overflow in float16."
    hidden = torch.tensor([[[float("inf")], [2.0], [4.0]]])
    expected = {"mean_without_first": 3.0, "last": 4.0}[pooling]
    assert pool_tokens(hidden, torch.ones(1, 3), pooling).item() == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_a_half_precision_model_are_kept_in_float32(dtype, tokenizer, llama):
    "A mean taken in the model's own precision would lose all but two or three digits."
    model = copy.deepcopy(llama).to(dtype)
    text = "x y z " * 80
    exact = hidden_states(model, tokenizer, text)[2].double().mean(dim=0).numpy()
    pooled = extract(model, tokenizer, [text], [1])[0, 0]
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, exact, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("deepest", [0, 2])
def test_nothing_past_the_deepest_wanted_block_runs(family, tokenizer, deepest):
    ran = []
    modules = {layer: block for layer, block in enumerate(find_blocks(family))} | {"logits": family.get_output_embeddings()}
    handles = [module.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, module in modules.items()]
    try:
        extract(family, tokenizer, TEXTS[:1], [deepest])
    finally:
        for handle in handles:
            handle.remove()
    assert ran == list(range(deepest + 1))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, torch.OutOfMemoryError])
def test_hooks_are_removed_whatever_happens(llama, error):
    "A hook left behind would end every later pass of the model, or read another's batch."
    ids = torch.tensor([[5, 6, 7]])
    before, expected = hook_count(llama), llama(ids).logits

    def fail(hidden):
        raise error("in the middle of a pass")

    with pytest.raises(error), read_residual(llama, [0, 2], fail):
        llama(ids)
    with pytest.raises(error), read_residual(llama, [0, 2], torch.clone):
        raise error("before the pass")
    assert hook_count(llama) == before
    torch.testing.assert_close(llama(ids).logits, expected)


def test_a_tuple_is_read_as_a_tensor_is():
    class Block(nn.Module):
        def __init__(self, as_tuple):
            super().__init__()
            self.as_tuple = as_tuple

        def forward(self, hidden):
            return (hidden + 1, "cache") if self.as_tuple else hidden + 1

    for as_tuple in [True, False]:
        toy = nn.Module()
        toy.layers = nn.ModuleList([Block(as_tuple)])
        with read_residual(toy, [0], torch.clone) as residual:
            toy.layers[0](torch.zeros(2, 3, 4))
        torch.testing.assert_close(residual[0], torch.ones(2, 3, 4))


TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
VISION = {"hidden_size": 64, "intermediate_size": 512, "num_hidden_layers": 5, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}


def test_a_vision_tower_is_not_taken_for_the_blocks():
    "Both towers here are larger than the text model beside them."
    gemma = Gemma3ForConditionalGeneration(Gemma3Config(text_config=TEXT | {"vocab_size": 300}, vision_config=VISION, mm_tokens_per_image=4))
    assert find_blocks(gemma) is gemma.model.language_model.layers
    llava = LlavaForConditionalGeneration(LlavaConfig(text_config=LlamaConfig(**TEXT, vocab_size=300), vision_config=CLIPVisionConfig(**VISION)))
    assert find_blocks(llava) is llava.model.language_model.layers


def test_experts_and_small_lists_are_not_taken_for_the_blocks():
    "A list inside a block, however long, or a short list beside the blocks, would be the wrong one."
    def block():
        experts = nn.Module()
        experts.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(16))
        return experts

    toy = nn.Module()
    toy.adapters = nn.ModuleList(nn.Linear(2, 2) for _ in range(50))
    toy.layers = nn.ModuleList(block() for _ in range(2))
    assert find_blocks(toy) is toy.layers
    with pytest.raises(ValueError, match="no list of blocks"):
        find_blocks(nn.Sequential(nn.Linear(2, 2)))


def test_a_layer_past_the_last_block_is_named(llama, tokenizer):
    with pytest.raises(IndexError, match="no layer 4: the model has blocks 0 to 3"):
        extract(llama, tokenizer, TEXTS, [4])
