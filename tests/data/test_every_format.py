"""The front door, format by format: a row somebody might store, and what a model reads of it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data import reader as reading
from lightning_rlhf.data.common_sets import COMMON_SETS
from lightning_rlhf.data.datamodules import DemonstrationData, PreferenceData, PromptData
from lightning_rlhf.data.layouts import FORMATS, NAMES, OURS
from lightning_rlhf.data.rows_data import RowsData

ASKED = "\n\nHuman: Name a river.\n\nAssistant:"
BRIEF = "\n\nSystem: Be brief." + ASKED
LONG = "\n\nHuman: Hi\n\nAssistant: Hello</s>" + ASKED
USER = {"role": "user", "content": "Name a river."}
SYSTEM = {"role": "system", "content": "Be brief."}
RHINE = {"role": "assistant", "content": "The Rhine."}
OSLO = {"role": "assistant", "content": "Oslo."}
BEFORE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
HH = "\n\nHuman: Hi\n\nAssistant: Hello" + ASKED
GOOD, BAD, WORST = " The Rhine.</s>", " Oslo.</s>", " No.</s>"
PAIR = [GOOD, BAD]
HUMAN, GPT = {"from": "human", "value": "Name a river."}, {"from": "gpt", "value": "The Rhine."}
SHORT = {"prompt": "Name a river.", "completions": ["The Rhine.", "Oslo.", "No."]}
ANSWERS = [GOOD, BAD, WORST]


class Sample(NamedTuple):
    """A stored row and what is read of it, under the "plain" template."""

    format: str  # as it is said
    kind: type[RowsData]
    row: dict[str, Any]
    prompt: str
    completions: list[str]
    facts: dict[str, Any] = {}  # noqa: RUF012  (read only)
    forced: str = "auto"


def pair(name: str, row: dict[str, Any], prompt: str = ASKED, forced: str = "auto",
         **facts: Any) -> Sample:  # fmt: skip
    return Sample(name, PreferenceData, row, prompt, PAIR, {"ranks": [0, 1], **facts}, forced)


def ranked(name: str, row: dict[str, Any], ranks: list[int], ratings: Any = None) -> Sample:
    facts = {"ranks": ranks, "ratings": ratings}
    return Sample(name, PreferenceData, row, ASKED, ANSWERS, facts)


def thumb(name: str, row: dict[str, Any], label: float, prompt: str = ASKED) -> Sample:
    return Sample(name, PreferenceData, row, prompt, [GOOD], {"ranks": [0], "label": label})


def shown(name: str, row: dict[str, Any], prompt: str = ASKED, said: str = GOOD) -> Sample:
    return Sample(name, DemonstrationData, row, prompt, [said])


SIDES = {"chosen": "The Rhine.", "rejected": "Oslo."}
TWO = {"output_1": "Oslo.", "output_2": "The Rhine."}
SAMPLES = [
    # pairs
    pair(OURS, {"prompt": "Name a river.", **SIDES}),
    pair(OURS, {"prompt": "Name a river.", **SIDES, "label": 0.75, "margin": 2.0}, label=0.75,
         margin=2.0),
    pair(OURS, {"prompt": [SYSTEM, USER], "chosen": [RHINE], "rejected": [OSLO]}, BRIEF),
    pair(OURS, {"chosen": [SYSTEM, USER, RHINE], "rejected": [SYSTEM, USER, OSLO]}, BRIEF),
    pair(OURS, {"chosen": HH + " The Rhine.", "rejected": HH + " Oslo."},
         LONG),
    pair(OURS, {"chosen": [HUMAN, GPT], "rejected": [HUMAN, {"from": "gpt", "value": "Oslo."}]}),
    pair("sharegpt-pairs", {"conversations": [HUMAN], "chosen": GPT,
                            "rejected": {"from": "gpt", "value": "Oslo."}, "system": "Be brief."},
         BRIEF),
    pair("alpaca-pairs", {"instruction": "Name a river.", "input": "", **SIDES, "label": 0.5},
         label=0.5),
    pair("annotated", {"instruction": "Name a river.", "response1": "Oslo.",
                       "response2": "The Rhine.", "annotator1": 2, "annotator2": 2,
                       "annotator3": 1}, label=pytest.approx(2 / 3)),
    pair("two-outputs", {"input": "Name a river.", **TWO, "label": 2}),
    pair("response-j-k", {"question": "Name a river.", "response_j": "The Rhine.",
                          "response_k": "Oslo."}),
    pair("scored-pairs", {"prompt": "Name a river.", **SIDES, "score_chosen": 8.5,
                          "score_rejected": 2.0}, forced="scored-pairs", margin=6.5),
    # rankings
    ranked(OURS, SHORT, [0, 1, 2]),
    ranked(OURS, {**SHORT, "ranks": [1, 2, 2]}, [0, 1, 1]),
    ranked(OURS, {**SHORT, "ratings": [5, 3, 3]}, [0, 1, 1], [5, 3, 3]),
    ranked(OURS, {**SHORT, "order": "A>B=C"}, [0, 1, 1]),
    ranked(OURS, {**SHORT, "order": [[2], [0, 1]]}, [1, 1, 0]),
    ranked(OURS, {**SHORT, "completions": [["The Rhine."], ["Oslo.", "No."]]}, [0, 1, 1]),
    ranked("ultrafeedback", {"instruction": "Name a river.", "completions": [
        {"response": "The Rhine.", "overall_score": 9.0}, {"response": "Oslo.",
         "overall_score": 2.5}, {"response": "No.", "overall_score": 2.5}]}, [0, 1, 1],
        [9, 2.5, 2.5]),
    ranked("ranked-answers", {"prompt": "Name a river.", "answers": [
        {"answer": "The Rhine.", "rank": 1.0}, {"answer": "Oslo.", "rank": 3.0},
        {"answer": "No.", "rank": 2.0}]}, [0, 2, 1]),
    # thumbs
    thumb(OURS, {"prompt": "Name a river.", "completion": "The Rhine.", "label": True}, 1),
    thumb(OURS, {"prompt": "Name a river.", "completion": "The Rhine.", "label": -1}, 0),
    thumb(OURS, {"messages": [SYSTEM, USER, RHINE], "label": "thumbs_down"}, 0, BRIEF),
    thumb("sharegpt-feedback", {"conversations": [HUMAN, GPT], "label": "up"}, 1),
    thumb("alpaca-feedback", {"instruction": "Name a river.", "response": "The Rhine.",
                              "label": False}, 0),
    thumb("alpaca-feedback", {"instruction": "Name", "input": "a river.", "output": "The Rhine.",
                              "label": 1}, 1, ASKED.replace("Name ", "Name\n\n")),
    # demonstrations
    shown(OURS, {"prompt": "Name a river.", "completion": "The Rhine."}),
    shown(OURS, {"messages": [*BEFORE, USER, RHINE]}, "\n\nHuman: Hi\n\nAssistant:",
          " Hello</s>" + ASKED + GOOD),
    shown(OURS, {"text": ASKED + " The Rhine."}),
    shown(OURS, {"text": "The Rhine."}, "\n\nAssistant:"),
    shown(OURS, {"messages": [SYSTEM, USER, {"role": "assistant", "content": None, "tool_calls":
          [{"name": "map"}]}, {"role": "tool", "content": "Rhine"}, RHINE]}, BRIEF,
          ' {"name": "map"}</s>\n\nTool: Rhine\n\nAssistant:' + GOOD),
    shown("sharegpt", {"conversations": [HUMAN, GPT], "system": "Be brief."}, BRIEF),
    shown("alpaca", {"instruction": "Name a river.", "input": "", "output": "The Rhine."}),
    shown("instructions", {"instruction": "Name a river.", "response": "The Rhine."}),
    shown("questions", {"question": "Name a river.", "answer": "The Rhine."}),
    shown(OURS, {"prompt": "Name a river.", **SIDES}),
    # prompts
    Sample(OURS, PromptData, {"prompt": "Name a river."}, ASKED, []),
    Sample(OURS, PromptData, {"messages": [SYSTEM, USER]}, BRIEF, []),
    Sample(OURS, PromptData, {"chosen": HH + " The Rhine."}, LONG, []),
    Sample("questions", PromptData, {"question": "Name a river.", "answer": "#### 4"}, ASKED, []),
    Sample("alpaca", PromptData, {"instruction": "Name a river.", "output": "No."}, ASKED, []),
]  # fmt: skip


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
    assert lines == [f"{file}: {layout}1 rows read, 1 kept"]
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
    return lambda path: path.write_bytes(gzip.compress(text.encode()))


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
