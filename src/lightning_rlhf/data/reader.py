"""From a source to its table of token rows: who reads it, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from pytorch_lightning.utilities import rank_zero_info

from lightning_rlhf.data.diagnosis import names_wrong_bytes
from lightning_rlhf.data.layouts import OURS, recognise
from lightning_rlhf.data.sources import (
    Source,
    is_mixture,
    is_stream,
    load_rows,
    mixed,
    name_of,
    new_names,
)
from lightning_rlhf.data.streaming import encoded, first_rows
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.token_table import Encode, Maker, Report, column, sifted, token_rows


class Reading(NamedTuple):
    """What was made of a source."""

    columns: list[str]
    layout: str  # how it was read, a sentence's beginning; "" for our own columns
    report: Report
    streamed: bool  # then the report is of its first block


@dataclass
class Reader:
    """How one DataModule reads its sources; the arguments are the DataModule's own."""

    name: str  # of its class, for messages
    accepts: Sequence[set[str]]
    encode: Encode
    chat: ChatTemplate
    columns: dict[str, str]
    format: str
    max_length: int
    max_tokens: int | None
    max_rows: int | None
    seed: int
    readings: dict[str, Reading] = field(default_factory=dict)  # of each source
    opened: tuple[IterableDataset, Maker] | None = None  # the stream that was read last

    def read(self, source: Any) -> Dataset:
        """Token rows of a source or a mixture; of a stream its first block.

        Raises:
            ValueError: no row can be used, or one is longer than a step.
        """
        if not is_mixture(source):
            return self._read_one(source)
        streams = [name for name in source if is_stream(name)]
        if streams:
            raise ValueError(
                f"{streams[0]}: a mixture holds no streams; datasets.interleave_datasets makes one "
                "stream of several, which source= takes"
            )
        return mixed({name: self._read_one(name) for name in source}, source, self.seed)

    @names_wrong_bytes
    def _read_one(self, source: Source) -> Dataset:
        name = name_of(source)
        rows = load_rows(source)
        streamed = isinstance(rows, IterableDataset)
        if streamed:
            rows = rows if self.max_rows is None else rows.take(self.max_rows)
            raw = first_rows(rows, name)
            columns = [*dict.fromkeys(k for row in raw for k in row)]
            maker, layout = self._maker(columns, name)
            made, report = sifted(encoded(raw, maker))
            self.opened = rows, maker
        else:
            if self.max_rows is not None:
                rows = rows.select(range(min(self.max_rows, len(rows))))
            columns = rows.column_names
            maker, layout = self._maker(columns, name)
            made, report = token_rows(rows, maker)
        self.readings[name] = Reading(columns, layout, report, streamed)
        rank_zero_info(f"{name}: {layout}{'the first ' if streamed else ''}{report}")
        if len(made) == 0:
            raise ValueError(f"{name}: no row can be used: {report}")
        longest = pc.max(column(made, "tokens")).as_py()
        if self.max_tokens is not None and longest > self.max_tokens:
            raise ValueError(
                f"{name}: a row takes {longest} tokens and max_tokens is {self.max_tokens}: "
                "raise it, or lower max_length"
            )
        return made

    def _maker(self, columns: list[str], name: str) -> tuple[Maker, str]:
        """How rows of such columns are read and encoded, and the sentence that says so."""
        names = new_names(columns, self.columns, name)
        there = [names.get(column, column) for column in columns]
        found = recognise(there, self.accepts, name, self.name, self.format)
        layout = "" if found.name == OURS else f"read as {found.name}; "
        layout += self.chat.ending_note
        if "tools" in there:
            layout += self.chat.tools_note
        return Maker(names, found.read, self.encode, self.chat, self.max_length), layout
