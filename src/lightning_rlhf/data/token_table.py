"""Encode a source's rows into a table of token rows: made once, counted, split by prompt.

A table of a million rows stays a memory-mapped file. Read a whole column with ``column``, in Arrow,
not as a million Python objects.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value

from lightning_rlhf.data.diagnosis import surrogate
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.tokens import ONE_ANSWER, TokenRow
from lightning_rlhf.text import messages
from lightning_rlhf.text.messages import BadRow

log = logging.getLogger(__name__)
TOKEN_ROW = Features(
    {
        "prompt_ids": List(Value("int32")),
        "completion_ids": List(List(Value("int32"))),
        "loss_mask": List(List(Value("bool"))),
        "ranks": List(Value("int32")),
        "ratings": List(Value("float32")),
        "label": Value("float32"),
        "margin": Value("float32"),
        "opening": Value("string"),
        "cut": Value("string"),
        "row": Value("string"),
        "tokens": Value("int32"),  # of a step: its prompt once, and its completions
        "kind": Value("string"),  # of batch it fits: "prompt", "single", "pair" or "ranking"
        "split_key": Value("uint64"),  # hash of its opening: decides its side of a split
        "dropped": Value("string"),  # why the row cannot be used, or ""
        "part": Value("int32"),  # 0, 1, ... of the token rows that one row of the source became
    }
)
# the code that token rows come from: where it changes, rows that were kept are made again
CODE = "".join(
    path.read_text()
    for module in (__file__, messages.__file__)
    for path in sorted(Path(module).parent.glob("*.py"))
)
ROWS_PER_PROCESS = 25_000  # fewer are tokenized before a second process has started
Encode = Callable[[dict[str, Any], ChatTemplate, int], TokenRow | list[TokenRow]]


class Maker(NamedTuple):
    """Make token rows from the raw rows of one source."""

    names: dict[str, str]  # source column -> ours
    read: Callable[[dict[str, Any]], dict[str, Any]]  # the row as its layout has it -> our columns
    encode: Encode
    chat: ChatTemplate
    max_length: int

    def table(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        """Encode rows into a table of ``TOKEN_ROW``, one or more for each."""
        made = [
            columns
            for row in rows
            for columns in self._rows({self.names.get(k, k): v for k, v in row.items()})
        ]
        return pa.Table.from_pylist(made, schema=TOKEN_ROW.arrow_schema)

    def _rows(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Encode a row as columns; a row that cannot be used keeps the reason instead."""
        read = row
        try:
            read = self._read(row)
            made = self.encode(read, self.chat, self.max_length)
            parts = made if isinstance(made, list) else [made]
            return [{**_columns(one), "part": i} for i, one in enumerate(parts)]
        except BadRow as reason:
            return [{"dropped": str(reason), "part": 0}]
        except (TypeError, UnicodeEncodeError):  # a tokenizer's, or Arrow's
            half = surrogate(read)
            if half is None:
                raise
            return [{"dropped": f"a text holds {half}", "part": 0}]

    def _read(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.read(row)
        except (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
            raise BadRow(f"its fields have wrong kinds: {error}") from error


def _columns(row: TokenRow) -> dict[str, Any]:
    """Turn a token row into a row of the table."""
    tokens = len(row.prompt_ids) + sum(map(len, row.completion_ids))
    row.row.encode()  # raises for half of a character pair, as the hash does
    facts = {"tokens": tokens, "kind": kind_of(row), "split_key": split_key(row.opening)}
    return {**row._asdict(), **facts, "dropped": ""}


def kind_of(row: TokenRow) -> str:
    """Choose the kind of batch for a row; ratings, and a second answer that wins, need ranks."""
    if len(row.ranks) < 2:
        return "single" if row.ranks else "prompt"
    return "pair" if row.ranks == [0, 1] and row.ratings is None else "ranking"


def split_key(opening: str) -> int:
    """Hash an opening into 64 bits, equal in every process."""
    return int.from_bytes(hashlib.blake2b(opening.encode(), digest_size=8).digest(), "big")


def held_out(split_keys: np.ndarray, fraction: float) -> np.ndarray:
    """Select the rows of the validation split, by the keys of their openings.

    The split is by a hash of the prompt, never by row: with answers to one prompt on both sides, a
    model would score well by memory. The same prompt falls on the same side in every run.
    """
    return split_keys < np.uint64(math.ceil(fraction * 2**64))


def token_row(row: dict[str, Any]) -> TokenRow:
    """Turn a row of the table back into a token row."""
    return TokenRow(**{name: row[name] for name in TokenRow._fields})


def column(rows: Dataset, name: str) -> pa.ChunkedArray:
    """Read a whole column of numbers or short strings, without a Python object for each row."""
    whole = rows.data.column(name)
    return whole if rows._indices is None else whole.take(rows._indices.column(0))


class Report(NamedTuple):
    """Counts of the rows of a source: kept, cut and dropped."""

    read: int
    kept: int  # token rows: one row of the source may become several
    cut: Counter[str]  # side -> token rows
    dropped: Counter[str]  # reason -> rows
    first: Mapping[str, int] = MappingProxyType({})  # reason -> its first row, from 1

    def __str__(self) -> str:
        parts = [f"{self.read:,} rows read, {self.kept:,} kept"]
        parts += [cut_sentence(side, n, "max_length") for side, n in self.cut.most_common()]
        parts += [
            f"{n:,} dropped ({reason}{self._place(reason)})"
            for reason, n in self.dropped.most_common()
        ]
        return "; ".join(parts)

    def _place(self, reason: str) -> str:
        return f", first in row {self.first[reason]:,}" if reason in self.first else ""


def cut_sentence(cut: str, rows: int, max_length: str) -> str:
    """Write the clause on rows that were cut, by the value of their ``cut``."""
    side = cut.removeprefix(ONE_ANSWER).strip()
    clauses = [f"cut to {max_length} ({side})"] * bool(side)
    if cut != side:
        clauses.insert(0, "with one answer each, as the chat template rewrites earlier turns")
    return f"{rows:,} {' and '.join(clauses)}"


def encode_rows(rows: Dataset, maker: Maker) -> tuple[Dataset, Report]:
    """Encode every row; rows that cannot be used are left out and counted by reason.

    Many rows are encoded on all CPUs. The table is a file that ``datasets`` caches for the next
    start; a damaged one is made again.
    """
    try:
        table = _encoded(rows, maker)
        table.data.validate(full=True)
        made = drop_bad_rows(table)
    except (pa.ArrowException, OSError, EOFError) as reason:
        log.warning(
            "the cached rows are damaged (%s): they are tokenized again", type(reason).__name__
        )
        made = drop_bad_rows(_encoded(rows, maker, load_from_cache_file=False))
    return made


def _encoded(rows: Dataset, maker: Maker, load_from_cache_file: bool = True) -> Dataset:
    with _same_environment():
        return rows.map(
            partial(_encode_columns, maker=maker, code=CODE),
            batched=True,
            remove_columns=rows.column_names,
            features=TOKEN_ROW,
            num_proc=processes(len(rows)),
            desc="tokenizing",
            load_from_cache_file=load_from_cache_file,
        )


@contextmanager
def _same_environment() -> Iterator[None]:
    """Restore ``os.environ``, the object and its content.

    ``datasets`` replaces it by a copy when it starts processes. A library that holds the first
    object (rich does) would never see what is set afterwards.
    """
    environment, parallel = os.environ, os.environ.get("TOKENIZERS_PARALLELISM")
    try:
        yield
    finally:
        os.environ = environment  # noqa: B003  (the first object, not a copy)
        if parallel is None:
            environment.pop("TOKENIZERS_PARALLELISM", None)
        else:
            environment["TOKENIZERS_PARALLELISM"] = parallel


def drop_bad_rows(table: Dataset) -> tuple[Dataset, Report]:
    """Select the rows that can be used, and count all of them."""
    dropped = pc.not_equal(column(table, "dropped"), "").to_numpy()
    kept = table.select(np.flatnonzero(~dropped)) if dropped.any() else table
    cut, reasons = _counted(column(kept, "cut")), _counted(column(table, "dropped"))
    starts = pc.equal(column(table, "part"), 0).to_numpy().cumsum()  # rows of the source so far
    first = {r: int(starts[pc.index(column(table, "dropped"), r).as_py()]) for r in reasons}
    read = int(starts[-1]) if len(starts) else 0
    return kept, Report(read=read, kept=len(kept), cut=cut, dropped=reasons, first=first)


def processes(rows: int) -> int | None:
    """Choose the number of processes for so many rows; None for this process alone."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(cpus, rows // ROWS_PER_PROCESS)
    return count if count > 1 else None


def _encode_columns(columns: dict[str, list[Any]], maker: Maker, code: str) -> pa.Table:
    """Encode raw rows, given by columns.

    ``datasets`` finds cached rows by these arguments. ``code`` is one of them, so that no cached
    row outlives the code that made it.
    """
    values = zip(*columns.values(), strict=True)
    return maker.table([dict(zip(columns, row, strict=True)) for row in values])


def _counted(texts: pa.ChunkedArray) -> Counter[str]:
    """Count each text that is not empty."""
    counts = {v["values"]: v["counts"] for v in texts.value_counts().to_pylist()}
    return Counter({text: n for text, n in counts.items() if text})
