"""Look at the labels, margins and scores of a source before its rows are read.

A number says what it means only beside the others: 1 is a thumb up beside 0, and the worst of five
stars beside 5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from lightning_rlhf.data.fields import is_number, read_label
from lightning_rlhf.data.known_columns import KIND_OF
from lightning_rlhf.data.layout import Layout
from lightning_rlhf.data.source_columns import Columns
from lightning_rlhf.text.dialects import ROLES
from lightning_rlhf.text.messages import BadRow

SHOWN = 6  # values that a sentence names
STRAY = 0.01  # share of labels that nobody can read, up to which only their rows are dropped
SCORES = (
    ("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"),
    ("rating_chosen", "rating_rejected"), ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"), ("reward_chosen", "reward_rejected"),
    ("chosen_reward", "rejected_reward"),
)  # fmt: skip


class Labels(NamedTuple):
    """What the labels of a source mean."""

    signed: bool | None  # -1 against 1, not 0 against 1; None where no label is read
    note: str  # clauses for the log


def look_at_pairs(there: Columns, name: str, layout: Layout) -> str:
    """Look at what stands beside the pairs of a source.

    Args:
        there: of the source.
        name: of the source, for messages.
        layout: of the source.

    Returns:
        Clauses for the log.

    Raises:
        ValueError: the labels are not probabilities.
    """
    note = ""
    if "label" in layout.reads and "label" not in layout.columns:
        wrong = [v for v in there.counts("label") if not _is_share(v)]
        if wrong:
            raise ValueError(
                f"{name}: label has {_listed(wrong)}, and beside a pair it is the probability that "
                "chosen is better, from 0 to 1: convert it, or give it another name, "
                "columns={'label': 'unused'}"
            )
    for field, bound in (("label", 0.5), ("margin", 0)):
        if field in {*layout.reads} - {*layout.columns} and (n := there.below(field, bound)):
            note += f"{field} is below {bound} in {n:,} rows: there rejected is the better; "
    for one, other in SCORES:
        if one not in layout.columns and (n := there.below(one, other)):
            note += f"{other} is above {one} in {n:,} rows; "
    return note


def look_at_labels(there: Columns, name: str) -> Labels:
    """Look at the labels of single answers: thumbs or probabilities, in one scale.

    Args:
        there: of the source.
        name: of the source, for messages.

    Raises:
        ValueError: they are something else, such as stars, percentages or classes.
    """
    counts = there.counts("label")
    _check_classes(there.classes("label"), name)
    if not counts:
        return Labels(None, "")
    numbers: Counter[float] = Counter()
    unread: Counter[Any] = Counter()
    for value, n in counts.items():
        number = _number(value)
        if number is not None:
            numbers[number] += n
        elif value != "":
            unread[value] += n
    beyond = [number for number in numbers if not (0 <= number <= 1 or number == -1)]
    if beyond:
        raise ValueError(
            f"{name}: label has {_listed(numbers)}, and a label is a thumb (1 against 0, 1 against "
            "-1, or a word) or a probability from 0 to 1: write 1 for a good answer and 0 for a "
            "bad one, or rank the answers to one prompt by these numbers, as ratings"
        )
    if -1 in numbers and numbers.keys() - {-1, 1}:
        raise ValueError(
            f"{name}: label has {_listed(numbers)}: beside -1 another number than 1 is neither "
            "good nor bad; leave these rows out, or write 0 for -1"
        )
    if unread.total() > STRAY * counts.total():
        raise ValueError(
            f"{name}: label has {_listed(unread)}, neither a thumb up nor down: write true or "
            "false, or 1 or 0"
        )
    note = ""
    total = numbers.total()
    if total > 1 and len({number > 0.5 for number in numbers}) == 1:
        side = "good" if next(iter(numbers)) > 0.5 else "bad"
        note = f"no label says {'bad' if side == 'good' else 'good'}: all {total:,} are {side}; "
    return Labels(-1 in numbers, note)


def _check_classes(classes: Sequence[str] | None, name: str) -> None:
    """Refuse classes whose indices do not mean what their names say."""
    if classes is None or all(one.isdecimal() for one in classes):
        return
    means = []
    for one in classes:
        try:
            means.append(read_label(one, "label"))
        except BadRow:
            means.append(-1.0)
    if means != [0.0, 1.0]:
        meaning = ", ".join(f"{i} for {one!r}" for i, one in enumerate(classes))
        raise ValueError(
            f"{name}: label is a class, {meaning}: write 1 for a good answer and 0 for a bad one"
        )


def refuse_a_tree(there: Columns, name: str, layout: Layout, columns: Sequence[str]) -> None:
    """Refuse texts that are single messages of conversations.

    Raises:
        ValueError: a column says so.
    """
    if layout.gives != ("text",):
        return
    for column in columns:
        if KIND_OF.get(column.lower()) != "tree" or not there.any_filled(column):
            continue
        if column.lower() == "role" and not there.counts(column).keys() & ROLES.keys():
            continue
        raise ValueError(
            f"{name}: {column} says that a row is one message of a conversation, and text is read "
            "as a whole: put the messages of each conversation into one row, as messages, or give "
            f"the column another name, columns={{{column!r}: 'unused'}}"
        )


def _number(value: Any) -> float | None:
    """Read a label as a number, -1 as it is; None if it is none."""
    if isinstance(value, str):
        try:
            return float(value) if is_number(value) else read_label(value, "label")
        except BadRow:
            return None
    return float(value) if isinstance(value, int | float) else None


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _listed(values: Any) -> str:
    """Name some values in a sentence."""
    texts = sorted(v[:40] + "..." * (len(v) > 40) for v in values if isinstance(v, str))
    numbers = sorted(v for v in values if not isinstance(v, str))
    shown = [
        *(f"{v:g}" for v in numbers),
        *(repr(v if len(v) <= 40 else f"{v[:40]}...") for v in texts),
    ]
    rest = len(shown) - SHOWN
    names = ", ".join(shown[:SHOWN]) + (f" and {rest:,} others" if rest > 0 else "")
    return f"the value{'s' if len(shown) > 1 else ''} {names}"
