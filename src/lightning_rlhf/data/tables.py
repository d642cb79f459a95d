"""Make one table of rows in memory, or of files whose columns differ in type.

``datasets`` keeps a column of several types as JSON, but reads a text such as "007" in it as a
number. Here each value is written as JSON first, so that it comes back as it was.
"""

from __future__ import annotations

import json
import re
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
from lightning_rlhf.text.display import HALF, named, printable, quoted

# what Arrow and ``datasets`` raise of values that do not fit in one column
UNFIT = (
    pa.ArrowException, OverflowError, TypeError, ValueError, AttributeError, KeyError,
    RecursionError,
)  # fmt: skip
BIG = re.compile(r"\d{19}")
DEEPEST = 100  # levels of lists and dicts in a value


def as_json(value: Any) -> str | None:
    """Write a value as JSON; dates and the like as their text."""
    if value is None:
        return None
    text = json.dumps(value, default=str, ensure_ascii=False)
    if not BIG.search(text):
        return text
    return json.dumps(_within_64_bits(value), default=str, ensure_ascii=False)


def _within_64_bits(value: Any) -> Any:
    """Turn larger integers into floats: ``datasets`` would return all of the value as text."""
    if isinstance(value, dict):
        return {key: _within_64_bits(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_within_64_bits(one) for one in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(max(-(10**308), min(value, 10**308)))
    return value


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
    _check_names_and_depth(lists, name)
    try:
        table = Dataset.from_dict(lists)
        if not any(_names_twice(field.type) for field in table.data.schema):
            return table
    except UNFIT as error:
        for number, row in enumerate(zip(*lists.values(), strict=True), start=1):
            if half := surrogate(row):
                raise ValueError(
                    f"{name}: row {number} holds {half}; fix or remove that row"
                ) from error
    return concatenate_datasets([_column(k, v, name) for k, v in lists.items()], axis=1)


def _column(key: str, values: list[Any], name: str) -> Dataset:
    """Make a table of one column; values of several types are kept as JSON."""
    if _has_one_type(values):
        return Dataset.from_dict({key: values})
    try:
        texts = [as_json(value) for value in values]
        return Dataset.from_dict({key: texts}, Features({key: Json()}))
    except UNFIT as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name}: the column {quoted(key)} cannot be kept ({quoted(reason)}): give texts, "
            "numbers, lists and dicts of them"
        ) from error


def _check_names_and_depth(columns: dict[str, list[Any]], name: str) -> None:
    """Refuse what Arrow cannot name, and what it would take minutes to look at."""
    for key, values in columns.items():
        if HALF.search(key) or "\x00" in key:
            raise ValueError(
                f"{name}: the column {quoted(key)} has a name that no table can hold: rename it"
            )
        for number, value in enumerate(values, start=1):
            if isinstance(value, list | dict) and not _is_flat(value, DEEPEST):
                raise ValueError(
                    f"{name}: row {number}: {named(key)} is nested deeper than {DEEPEST} levels: "
                    "fix or remove that row"
                )


def _is_flat(value: list[Any] | dict[Any, Any], levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(
        _is_flat(one, levels - 1) for one in inner if isinstance(one, list | dict)
    )


def _has_one_type(values: list[Any]) -> bool:
    try:
        table = Dataset.from_dict({"": values})
    except UNFIT:
        return False
    return not _names_twice(table.data.schema[0].type)


def _names_twice(kind: pa.DataType) -> bool:
    """Tell whether a type has two fields of one name, as a dict with the keys 1 and "1" has."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _names_twice(kind.value_type)
    if not pa.types.is_struct(kind):
        return False
    fields = [kind.field(i) for i in range(kind.num_fields)]
    twice = len({field.name for field in fields}) < len(fields)
    return twice or any(_names_twice(field.type) for field in fields)


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
