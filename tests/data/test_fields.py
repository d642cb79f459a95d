"""Thumbs and orders in every spelling."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.data.fields import read_label, read_order
from lightning_rlhf.text.messages import BadRow

UP = [
    True,
    1,
    1.0,
    "up",
    "Up",
    "thumbs_up",
    "thumbs up",
    "Thumbs-Up",
    "good",
    "positive",
    "liked",
]
UP += ["like", "true", "yes", "👍", "+1", "1", " up "]
DOWN = [False, 0, -1, -1.0, "down", "thumbs_down", "thumbs down", "bad", "negative", "dislike"]
DOWN += ["false", "no", "👎", "-1", "0"]


@pytest.mark.parametrize(
    ("value", "share"), [*((v, 1.0) for v in UP), *((v, 0.0) for v in DOWN), (0.3, 0.3)]
)
def test_thumbs(value: Any, share: float) -> None:
    assert read_label(value, "label") == share


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("sideways", "label 'sideways' is neither a thumb up nor down"),
        ("", "label '' is neither a thumb up nor down"),
        (2, "label 2 is not a probability"),
        (-0.5, "label -0.5 is not a probability"),
        (None, "label None is not a finite number"),
        (float("nan"), "label nan is not a finite number"),
    ],
)
def test_no_thumbs(value: Any, reason: str) -> None:
    with pytest.raises(BadRow) as raised:
        read_label(value, "label")
    assert str(raised.value) == reason


@pytest.mark.parametrize(
    "value",
    [
        "B>A=C", "b > a = c", "B>C=A", "1>0=2", "2>1=3", "2 > 3=1",
        [1, [0, 2]], [[1], [2, 0]], [[2], [1, 3]], ["B", ["A", "C"]], [["b"], ["a", "c"]],
    ],
)  # fmt: skip
def test_an_order_with_a_tie(value: Any) -> None:
    assert read_order(value, 3) == [1, 0, 1]


@pytest.mark.parametrize(
    "value", ["", "A>B", "A>B>C>D", "A>A=B", "2>3=4", "A>?>C", [0, 1], [[0], [1, 1]], [[]]]
)
def test_an_order_must_name_every_completion_once(value: Any) -> None:
    with pytest.raises(BadRow) as raised:
        read_order(value, 3)
    assert str(raised.value) == f"order {value!r} does not name each of 3 completions once"


def test_an_order_is_text_or_a_list() -> None:
    with pytest.raises(BadRow, match="^order is int, neither text nor a list$"):
        read_order(3, 3)


@settings(max_examples=80, deadline=None)
@given(
    ranks=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    first=st.sampled_from([0, 1, "A"]),
    written=st.booleans(),
)
def test_an_order_is_read_as_it_was_written(
    ranks: list[int], first: int | str, written: bool
) -> None:
    names = [chr(65 + i) if first == "A" else i + int(first) for i in range(len(ranks))]
    groups = [[n for n, r in zip(names, ranks, strict=True) if r == g] for g in sorted({*ranks})]
    value = ">".join("=".join(map(str, g)) for g in groups) if written else groups
    assert read_order(value, len(ranks)) == [sorted({*ranks}).index(r) for r in ranks]
