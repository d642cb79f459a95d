"""Read a source into a table of token rows, and report on its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from pytorch_lightning.utilities import rank_zero_info

from lightning_rlhf.data.cells import LOOKED_AT, look, reader, sample
from lightning_rlhf.data.diagnosis import name_wrong_bytes
from lightning_rlhf.data.gathering import gathered
from lightning_rlhf.data.labels import look_at_labels, look_at_pairs, refuse_a_tree
from lightning_rlhf.data.layout import Layout
from lightning_rlhf.data.layouts import OURS, recognize
from lightning_rlhf.data.source_columns import Columns
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
    account: str  # what becomes of each column
    rows: Any  # of the source, as its layout takes them; of a stream, its first block
    maker: Maker  # makes token rows of them


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
        names = new_names(columns, self.columns, name)
        renamed = [names.get(column, column) for column in columns]
        format, note = self._choose(renamed, Columns(raw or rows, names), name)
        account = format.account(renamed)
        rank_zero_info(printable(f"{name}: {account}"))
        maker, layout = self._maker(format, names, renamed)
        layout += note
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
        self.readings[name] = Reading(
            columns,
            layout,
            report,
            streamed,
            account=account,
            rows=raw if streamed else rows,
            maker=maker,
        )
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

    def _choose(self, columns: list[str], there: Columns, name: str) -> tuple[Layout, str]:
        """Choose the layout of a source, and look at the columns that decide what it means.

        Returns:
            The layout, and clauses for the log on what was seen.

        Raises:
            ValueError: no layout fits, or its labels or texts are not what they seem.
        """
        layout = recognize(columns, self.accepts, name, reader=self.name, forced=self.format)
        refuse_a_tree(there, name, layout, columns)
        if layout.gather is not None or layout.keeps is None:
            return layout, ""
        if "label" in layout.gives and "label" in columns:
            signed, note = look_at_labels(there, name)
            return replace(layout, signed=signed), note
        if "rejected" in layout.gives and "margin" in layout.keeps:
            return layout, look_at_pairs(there, name, layout)
        return layout, ""

    def _maker(
        self, layout: Layout, names: dict[str, str], columns: list[str]
    ) -> tuple[Maker, str]:
        """Make the encoder of rows of a layout, and say it as the beginning of a sentence."""
        said = "" if layout.name == OURS else f"read as {layout.name}; "
        said += self.chat.opening_note + self.chat.ending_note + self.chat.date_note
        if any(layout.known.get(column) == "tools" for column in columns):
            said += self.chat.tools_note
        maker = Maker(
            names=names,
            read=layout.read,
            encode=self.encode,
            chat=self.chat,
            max_length=self.max_length,
        )
        return maker, said
