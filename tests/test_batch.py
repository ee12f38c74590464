"Batches: rows that have nothing in common, in every family, each beside what the model says of its whole text."

import gc
import weakref
from contextlib import ExitStack

import pytest
import torch
from conftest import FAMILIES, LLAMA_LIKE
from test_generation import PROMPT, PUSHES, WIDTH, steered_rows, uniform_numbers

from empathy_probes.machine.batch import start
from empathy_probes.machine.generation import check_steerable, sample_tokens
from empathy_probes.machine.shared_prompts import Row, shares_prompts
from empathy_probes.machine.weights import random_model
from empathy_probes.method.directions import random_direction
from empathy_probes.method.residual_stream import add_vectors, find_blocks, project_out


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return random_model(request.param, FAMILIES[request.param])


def test_rows_that_have_room_are_never_moved(model):
    batch = start(model, steered_rows([0, 2]), room=10)
    before = [keys.data_ptr() for _, keys, _ in batch.own]
    sample_tokens(batch, uniform_numbers(2), 1.0)
    assert [keys.data_ptr() for _, keys, _ in batch.own] == before
    assert [sum(both) for both in zip(batch.prompt_lengths, batch.lengths)] == [len(PROMPT) - 1 + 10] * 2


def whole_text(model, row, ids):
    "The predictions after each token of a text, by one pass without batch or cache."
    with torch.inference_mode(), ExitStack() as stack:
        for layer, push in row.pushes.items():
            stack.enter_context(add_vectors(model, layer, torch.tensor(push)[None]))
        if row.ablated is not None:
            stack.enter_context(project_out(model, range(len(find_blocks(model))), torch.tensor(row.ablated)))
        return model(torch.tensor([ids]), use_cache=False).logits[0]


def test_rows_with_nothing_in_common_share_a_batch(model):
    "Other prompts, blocks, directions, lengths and an ablation; every row is what it is alone, also behind sliding windows."
    one, two = (random_direction(WIDTH, name) for name in ("one", "two"))
    rows = [Row(PROMPT, {0: 5 * one}), Row(PROMPT[:5], {2: 5 * two}), Row(PROMPT[3:], ablated=one), Row(PROMPT), Row(PROMPT[:5], {0: two, 3: one})]
    batch, given = start(model, rows), [list(row.prompt[:-1]) for row in rows]

    def read(batch, given, tokens):
        logits = batch.read(tokens)
        for row, more in enumerate(tokens):
            given[row] += more
            found, expected = logits[row, : len(more)], whole_text(model, batch.rows[row], given[row])[-len(more) :]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)

    read(batch, given, [[row.prompt[-1]] for row in rows])
    read(batch, given, [PROMPT[: 2 + 3 * number] for number in range(5)])  # rows grow by different lengths
    branch, behind = batch.branch([4, 0, 0]), [list(given[row]) for row in (4, 0, 0)]
    read(branch, behind, [[7], [8, 9], PROMPT[:20]])  # more than it had room for
    branch.swap(0, 2)
    behind[0], behind[2] = behind[2], behind[0]
    read(branch, behind, [[5], [6]])  # the last row stands still
    read(batch, given, [[10, 11]] * 5)  # and the branch left the batch as it was
    cut = batch.branch([3], [len(PROMPT) + 1])
    read(cut, [given[3][: len(PROMPT) + 1]], [[12]])
    inside = batch.branch([3, 0], [3, len(PROMPT) - 4])  # back into the prompts
    read(inside, [given[3][:3], given[0][: len(PROMPT) - 4]], [[12], [13, 14]])


def test_blocks_below_a_push_read_a_prompt_once(model):
    if not shares_prompts(model):
        pytest.skip("rows of this family do not share prompts")
    rows = [Row(PROMPT, {layer: push.numpy()}) for layer in (1, 2) for push in PUSHES for _ in range(3)]
    prompts = start(model, rows).prompts
    assert [len(keys) for keys, _ in prompts] == [1, 1, 3, 5]  # two pushes at block 1, two at block 2, and none


def test_rows_that_stand_still_are_no_matter_to_the_others(model):
    "Also if they are longer: a long prompt whose text has ended."
    rows = [Row(PROMPT[:6]), Row(PROMPT[1:7]), Row(PROMPT)]
    logits = start(model, rows).read([[7], [8]])
    for row, token in enumerate([7, 8]):
        expected = whole_text(model, rows[row], [*rows[row].prompt[:-1], token])[-1]
        torch.testing.assert_close(logits[row, -1], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name, sizes", [("gpt_bigcode", FAMILIES["gpt2"]), ("diffllama", LLAMA_LIKE)])
def test_a_family_that_does_more_in_its_attention_than_it_says_shares_no_prompts(name, sizes):
    "The trial finds that out, and the numbers are right all the same."
    model = random_model(name, sizes)
    assert shares_prompts(model)
    check_steerable(model)
    assert not shares_prompts(model)
    rows = steered_rows([0, 1, 2])
    for row, logits in zip(rows, start(model, rows).read([[PROMPT[-1]]] * 3)):
        torch.testing.assert_close(logits[-1], whole_text(model, row, PROMPT)[-1], rtol=1e-3, atol=1e-4)


def test_nothing_holds_on_to_a_batch_or_its_model():
    "The attention that a batch registers with transformers would keep both alive, and a second model would find no room."
    model = random_model("llama", FAMILIES["llama"])
    batch = start(model, steered_rows([0, 1]))
    batch.read([[5], [6]])
    held = [weakref.ref(model), weakref.ref(batch)]
    del model, batch
    gc.collect()
    assert [each() for each in held] == [None, None]
    assert "shared_prompts" not in str(random_model("llama", FAMILIES["llama"]).config._attn_implementation)


def test_what_cannot_be_a_batch_says_so(llama):
    with pytest.raises(ValueError, match="no rows to start with"):
        start(llama, [])
