"""Gather the rows of a source that belong together before they are read, see ``trees``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from datasets import Dataset, IterableDataset

from lightning_rlhf.data.trees import COLUMNS
from lightning_rlhf.text.messages import BadRow

Row = dict[str, Any]
Gather = Callable[[Iterable[Row]], Iterator[Row]]  # rows of a source -> ours, or their problems
# columns that no gathered set has, and that may not be lost
BESIDE = frozenset("system system_prompt context history tools image images".split())
BLOCK = 1000  # rows that are Python objects at once
COLUMN = "gathered"  # the JSON text of a row: rows of one set may hold values of several types


def gathered(
    rows: Dataset, gather: Gather, names: Mapping[str, str], *, source: str, format: str
) -> Dataset:
    """Make the table of the gathered rows of a source.

    Args:
        rows: all of them.
        gather: of the format.
        names: source column -> ours.
        source: its name, for messages.
        format: its name, for messages.

    Raises:
        ValueError: the source is a stream, or has a column that changes what its rows say.
    """
    if isinstance(rows, IterableDataset):
        raise ValueError(
            f"{source}: {format} looks at all rows of a source at once, and a stream is read in "
            "blocks: give a file, a folder or a hub id without stream:, or a table"
        )
    unread = [c for c in rows.column_names if names.get(c, c) in BESIDE and any(rows[c])]
    if unread:
        raise ValueError(
            f"{source}: {format} does not read {', '.join(unread)}, and without it a row says "
            f"something else: leave it out with columns={{'{unread[0]}': 'unused'}}"
        )
    read = rows.select_columns([c for c in rows.column_names if names.get(c, c) in COLUMNS])
    renamed = (
        dict(zip((names.get(c, c) for c in block), row, strict=True))
        for block in read.iter(BLOCK)
        for row in zip(*block.values(), strict=True)
    )
    return Dataset.from_dict({COLUMN: [json.dumps(row, default=str) for row in gather(renamed)]})


def read_gathered(row: Row) -> Row:
    """Read a row of that table.

    Raises:
        BadRow: it stands for rows that cannot be used.
    """
    read = json.loads(row[COLUMN])
    if "problem" in read:
        raise BadRow(read["problem"])
    return read
