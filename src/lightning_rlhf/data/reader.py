"""Read a source into a table of token rows, and report on its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from pytorch_lightning.utilities import rank_zero_info

from lightning_rlhf.data.cells import LOOKED_AT, look, reader, sample
from lightning_rlhf.data.diagnosis import name_wrong_bytes
from lightning_rlhf.data.gathering import gathered
from lightning_rlhf.data.layout import Layout
from lightning_rlhf.data.layouts import OURS, recognize
from lightning_rlhf.data.sources import (
    Source,
    is_mixture,
    is_stream,
    load_rows,
    mixed,
    name_of,
    new_names,
)
from lightning_rlhf.data.streaming import encode_in_memory, first_rows
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.token_table import (
    Encode,
    Maker,
    Report,
    column,
    drop_bad_rows,
    encode_rows,
)
from lightning_rlhf.text.display import printable


class Reading(NamedTuple):
    """Result of reading a source."""

    columns: list[str]
    layout: str  # its format, as the beginning of a sentence; "" for our own columns
    report: Report
    streamed: bool  # then the report covers its first block


@dataclass(kw_only=True)
class Reader:
    """Read the sources of one DataModule, by its arguments."""

    name: str  # of the DataModule's class, for messages
    accepts: Sequence[set[str]]
    encode: Encode
    chat: ChatTemplate
    columns: dict[str, str]
    format: str
    max_length: int
    max_tokens: int | None
    max_rows: int | None
    seed: int
    readings: dict[str, Reading] = field(default_factory=dict, init=False)  # of each source
    # the stream that was read last
    opened: tuple[IterableDataset, Maker] | None = field(default=None, init=False)

    def read(self, source: Any) -> Dataset:
        """Read the token rows of a source or a mixture; of a stream, its first block.

        Raises:
            ValueError: no row can be used, or one is longer than ``max_tokens``.
        """
        if not is_mixture(source):
            return self._read_one(source)
        streams = [name for name in source if is_stream(name)]
        if streams:
            raise ValueError(
                f"{streams[0]}: a mixture cannot hold streams; make one stream of several with "
                "datasets.interleave_datasets and give it as source="
            )
        tables = {name_of(one): self._read_one(one) for one in source}
        weights = {name_of(one): weight for one, weight in source.items()}
        return mixed(tables, weights, self.seed)

    @name_wrong_bytes
    def _read_one(self, source: Source) -> Dataset:
        name = name_of(source)
        rows = load_rows(source, self.columns)
        streamed = isinstance(rows, IterableDataset)
        if streamed and self.max_rows is not None:
            rows = rows.take(self.max_rows)
        raw = first_rows(rows, name) if streamed else []
        columns = [*dict.fromkeys(k for row in raw for k in row)] if streamed else rows.column_names
        maker, layout, format = self._maker(columns, name)
        if format.gather is not None:
            read = len(rows) if not streamed else 0
            rows = gathered(rows, format.gather, maker.names, source=name, format=format.name)
            layout += f"{read:,} rows gathered to {len(rows):,}; "
        maker, layout = self._looked_at(raw if streamed else sample(rows), maker, layout)
        if streamed:
            table, report = drop_bad_rows(encode_in_memory(raw, maker))
            self.opened = rows, maker
        else:
            if self.max_rows is not None:
                rows = rows.select(range(min(self.max_rows, len(rows))))
            table, report = encode_rows(rows, maker)
        self.readings[name] = Reading(columns, layout, report, streamed)
        rank_zero_info(printable(f"{name}: {layout}{'the first ' if streamed else ''}{report}"))
        if len(table) == 0:
            raise ValueError(f"{name}: no row can be used: {report}")
        longest = pc.max(column(table, "tokens")).as_py()
        if self.max_tokens is not None and longest > self.max_tokens:
            raise ValueError(
                f"{name}: a row takes {longest} tokens and max_tokens is {self.max_tokens}: "
                "raise it, or lower max_length"
            )
        return table

    def _looked_at(
        self, rows: list[dict[str, Any]], maker: Maker, layout: str
    ) -> tuple[Maker, str]:
        """Let the encoder read cells as what they mean in such rows, and say it."""
        renamed = [{maker.names.get(k, k): v for k, v in row.items()} for row in rows[:LOOKED_AT]]
        answers = {"prompt"} not in self.accepts
        cells = look(renamed, maker.read, self.chat, answers=answers)
        return maker._replace(read=reader(cells, maker.read, self.chat)), layout + cells.note

    def _maker(self, columns: list[str], name: str) -> tuple[Maker, str, Layout]:
        """Make the encoder of rows with such columns; say its format, as a sentence and whole."""
        names = new_names(columns, self.columns, name)
        renamed = [names.get(column, column) for column in columns]
        format = recognize(renamed, self.accepts, name, reader=self.name, forced=self.format)
        layout = "" if format.name == OURS else f"read as {format.name}; "
        layout += self.chat.opening_note + self.chat.ending_note + self.chat.date_note
        if "tools" in renamed:
            layout += self.chat.tools_note
        maker = Maker(
            names=names,
            read=format.read,
            encode=self.encode,
            chat=self.chat,
            max_length=self.max_length,
        )
        return maker, layout, format
