"""Make one table of rows in memory, or of files whose columns differ in type.

``datasets`` keeps a column of several types as JSON, but reads a text such as "007" in it as a
number. Here each value is written as JSON first, so that it comes back as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import (
    Dataset,
    Features,
    IterableDataset,
    Json,
    Value,
    concatenate_datasets,
)
from pytorch_lightning.utilities import rank_zero_info

from lightning_rlhf.data.diagnosis import opened, surrogate
from lightning_rlhf.text.display import printable


def as_json(value: Any) -> str | None:
    """Write a value as JSON; dates and the like as their text."""
    return None if value is None else json.dumps(value, default=str, ensure_ascii=False)


def from_memory(source: Any, name: str) -> Dataset:
    """Make a table of a list of rows, a dict of columns or a data frame of pandas.

    Raises:
        ValueError: it is something else, or a row is not a dict of fields.
    """
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        source = {str(key): source[key].tolist() for key in source.columns}
        source = {key: [_none(value) for value in values] for key, values in source.items()}
    if isinstance(source, list | tuple):
        wrong = next((i for i, row in enumerate(source, 1) if not isinstance(row, dict)), None)
        if wrong is not None:
            kind = type(source[wrong - 1]).__name__
            raise ValueError(
                f"{name}: row {wrong} is {kind}, not a row of named fields; give a list of dicts"
            )
        keys = dict.fromkeys(key for row in source for key in row)
        source = {key: [row.get(key) for row in source] for key in keys}
    if not isinstance(source, dict):
        raise ValueError(
            f"{name} cannot be read: give a path, a hub id, a list of rows, a data frame "
            "or an object of datasets"
        )
    return _from_columns(source, name)


def _none(value: Any) -> Any:
    """Return None for what pandas writes where a value is missing."""
    missing = type(value).__name__ in ("NAType", "NaTType") or (
        isinstance(value, float) and value != value
    )
    return None if missing else value


def _from_columns(columns: dict[str, Any], name: str) -> Dataset:
    lists = {str(key): list(values) for key, values in columns.items()}
    if len({len(values) for values in lists.values()}) > 1:
        lengths = ", ".join(f"{key} {len(values)}" for key, values in lists.items())
        raise ValueError(f"{name} has columns of several lengths: {lengths}; give one row to each")
    try:
        return Dataset.from_dict(lists)
    except (pa.ArrowException, OverflowError, TypeError, ValueError, AttributeError) as error:
        for number, row in enumerate(zip(*lists.values(), strict=True), start=1):
            if half := surrogate(row):
                raise ValueError(
                    f"{name}: row {number} holds {half}; fix or remove that row"
                ) from error
    types = {key: Json() for key, values in lists.items() if not _has_one_type(values)}
    kept = {
        k: [as_json(v) for v in values] if k in types else values for k, values in lists.items()
    }
    parts = [
        Dataset.from_dict({k: v}, Features({k: types[k]}) if k in types else None)
        for k, v in kept.items()
    ]
    return concatenate_datasets(parts, axis=1)


def _has_one_type(values: list[Any]) -> bool:
    try:
        Dataset.from_dict({"": values})
    except (pa.ArrowException, OverflowError, TypeError, ValueError, AttributeError):
        return False
    return True


def joined(tables: Sequence[Dataset], files: Sequence[str]) -> Dataset:
    """Concatenate the tables of several files; columns whose types differ keep each value's own.

    The log names these columns and two of their files.
    """
    mixed: list[str] = []
    types: dict[str, tuple[Any, str]] = {}
    for table, file in zip(tables, files, strict=True):
        for name, kind in table.features.items():
            first, there = types.setdefault(name, (kind, file))
            if first == Value("null"):
                types[name] = kind, file
            elif name not in mixed and kind not in (first, Value("null")):
                mixed.append(name)
                rank_zero_info(
                    printable(
                        f"{file}: column {name!r} is {_type(kind)}, and {_type(first)} in "
                        f"{there}; each row keeps its own"
                    )
                )
    return concatenate_datasets([_with_json(table, mixed) for table in tables])


def _type(kind: Any) -> str:
    return str(getattr(kind, "dtype", None) or type(kind).__name__)


def _with_json(table: Dataset, names: Sequence[str]) -> Dataset:
    """Turn columns of a table into JSON."""
    mine = [name for name in names if name in table.features]
    if not mine:
        return table
    types = Features({name: Json() for name in mine})
    turned = table.select_columns(mine).map(_columns_as_json, batched=True, features=types)
    rest = table.remove_columns(mine)
    return concatenate_datasets([rest, turned], axis=1) if rest.column_names else turned


def _columns_as_json(columns: dict[str, list[Any]]) -> dict[str, list[str | None]]:
    return {name: [as_json(value) for value in values] for name, values in columns.items()}


def read_json(files: Sequence[str], features: Features | None, streamed: bool) -> Any:
    """Read JSON files value by value; every column without a type keeps each value's own.

    Args:
        files: their paths.
        features: the types of the columns that have one; None to find the columns.
        streamed: True to read them during training.
    """
    stamps = [(s.st_mtime_ns, s.st_size) for s in (Path(f).stat() for f in files)]
    given: dict[str, Any] = {"files": list(files), "stamps": stamps}
    if streamed:
        return IterableDataset.from_generator(_rows, gen_kwargs=given)
    if features is None:
        columns = dict.fromkeys(key for row in _rows(files) for key in row)
        features = Features({name: Json() for name in columns})
    given["types"] = features
    return Dataset.from_generator(_typed_rows, features=features, gen_kwargs=given)


def _typed_rows(
    files: Sequence[str], stamps: Sequence[Any], types: Features
) -> Iterator[dict[str, Any]]:
    """Yield rows; ``datasets`` finds cached ones by these arguments."""
    for row in _rows(files):
        yield {
            name: as_json(row.get(name)) if kind == Json() else row.get(name)
            for name, kind in types.items()
        }


def _rows(files: Sequence[str], stamps: Sequence[Any] = ()) -> Iterator[dict[str, Any]]:
    for file in files:
        with opened(Path(file)) as text:
            first = text.read(1)
            while first.isspace():
                first = text.read(1)
            if first == "[":
                yield from json.loads(first + text.read())
                continue
            for line in text:
                line, first = first + line, ""
                if line.strip():
                    yield json.loads(line)
