"""The front door, format by format: a row somebody might store, and what a model reads of it."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from format_rows import SAMPLES, Sample
from lightning_rlhf.data import reader as reading
from lightning_rlhf.data.common_sets import COMMON_SETS
from lightning_rlhf.data.datamodules import DemonstrationData, PreferenceData, PromptData
from lightning_rlhf.data.layouts import FORMATS, NAMES, OURS


def test_every_format_is_in_the_table() -> None:
    common = {one.name for one in COMMON_SETS}  # test_common_sets.py has samples of them
    assert {sample.format for sample in SAMPLES} == set(NAMES) - common
    for wanted in (f for f in FORMATS if f.name not in common):
        found = [s for s in SAMPLES if s.format == wanted.name and wanted.columns <= s.row.keys()]
        assert found, wanted
    for kind in (PreferenceData, DemonstrationData, PromptData):
        rows = [s.row.keys() for s in SAMPLES if s.kind is kind and s.format == OURS]
        lacking = [wanted for wanted in kind.accepts if not any(wanted <= row for row in rows)]
        assert lacking in ([], [{"text"}]), f"{kind.__name__}: no row with {lacking}"


@pytest.mark.parametrize(
    "sample", SAMPLES, ids=lambda s: f"{s.kind.__name__}-{s.format}-{'-'.join(s.row)}"
)
def test_a_row_of_every_format(
    sample: Sample,
    tokenizers: dict[str, PreTrainedTokenizerBase],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(reading, "rank_zero_info", lines.append)
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**sample.row, "id": 7}) + "\n")  # more columns harm nobody
    tokenizer = tokenizers["byte_level"]
    settings = {"template": "plain", "tokenizer": tokenizer, "val_fraction": 0}
    data = sample.kind(str(file), format=sample.forced, **settings)  # type: ignore[arg-type]
    data.setup()
    layout = "" if sample.format == OURS else f"read as {sample.format}; "
    account, *rest = lines
    assert rest == [f"{file}: {layout}1 rows read, 1 kept"]
    whole = sample.kind is PromptData and sample.format == OURS
    assert account.startswith(f"{file}: reads ")
    assert account.endswith("; rewards see id" if whole else "; does not read id")
    assert sample.row.keys() <= set(re.findall(r"\w+", account))
    assert data.train_rows is not None
    (row,) = data.sample_rows(1)
    assert tokenizer.decode(row.prompt_ids) == sample.prompt
    assert tokenizer.batch_decode(row.completion_ids) == sample.completions
    facts = {"ratings": None, "label": None, "margin": None, **sample.facts}
    assert {name: getattr(row, name) for name in facts} == facts


# ---- every place rows may lie ----

ROWS = [
    {"question": f"Name river {i}.", "chosen": f"The Rhine {i}.", "rejected": "Oslo."}
    for i in range(6)
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
TABLE = "\n".join([",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)]) + "\n"


def zipped(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(gzip.compress(text.encode(), mtime=0))


def folder(path: Path) -> None:
    """Three kinds side by side, and something that is no data."""
    path.mkdir()
    (path / "a.jsonl").write_text("".join(LINES.splitlines(keepends=True)[:2]))
    zipped("\n".join([TABLE.splitlines()[0], *TABLE.splitlines()[3:5]]))(path / "b.csv.gz")
    Dataset.from_list(ROWS[4:]).to_parquet(path / "c.parquet")
    (path / "README.md").write_text("not data")


PLACES: dict[str, Callable[[Path], Any]] = {
    "rows.json": lambda path: path.write_text(json.dumps(ROWS)),
    "rows.json.gz": zipped(json.dumps(ROWS)),
    "rows.jsonl": lambda path: path.write_text(LINES),
    "rows.v1.jsonl.gz": zipped(LINES),
    "rows.csv": lambda path: path.write_text(TABLE),
    "rows.csv.gz": zipped(TABLE),
    "rows.parquet": lambda path: Dataset.from_list(ROWS).to_parquet(path),
    "folder": folder,
    "saved": lambda path: Dataset.from_list(ROWS).save_to_disk(path),
    "saved-splits": lambda path: DatasetDict(
        {"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])}
    ).save_to_disk(path),
}
OBJECTS: dict[str, Callable[[], Any]] = {
    "list": lambda: ROWS,
    "Dataset": lambda: Dataset.from_list(ROWS),
    "DatasetDict": lambda: DatasetDict({"train": Dataset.from_list(ROWS)}),
    "the only split": lambda: DatasetDict({"test": Dataset.from_list(ROWS)}),
}


STREAMED = [*PLACES, "Dataset"]


@pytest.mark.parametrize(
    ("place", "streamed"),
    [*((p, False) for p in (*PLACES, *OBJECTS)), *((p, True) for p in STREAMED)],
)
def test_rows_are_the_same_wherever_they_lie(
    place: str, streamed: bool, tokenizers: dict[str, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    """Under a map of column names, as a table and as a stream."""
    if place in PLACES:
        PLACES[place](tmp_path / place)
        source: Any = ("stream:" if streamed else "") + str(tmp_path / place)
    elif streamed:
        source = Dataset.from_list(ROWS).to_iterable_dataset()
    else:
        source = OBJECTS[place]()
    tokenizer = tokenizers["byte_level"]
    names = {"question": "prompt"}
    data = PreferenceData(source, columns=names, val_fraction=0, tokenizer=tokenizer, batch_size=6)
    data.setup()
    found = [tokenizer.decode(row.prompt_ids) for row in data.sample_rows(9)]
    if place == "folder" and streamed:  # kind by kind
        found.sort()
    assert found == [row["question"] for row in ROWS]
    assert [tokenizer.batch_decode(row.completion_ids) for row in data.sample_rows(1)] == [
        ["The Rhine 0.</s>", "Oslo.</s>"]
    ]
    (batch,) = data.train_dataloader()
    assert len(batch.chosen) == 6


def test_of_several_splits_one_must_be_named(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    splits = DatasetDict({"a": Dataset.from_list(ROWS), "b": Dataset.from_list(ROWS)})
    data = PreferenceData(splits, tokenizer=tokenizers["byte_level"])  # type: ignore[arg-type]
    with pytest.raises(ValueError) as raised:
        data.setup()
    assert str(raised.value) == (
        "the DatasetDict given as source has no split train but a, b: give one of them"
    )
