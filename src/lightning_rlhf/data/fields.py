"""Read single fields as people write them: text, numbers, labels, an order of answers."""

from __future__ import annotations

import math
import re
from typing import Any

from lightning_rlhf.text.messages import BadRow

UP = frozenset(
    """up thumbs_up thumbsup thumb_up upvote upvoted good positive pos like liked true t yes y 👍
    desirable desired preferred chosen accept accepted approve approved correct right helpful
    pass passed win won""".split()
)
DOWN = frozenset(
    """down thumbs_down thumbsdown thumb_down downvote downvoted bad negative neg dislike disliked
    false f no n 👎 undesirable undesired dispreferred not_preferred rejected reject
    disapprove disapproved incorrect wrong unhelpful fail failed lose lost""".split()
)


def read_text(value: Any, field: str) -> str:
    """Read a string, or a list that holds one assistant message."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    if not isinstance(value, str):
        raise BadRow(f"{field} is {type(value).__name__}, not text")
    return value


def read_number(value: Any, field: str) -> float:
    """Read a finite number."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRow(f"{field} {value!r} is not a finite number")
    return float(value)


def read_numbers(values: Any, field: str) -> list[float]:
    """Read a list of finite numbers."""
    if not isinstance(values, list):
        raise BadRow(f"{field} is {type(values).__name__}, not a list")
    return [read_number(value, field) for value in values]


def read_share(value: Any, field: str) -> float:
    """Read a probability."""
    share = read_number(value, field)
    if not 0 <= share <= 1:
        raise BadRow(f"{field} {share:g} is not a probability")
    return share


def read_label(value: Any, field: str, signed: bool | None = None) -> float:
    """Read whether an answer is good: 1 or 0, from a boolean, a number (-1 is 0) or a word.

    A number between 0 and 1, or its text, is the probability that it is good.

    Args:
        value: as the row has it.
        field: its name, for reasons.
        signed: whether bad answers of the source have -1 (then 0 is not a label) or 0 (then -1 is
            not); None where its labels were not looked at.

    Raises:
        BadRow: it is something else.
    """
    if isinstance(value, str):
        word = re.sub(r"[\s-]+(?=\w*[a-z])", "_", value.strip().lower())
        if not is_number(word):
            if word not in UP | DOWN:
                raise BadRow(f"{field} {value!r} is neither a thumb up nor down")
            return float(word in UP)
        value = float(word)
    if value == (0 if signed else -1) and signed is not None and value is not False:
        raise BadRow(f"{field} {value:g} beside {'-1' if signed else '0'} is not a label")
    return 0.0 if value == -1 else read_share(value, field)


def is_number(text: str) -> bool:
    """Tell whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def ranks_of(values: list[float]) -> list[int]:
    """Rank values from 0 for the lowest up; equal values share a rank."""
    order = sorted(set(values))
    return [order.index(value) for value in values]


def read_order(value: Any, answers: int) -> list[int]:
    """Read the ranks of answers from their order, best first: "B>A=C", [[1], [0, 2]] or [1, 0, 2].

    Answers are named by letters from A, or by numbers from 0 or from 1, each exactly once.
    """
    if isinstance(value, str):
        groups = [group.split("=") for group in value.split(">")]
    elif isinstance(value, list):
        groups = [group if isinstance(group, list) else [group] for group in value]
    else:
        raise BadRow(f"order is {type(value).__name__}, neither text nor a list")
    numbers = [_number(name) for group in groups for name in group]
    first = min((n for n in numbers if n is not None), default=0)
    expected = range(first, first + answers)
    if first not in (0, 1) or sorted(numbers, key=str) != sorted(expected, key=str):
        raise BadRow(f"order {value!r} does not name each of {answers} completions once")
    ranks = [0] * answers
    for rank, group in enumerate(groups):
        for name in group:
            ranks[(_number(name) or 0) - first] = rank
    return ranks


def _number(name: Any) -> int | None:
    """Read the number of an answer; A is 0."""
    if isinstance(name, int):
        return name
    name = str(name).strip().upper()
    if len(name) == 1 and "A" <= name <= "Z":
        return ord(name) - ord("A")
    return int(name) if name.isdecimal() else None
