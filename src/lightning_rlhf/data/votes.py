"""Read votes between two answers, and choose a side by them or drop the row with a reason."""

from __future__ import annotations

import json
import math
import re
from ast import literal_eval
from collections.abc import Sequence
from contextlib import suppress
from statistics import mean
from typing import Any

from lightning_rlhf.text.messages import BadRow

Row = dict[str, Any]
TIE, BOTH_BAD = "a tie", "both bad"
Vote = float | str  # the probability that the first answer is better, TIE or BOTH_BAD
TIES = frozenset(("tied", "equal", "same", "draw", "both", "bothgood", "nopreference"))
BAD = frozenset(("neither", "none"))
LETTERS = (frozenset(("a", "left", "first")), frozenset(("b", "right", "second")))
NOUN = "(answer|assistant|completion|model|option|output|response|side|summary|text)"
BEFORE = re.compile(f"^(the)?{NOUN}?")
AFTER = re.compile(f"{NOUN}?((is)?(much|slightly)?(better|best|preferred|wins|chosen))?$")
YES, NO = frozenset(("true", "yes", "1")), frozenset(("false", "no", "0"))


def sides_of_votes(answers: tuple[Any, Any], votes: Sequence[Vote]) -> Row:
    """Choose one of two answers by the majority of votes; the label is its share.

    A tie is half a vote for each answer. Where all agree there is no label.

    Raises:
        BadRow: there is no vote, both answers are bad, or no answer has the majority.
    """
    if not votes:
        raise BadRow("nobody voted")
    if all(vote == BOTH_BAD for vote in votes):
        raise BadRow("judged both bad")
    share = mean(0.5 if isinstance(vote, str) else vote for vote in votes)
    if share == 0.5:
        raise BadRow("judged a tie")
    chosen, rejected = answers if share > 0.5 else answers[::-1]
    sides = {"chosen": chosen, "rejected": rejected}
    share = max(share, 1 - share)
    return sides if share == 1 else {**sides, "label": share}


def vote_of_word(value: Any, names: tuple[str, str]) -> Vote:
    """Read a word or a number that names the better answer.

    Args:
        value: e.g. "left", "Response 1", "model_b", 2, "tie (bothbad)".
        names: of the columns of the answers; "1" is the second of answer_0 and answer_1.

    Raises:
        BadRow: it names neither.
    """
    word = _letters(value)
    if word in BAD or word.endswith("bothbad"):
        return BOTH_BAD
    if word in TIES or word.startswith("tie"):
        return TIE
    short = BEFORE.sub("", AFTER.sub("", word))
    for vote, name, letters in zip((1.0, 0.0), names, LETTERS, strict=True):
        number = name[-1] if name[-1].isdecimal() else None
        if word == _letters(name) or short in letters or short == number:
            return vote
    shown = int(value) if isinstance(value, float) and value.is_integer() else value
    raise BadRow(f"{shown!r} names neither {names[0]} nor {names[1]}, nor a tie")


def _letters(value: Any) -> str:
    """Write a value as letters and digits alone; 1.0 is 1."""
    return re.sub(r"^(\d+)\.0$|[\W_]+", r"\1", str(value).strip().lower())


def vote_of_sign(value: Any, field: str, limit: float) -> Vote:
    """Read a preference from -limit, the first answer is much better, to +limit, the second is."""
    number = read_cell(value, field)
    if abs(number) > limit:
        raise BadRow(f"{field} {number:g} is not between {-limit:g} and {limit:g}")
    return TIE if number == 0 else float(number < 0)


def vote_of_index(value: Any, field: str) -> Vote:
    """Read the number of the better answer, 0 or 1."""
    number = read_cell(value, field)
    if number not in (0, 1):
        raise BadRow(f"{field} {number:g} is neither 0 nor 1")
    return float(number == 0)


def read_cell(value: Any, field: str) -> float:
    """Read a finite number, or its text.

    Raises:
        BadRow: there is none; without a value nobody voted.
    """
    if is_empty(value):
        raise BadRow(f"no {field}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow(f"{field} {value!r} is not a finite number")
    return number


def read_flag(value: Any, field: str) -> bool:
    """Read true or false, also as 0 and 1 or as a word."""
    if is_empty(value):
        raise BadRow(f"no {field}")
    word = _letters(value)
    if word not in YES | NO:
        raise BadRow(f"{field} {value!r} is neither true nor false")
    return word in YES


def is_empty(value: Any) -> bool:
    """Tell whether a cell holds nothing: None, NaN or blank text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def parsed(value: Any) -> Any:
    """Parse a cell that is a list or an object written as JSON, or as Python prints it."""
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "{"):
        return value
    for parse in (json.loads, literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return parse(value.strip())
    return value


def turns_or_text(value: Any) -> Any:
    """Parse a cell that is a message or a list of them; leave any other text as it is."""
    turns = parsed(value)
    listed = turns if isinstance(turns, list) else [turns]
    said = all(isinstance(one, dict) and ("role" in one or "from" in one) for one in listed)
    return turns if listed and said else value


def objects_of(value: Any, field: str) -> list[Row]:
    """Read a list of objects that is not empty."""
    value = parsed(value)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadRow(f"{field} is not a list of objects")
    if not value:
        raise BadRow(f"{field} is empty")
    return value
