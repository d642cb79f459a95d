"""Batches against a double loop over rows and tokens."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.data import collate
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.tokens import TokenRow, encode_demonstration
from support import pad_rows

PAD = 0  # also a token like any other, and the end token


@st.composite
def marked_rows(draw: st.DrawFn) -> list[tuple[list[int], list[bool]]]:
    """Rows of tokens, among them the pad id, and which of them are meant to count."""
    rows = []
    for size in draw(st.lists(st.integers(1, 8), min_size=1, max_size=5)):
        ids = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
        counts = draw(st.lists(st.booleans(), min_size=size, max_size=size))
        rows.append((ids, counts))
    return rows


@settings(max_examples=200, deadline=None)
@given(marked_rows())
def test_pad_rows_against_a_double_loop(rows: list[tuple[list[int], list[bool]]]) -> None:
    batch = pad_rows(rows, PAD)
    length = max(len(ids) for ids, _ in rows)
    source, target, sequence = [], [], []
    for row, (ids, counts) in enumerate(rows):
        for place in range(1, len(ids)):  # the first token has nothing to predict it
            if counts[place]:
                source.append(row * length + place - 1)
                target.append(ids[place])
                sequence.append(row)
    assert batch.predictor_index.tolist() == source
    assert batch.target_ids.tolist() == target
    assert batch.completion_index.tolist() == sequence
    assert batch.last_index.tolist() == [
        row * length + len(ids) - 1 for row, (ids, _) in enumerate(rows)
    ]
    assert batch.completions == len(rows)
    for row, (ids, _) in enumerate(rows):
        padding = length - len(ids)
        assert batch.input_ids[row].tolist() == ids + [PAD] * padding
        assert batch.attention_mask[row].tolist() == [True] * len(ids) + [False] * padding
        assert batch.position_ids[row, : len(ids)].tolist() == list(range(len(ids)))
    assert [column.dtype for column in batch[:7]] == [torch.long, torch.bool, *[torch.long] * 5]
    assert batch.groups is None


@settings(max_examples=50, deadline=None)
@given(marked_rows())
def test_the_pad_id_is_never_looked_at(rows: list[tuple[list[int], list[bool]]]) -> None:
    some, other = pad_rows(rows, 0), pad_rows(rows, 3)
    for name in (
        "attention_mask",
        "predictor_index",
        "target_ids",
        "completion_index",
        "last_index",
    ):
        assert torch.equal(getattr(some, name), getattr(other, name))


def test_the_end_token_is_a_target_even_where_it_pads(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    tokenizer = tokenizers["pad_is_eos"]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    chat = ChatTemplate(tokenizer)
    rows = [
        row
        for completion in (" two", " three four five", " six seven")
        for row in encode_demonstration({"prompt": "one", "completion": completion}, chat, 64)
    ]
    batch = collate.token_batch(rows)
    ends = batch.target_ids == tokenizer.eos_token_id
    assert batch.completion_index[ends].tolist() == [0, 1, 2]
    # the score of a row is read at its end token, not at the padding that looks like it
    flat = batch.input_ids.flatten()
    assert (flat[batch.last_index] == tokenizer.eos_token_id).all()
    assert batch.attention_mask.flatten()[batch.last_index].all()
    assert (batch.predictor_index[ends] + 1).tolist() == batch.last_index.tolist()


def pair(
    prompt: list[int],
    chosen: list[int],
    rejected: list[int],
    label: float | None = None,
    margin: float | None = None,
) -> TokenRow:
    counts = [[True] * len(chosen), [True] * len(rejected)]
    return TokenRow(prompt, [chosen, rejected], counts, [0, 1], None, label, margin)


def targets(batch: TokenBatch) -> list[list[int]]:
    return [
        batch.target_ids[batch.completion_index == c].tolist() for c in range(batch.completions)
    ]


def test_a_preference_batch_by_hand() -> None:
    rows = [pair([1, 2], [3, 9], [4, 5, 9]), pair([6], [7], [8, 9])]
    batch = collate.preference_batch(rows)
    assert batch.tokens.input_ids.tolist() == [[1, 2, 3, 9, 4, 5, 9, 6, 7, 8, 9]]
    assert batch.tokens.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 4, 0, 1, 1, 2]]
    assert batch.tokens.predictor_index.tolist() == [
        1,
        2,
        1,
        4,
        5,
        7,
        7,
        9,
    ]  # the prompt's end serves both
    assert batch.tokens.last_index.tolist() == [3, 6, 8, 10]
    assert batch.tokens.groups == ((2, 2, 3), (1, 1, 2))
    assert targets(batch.tokens) == [[3, 9], [4, 5, 9], [7], [8, 9]]
    assert (batch.chosen.tolist(), batch.rejected.tolist()) == ([0, 2], [1, 3])
    assert batch.label is None
    assert batch.margin is None
    assert batch.digest.shape == (4, 2)
    assert batch.digest.dtype == torch.long


def test_a_first_token_never_counts() -> None:
    batch = collate.token_batch([pair([], [3, 9], [4])])
    assert targets(batch) == [[9], []]


def test_labels_and_margins_where_some_rows_have_them() -> None:
    rows = [pair([1], [2], [3], label=0.25), pair([1], [2], [4], margin=2.0), pair([1], [2], [5])]
    batch = collate.preference_batch(rows)
    assert batch.label is not None
    assert batch.margin is not None
    assert batch.label.tolist() == [0.25, 1.0, 1.0]  # unsaid is certain
    assert batch.margin.tolist() == [0.0, 2.0, 0.0]
    certain = collate.preference_batch(rows[1:])
    assert certain.label is None
    assert collate.preference_batch(rows[:1]).margin is None


small = st.lists(st.integers(0, 12), max_size=4)


@settings(max_examples=300, deadline=None)
@given(small, small, small, small)
def test_a_digest_names_prompt_and_completion(
    prompt: list[int], completion: list[int], other_prompt: list[int], other: list[int]
) -> None:
    same = (prompt, completion) == (other_prompt, other)
    assert (collate.digest(prompt, completion) == collate.digest(other_prompt, other)) == same
    assert all(-(2**63) <= half < 2**63 for half in collate.digest(prompt, completion))


def test_a_digest_does_not_depend_on_its_company() -> None:
    one, two = pair([1, 2], [3, 9], [4, 5, 9]), pair([6], [7], [8, 9])
    together = collate.preference_batch([one, two]).digest
    alone = [collate.preference_batch([row]).digest for row in (one, two)]
    assert torch.equal(together, torch.cat(alone))
    assert len({tuple(d) for d in together.tolist()}) == 4
    # where the border lies is part of the name
    assert collate.digest([1, 2], [3]) != collate.digest([1], [2, 3])
    assert collate.digest([12], []) != collate.digest([1, 2], [])


def ranking(k: int, ratings: list[float] | None = None) -> TokenRow:
    completions = [[10 + i, 9] for i in range(k)]
    counts = [[True, True]] * k
    return TokenRow([1], completions, counts, list(range(k)), ratings)


def test_rankings_of_any_size() -> None:
    batch = collate.ranking_batch([ranking(3, [3.0, 2.0, 1.0]), ranking(2, [1.0, 0.5])])
    assert batch.group.tolist() == [0, 0, 0, 1, 1]
    assert batch.rank.tolist() == [0, 1, 2, 0, 1]
    assert batch.rating is not None
    assert batch.rating.tolist() == [3.0, 2.0, 1.0, 1.0, 0.5]
    assert targets(batch.tokens) == [[10, 9], [11, 9], [12, 9], [10, 9], [11, 9]]
    # ratings that some rows lack are nobody's
    assert collate.ranking_batch([ranking(3, [3.0, 2.0, 1.0]), ranking(2)]).rating is None


def test_prompts_stay_ragged() -> None:
    lengths = [3, 1, 2]
    rows = [TokenRow(list(range(n)), [], [], []) for n in lengths]
    batch = collate.prompt_batch(rows)
    assert [ids.tolist() for ids in batch.prompt_ids] == [list(range(n)) for n in lengths]
