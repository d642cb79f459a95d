"""Where rows come from: a file, a hub id, or rows at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError

Source = str | list[dict[str, Any]]
READERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
OPTIONS: dict[str, dict[str, Any]] = {  # an answer may well be "None"
    "csv": {"keep_default_na": False, "na_values": [""]}
}


def load_rows(source: Source | Dataset, split: str = "train") -> Dataset:
    """Rows of a local file, of a hub data set, or as given.

    Args:
        source: a path ending in .json, .jsonl, .parquet or .csv (.gz behind it too), a hub id, a
            list of rows, or a ``datasets.Dataset``.
        split: which split of a hub data set.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: a file of a kind nobody here reads, broken, or without rows.
    """
    if isinstance(source, Dataset):
        rows = source
    elif isinstance(source, list):
        rows = Dataset.from_list(source)
    else:
        rows = _load_named(source, split)
    if len(rows) == 0:
        raise ValueError(f"{name_of(source)} holds no rows")
    return rows


def _load_named(source: str, split: str) -> Dataset:
    path = Path(source).expanduser()
    suffix = next((s for s in reversed(path.suffixes) if s != ".gz"), "")
    if path.is_file() or suffix in READERS or source.startswith((".", "/", "~")):
        if not path.is_file():
            raise FileNotFoundError(f"no data file at {path}")
        if suffix not in READERS:
            raise ValueError(
                f"{path}: cannot read {suffix or 'a file without a suffix'}; "
                f"known are {', '.join(READERS)}"
            )
        kind = READERS[suffix]
        try:
            return load_dataset(kind, data_files=str(path), split="train", **OPTIONS.get(kind, {}))
        except (DatasetGenerationError, StopIteration, ValueError) as error:
            reason = str(error.__cause__ or error) or "no rows"
            raise ValueError(f"{path} cannot be read as {kind}: {reason}") from error
    return load_dataset(source, split=split)


def name_of(source: Source | Dataset) -> str:
    """How messages call a source."""
    return source if isinstance(source, str) else f"the {type(source).__name__} given as source"


def renamed(rows: Dataset, columns: dict[str, str], name: str) -> Dataset:
    """Rows under our names of their columns.

    Args:
        rows: as read.
        columns: source column -> our name; a column that is not there is passed over.
        name: of the source, for messages.

    Raises:
        ValueError: a name that another column has already.
    """
    names = {old: new for old, new in columns.items() if old in rows.column_names}
    for old, new in names.items():
        if new in set(rows.column_names) - set(names):
            raise ValueError(
                f"{name}: columns= calls {old!r} {new!r}, "
                f"but there is a column {new!r} already; rename that one too"
            )
    return rows.rename_columns(names)


def require_columns(rows: Dataset, accepted: Sequence[set[str]], name: str, reader: str) -> None:
    """Refuse rows that have none of the accepted sets of columns.

    Raises:
        ValueError: names what is there and what is wanted.
    """
    found = rows.column_names
    if not any(needed <= set(found) for needed in accepted):
        wanted = " or ".join("{" + ", ".join(sorted(s)) + "}" for s in accepted)
        raise ValueError(
            f"{name} has the columns {{{', '.join(found)}}} but {reader} needs {wanted}; "
            "columns={'yours': 'ours'} renames them"
        )
