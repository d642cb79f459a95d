"""Read data files so that text stays text, whatever a reader infers of it."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, Features, Json, Value, load_dataset
from datasets.packaged_modules.json.json import JsonConfig

from lightning_rlhf.data.diagnosis import opened, unreadable
from lightning_rlhf.data.folders import READERS, suffix_of
from lightning_rlhf.data.tables import read_json

# an option of newer ``datasets``: rows with columns of a coding agent's log become others
AS_THEY_ARE = "parse_agent_traces"
LONG_TEXT = Value("large_string")
TEXT_NAMES = """
prompt chosen rejected completion completions text question query answer answers instruction input
output response reply context passage system history summary reference
document title body post reasoning thinking rationale solution human_ref system_prompt
""".split()  # a column of such a name holds text, numbered or lettered too: output_1, response_j
TIMED = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"
NESTED_NAMES = "messages conversations conversation dialog dialogue turns tools".split()
IS_TEXT = re.compile(rf"({'|'.join(TEXT_NAMES)})([_-]?(\d+|[a-z]))?", re.IGNORECASE)


def cell(text: str) -> str | None:
    """Read a cell of a CSV file as it is written; an empty one holds nothing."""
    return text or None


def read_files(files: Sequence[Path], streamed: bool, columns: Mapping[str, str]) -> Any:
    """Read files of one kind into one table.

    Args:
        files: their paths.
        streamed: True to read them during training.
        columns: source column -> our name; it tells which columns hold text.

    Raises:
        ValueError: a file is of an unknown kind or cannot be read; the sentence names it.
    """
    kind, paths = kind_of(files[0]), [str(file) for file in files]
    try:
        rows = _read(kind, paths, streamed, columns)
    except Exception as error:  # readers of broken files raise what they like
        sentence = unreadable(paths, kind, error)
        if kind != "json" or sentence.found:
            raise ValueError(sentence.text) from error
        rows = _value_by_value(paths, streamed, sentence.text, error)
    if kind == "csv" and "__index_level_0__" in (rows.features or {}):
        raise ValueError(
            f"{paths[0]}: its rows have more fields than its first line has names; "
            "put texts that hold a comma in quotes"
        )
    return _plain_text(rows)


def _read(kind: str, paths: list[str], streamed: bool, columns: Mapping[str, str]) -> Any:
    if kind == "json" and streamed and len(paths) > 1:
        return read_json(paths, None, streamed)  # their columns may differ in type
    options: dict[str, Any] = {}
    if kind == "json" and AS_THEY_ARE in {field.name for field in fields(JsonConfig)}:
        options = {AS_THEY_ARE: False}
    if kind == "csv":  # an answer may be the word "None", or the text 007
        converters = dict.fromkeys(_text_columns(paths, columns), cell)
        options = {"keep_default_na": False, "na_values": [""], "converters": converters}
    rows = load_dataset(kind, data_files=paths, split="train", streaming=streamed, **options)
    if kind != "json":
        return rows
    if rows.features is None:
        return read_json(paths, None, streamed)
    inferred = _inferred(rows.features, columns)
    if not streamed:
        inferred += [name for name in _cast(rows, columns) if name not in inferred]
    types = {name: Json() if name in inferred else kept for name, kept in rows.features.items()}
    return read_json(paths, Features(types), streamed) if inferred else rows


def _is_text(name: str, columns: Mapping[str, str]) -> bool:
    return IS_TEXT.fullmatch(columns.get(name, name)) is not None


def _text_columns(paths: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    """List the columns of CSV files that hold text, by their first lines."""
    names: list[str] = []
    for path in paths:
        with opened(Path(path)) as file:
            names += next(csv.reader(file), [])
    return [name for name in dict.fromkeys(names) if _is_text(name, columns)]


def _inferred(features: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    """List the columns of JSON files in which the reader may have taken text for something else."""
    found = []
    for name, type_ in features.items():
        inside = repr(type_)
        texts = _is_text(name, columns) or columns.get(name, name) in NESTED_NAMES
        if "Json" in inside or (texts and "timestamp" in inside):
            found.append(name)
    return found


def _cast(rows: Dataset, columns: Mapping[str, str]) -> list[str]:
    """List the columns of text that the reader may have cast to the type of its first 10 MB.

    There "007" becomes the number 7 after numbers, and a date gets a time after other texts.
    """
    found = []
    for name, type_ in rows.features.items():
        if not isinstance(type_, Value) or not _is_text(name, columns):
            continue
        values = rows.data.column(name)
        if type_ == Value("string"):
            timed = values.filter(pc.equal(pc.binary_length(values), len("2024-01-01 00:00:00")))
            if not pc.any(pc.match_substring_regex(timed, TIMED)).as_py():
                continue
        elif type_ == Value("null"):
            continue
        found.append(name)
    return found


def _value_by_value(paths: list[str], streamed: bool, sentence: str, error: Exception) -> Any:
    try:
        return read_json(paths, None, streamed)
    except Exception:
        raise ValueError(sentence) from error


def _plain_text(rows: Any) -> Any:
    """Cast long texts, as pandas reads them: the tables of a folder need one type."""
    long = [name for name, kind in (rows.features or {}).items() if kind == LONG_TEXT]
    if not long:
        return rows
    return rows.cast(Features({**rows.features, **dict.fromkeys(long, Value("string"))}))


def kind_of(path: Path) -> str:
    """Return the reader of a file.

    Raises:
        ValueError: there is none.
    """
    suffix = suffix_of(path)
    if suffix not in READERS:
        raise ValueError(
            f"{path}: cannot read {suffix or 'a file without a suffix'}; "
            f"known are {', '.join(READERS)}"
        )
    return READERS[suffix]
