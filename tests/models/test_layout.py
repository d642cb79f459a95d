"""Layouts of one batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.data.collate import token_batch
from lightning_rlhf.data.tokens import TokenRow
from lightning_rlhf.models.layout import mismatched, unpacked

LENGTHS = st.lists(
    st.tuples(st.integers(1, 5), st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    min_size=1,
    max_size=4,
)


def rows_of(lengths: list[tuple[int, list[int]]]) -> list[TokenRow]:
    """Number the tokens, so that all differ."""
    number = iter(range(3, 10_000))
    rows = []
    for prompt, completions in lengths:
        ids = [next(number) for _ in range(prompt)]
        answers = [[next(number) for _ in range(n)] for n in completions]
        counts = [[True] * n for n in completions]
        rows.append(TokenRow(ids, answers, counts, []))
    return rows


@settings(max_examples=60, deadline=None)
@given(LENGTHS)
def test_mismatched_is_the_batch_of_rows_with_prompts_moved_on(lengths: list) -> None:
    rows = rows_of(lengths)
    moved = [
        row._replace(prompt_ids=before.prompt_ids)
        for before, row in zip(rows[-1:] + rows[:-1], rows, strict=True)
    ]
    found, expected = mismatched(token_batch(rows)), token_batch(moved)
    for name, one, other in zip(found._fields, found, expected, strict=True):
        same = one == other if name == "groups" else torch.equal(one, other)
        assert same, name


def test_behind_no_prompt_a_first_token_cannot_count() -> None:
    rows = rows_of([(2, [3]), (1, [2])])
    rows[0] = rows[0]._replace(prompt_ids=[])
    found = mismatched(token_batch(rows))
    # the first row's completion goes behind row 1's prompt, row 1's behind nothing
    assert found.groups == ((1, 3), (0, 2))
    assert found.target_ids.tolist() == [
        *rows[0].completion_ids[0][1:],
        rows[1].completion_ids[0][1],
    ]
    assert found.predictor_index.tolist() == [1, 2, 4]


@pytest.mark.parametrize("lengths", [[(3, [2, 1])], [(3, [2]), (1, [4, 4])]])
def test_unpacked_rows_are_prompt_and_completion(lengths: list) -> None:
    rows = rows_of(lengths)
    apart = unpacked(token_batch(rows), pad_id=0)
    wanted = [row.prompt_ids + answer for row in rows for answer in row.completion_ids]
    found = [
        ids[mask].tolist() for ids, mask in zip(apart.input_ids, apart.attention_mask, strict=True)
    ]
    assert found == wanted
