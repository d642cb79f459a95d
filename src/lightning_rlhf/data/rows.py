"""From a source's rows to a table of token rows: made once, counted, split by prompt."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from datasets import Dataset, Features, List, Value

from lightning_rlhf.data.formats import BadRow
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.tokens import TokenRow

TOKEN_ROW = Features(
    {
        "prompt_ids": List(Value("int32")),
        "completion_ids": List(List(Value("int32"))),
        "counts": List(List(Value("bool"))),
        "ranks": List(Value("int32")),
        "ratings": List(Value("float32")),
        "label": Value("float32"),
        "margin": Value("float32"),
        "opening": Value("string"),
        "cut": Value("string"),
        "tokens": Value("int32"),  # what it takes of a step: its prompt once, its completions
        "dropped": Value("string"),  # why the row cannot be used, or ""
    }
)
CODE = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py")))
Encode = Callable[[dict[str, Any], ChatTemplate, int], TokenRow]


def encode_as(
    row: dict[str, Any],
    chat: ChatTemplate,
    max_length: int,
    read: Callable[[dict[str, Any]], dict[str, Any]],
    encode: Encode,
) -> TokenRow:
    """A row of any format, encoded: ``read`` turns it into our columns first."""
    return encode(read(row), chat, max_length)


def encode_or_drop(
    row: dict[str, Any], encode: Encode, chat: ChatTemplate, max_length: int, code: str
) -> dict:
    """A token row as columns; a row that cannot be used keeps its reason instead.

    ``datasets`` finds rows it made before by the arguments of their maker: ``code`` is among them,
    so that no row outlives the code it came from.
    """
    try:
        made = encode(row, chat, max_length)
        tokens = len(made.prompt_ids) + sum(map(len, made.completion_ids))
        return {**made._asdict(), "tokens": tokens, "dropped": ""}
    except BadRow as reason:
        return {**dict.fromkeys(TOKEN_ROW), "dropped": str(reason)}


def held_out(opening: str, fraction: float) -> bool:
    """Whether every row that grew from this opening belongs to the validation split.

    By a hash of the prompt, never by row: answers to one prompt on both sides of a split would let
    a model score well by memory. The same prompt falls on the same side in every run.
    """
    value = int.from_bytes(hashlib.blake2b(opening.encode(), digest_size=8).digest(), "big")
    return value < fraction * 2**64


def token_row(row: dict[str, Any]) -> TokenRow:
    """A loader's row as what it was."""
    return TokenRow(**{name: row[name] for name in TokenRow._fields})


class Report(NamedTuple):
    """What became of the rows of a source."""

    read: int
    kept: int
    cut: Counter[str]  # side -> rows
    dropped: Counter[str]  # reason -> rows
    first: Mapping[str, int] = MappingProxyType({})  # reason -> its first row, from 1

    def __str__(self) -> str:
        parts = [f"{self.read:,} rows read, {self.kept:,} kept"]
        parts += [f"{n:,} cut to max_length ({side})" for side, n in self.cut.most_common()]
        parts += [
            f"{n:,} dropped ({reason}{self._place(reason)})"
            for reason, n in self.dropped.most_common()
        ]
        return "; ".join(parts)

    def _place(self, reason: str) -> str:
        return f", first in row {self.first[reason]:,}" if reason in self.first else ""


def token_rows(
    rows: Dataset, encode: Encode, chat: ChatTemplate, max_length: int
) -> tuple[Dataset, Report]:
    """Encode every row; rows that cannot be used are left out, and counted by reason."""
    made = rows.map(
        partial(encode_or_drop, encode=encode, chat=chat, max_length=max_length, code=CODE),
        remove_columns=rows.column_names,
        features=TOKEN_ROW,
        desc="tokenising",
    )
    reasons = list(made["dropped"])
    kept = made.select([i for i, reason in enumerate(reasons) if not reason])
    cut, dropped = Counter(c for c in kept["cut"] if c), Counter(r for r in reasons if r)
    first = {reason: reasons.index(reason) + 1 for reason in dropped}
    return kept, Report(len(rows), len(kept), cut, dropped, first)
