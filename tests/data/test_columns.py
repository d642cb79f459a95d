"""What stands beside a layout: it is read, or refused, or said not to be read."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset
from transformers import PreTrainedTokenizerBase

from format_rows import SAMPLES, Sample
from lightning_rlhf.data import reader as reading
from lightning_rlhf.data.datamodules import DemonstrationData, PreferenceData, PromptData
from lightning_rlhf.data.known_columns import KIND_OF, table
from lightning_rlhf.data.layout import Layout
from lightning_rlhf.data.layouts import FORMATS, OTHER_ORDERS
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.tokens import TokenRow
from lightning_rlhf.text.messages import BadRow

ASK, BRIEF = "Name a lake.", "Answer in one word."
PAIR = {"prompt": ASK, "chosen": "Garda.", "rejected": "Rome."}
SHOWN = {"prompt": ASK, "completion": "Garda."}
TURNS = [{"role": "user", "content": ASK}, {"role": "assistant", "content": "Garda."}]
PASSAGE = "Garda and Como are lakes in the north of Italy."
READERS: dict[str, type[RowsData]] = {
    "pair": PreferenceData, "shown": DemonstrationData, "asked": PromptData,
}  # fmt: skip


@pytest.fixture(scope="module")
def chat(tokenizers: dict[str, PreTrainedTokenizerBase]) -> ChatTemplate:
    return ChatTemplate(tokenizers["byte_level"], "plain")


def read(kind: str | type[RowsData], row: dict[str, Any], forced: str = "auto") -> dict[str, Any]:
    return layout_of(kind, row, forced).read(row)


def layout_of(kind: str | type[RowsData], row: dict[str, Any], forced: str = "auto") -> Layout:
    reader = READERS[kind] if isinstance(kind, str) else kind
    return reader.recognize([*row], "a.jsonl", forced)


def tokens_of(kind: type[RowsData], row: dict[str, Any], chat: ChatTemplate) -> list[TokenRow]:
    made = kind.encode(row, chat, 512)
    return [one._replace(row="") for one in (made if isinstance(made, list) else [made])]


def said(row: TokenRow, chat: ChatTemplate) -> str:
    ids = [row.prompt_ids, *row.completion_ids]
    return "\n".join(chat.tokenizer.decode(one) for one in ids)


def test_the_docs_have_the_table_of_the_code() -> None:
    assert table() in (Path(__file__).parents[2] / "docs" / "data.md").read_text()


SYSTEM = {"role": "system", "content": BRIEF}
USER, ANSWER = TURNS


@pytest.mark.parametrize(
    ("kind", "row", "expected"),
    [
        ("pair", {**PAIR, "system": BRIEF}, {"prompt": [SYSTEM, USER]}),
        ("pair", {**PAIR, "System_Prompt": BRIEF}, {"prompt": [SYSTEM, USER]}),
        ("pair", {**PAIR, "system": ""}, {"prompt": ASK}),
        ("pair", {**PAIR, "system": None}, {"prompt": ASK}),
        ("pair", {**PAIR, "system": BRIEF, "prompt": [SYSTEM, USER]}, {"prompt": [SYSTEM, USER]}),
        ("pair", {"chosen": TURNS, "rejected": TURNS, "system": BRIEF},
         {"chosen": [SYSTEM, *TURNS], "rejected": [SYSTEM, *TURNS]}),
        ("pair", {"prompt": "junk", "chosen": TURNS, "rejected": TURNS, "system": BRIEF},
         {"prompt": "junk", "chosen": [SYSTEM, *TURNS], "rejected": [SYSTEM, *TURNS]}),
        ("pair", {**SHOWN, "label": 1, "system": BRIEF}, {"prompt": [SYSTEM, USER]}),
        ("pair", {"prompt": ASK, "completions": ["a", "b"], "system": BRIEF},
         {"prompt": [SYSTEM, USER]}),
        ("shown", {"messages": TURNS, "system": BRIEF}, {"messages": [SYSTEM, *TURNS]}),
        ("shown", {"instruction": ASK, "output": "Garda.", "system_prompt": BRIEF},
         {"prompt": [SYSTEM, USER]}),
        ("asked", {"prompt": ASK, "system": BRIEF}, {"prompt": [SYSTEM, USER]}),
        ("asked", {"messages": TURNS, "system": BRIEF}, {"prompt": [SYSTEM, USER]}),
        ("shown", {"instruction": ASK, "context": PASSAGE, "response": "Garda."},
         {"prompt": f"{ASK}\n\n{PASSAGE}"}),
        ("pair", {**PAIR, "passages": [PASSAGE, "Rome has none."]},
         {"prompt": f"{ASK}\n\n{PASSAGE}\n\nRome has none."}),
        ("pair", {**PAIR, "input": "5", "document": PASSAGE},
         {"prompt": f"{ASK}\n\n5\n\n{PASSAGE}"}),
        ("pair", {**PAIR, "prompt": f"{PASSAGE}\n{ASK}", "context": PASSAGE},
         {"prompt": f"{PASSAGE}\n{ASK}"}),
        ("shown", {"messages": TURNS, "context": PASSAGE},
         {"messages": [{"role": "user", "content": f"{ASK}\n\n{PASSAGE}"}, ANSWER]}),
        ("shown", {**SHOWN, "history": [["Hi", "Hello"]], "system": BRIEF},
         {"prompt": [SYSTEM, {"role": "user", "content": "Hi"},
                     {"role": "assistant", "content": "Hello"}, USER]}),
        ("pair", {**PAIR, "chat_history": TURNS}, {"prompt": [*TURNS, USER]}),
        ("shown", {**SHOWN, "thinking": "Which lakes are there?"},
         {"completion": [{**ANSWER, "reasoning_content": "Which lakes are there?"}]}),
        ("asked", {"prompt": ASK, "thinking": "Which?"}, {"prompt": ASK, "thinking": "Which?"}),
        ("shown", {**SHOWN, "reasoning": "off"}, {"completion": "Garda."}),
        ("pair", {**PAIR, "functions": [{"name": "map"}]}, {"tools": [{"name": "map"}]}),
        ("pair", {**PAIR, "weight": 1, "train": True}, PAIR),
        ("pair", {**PAIR, "prompt": f"{ASK} Garda or Como?", "choices": ["Garda", "Como"]},
         {"chosen": "Garda."}),
        ("pair", {**PAIR, "images": [], "image": None}, PAIR),
        ("shown", {"text": f"{BRIEF} And the rest.", "system": BRIEF},
         {"text": f"{BRIEF} And the rest."}),
        ("pair", {**PAIR, "prompt": "<image><url>a</url></image> What is this XML?"},
         {"chosen": "Garda."}),
    ],
)  # fmt: skip
def test_a_column_beside_a_layout_is_read(
    kind: str, row: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = read(kind, row)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("pair", {**PAIR, "system": BRIEF, "prompt": [{**SYSTEM, "content": "Hum."}, USER]},
         "system is another text than the system turn"),
        ("pair", {**PAIR, "system": BRIEF, "system_prompt": "Hum."},
         "system and system_prompt say different things"),
        ("pair", {**PAIR, "context": {"title": ["a"]}}, "context is dict, not text"),
        ("pair", {**PAIR, "documents": [{"text": "a"}]}, "documents is a list of dict, not text"),
        ("shown", {"messages": [*TURNS, *TURNS], "context": PASSAGE},
         "context is not in the conversation"),
        ("pair", {**PAIR, "history": "before"}, "history is neither messages nor pairs of"),
        ("pair", {**PAIR, "reasoning": "Because."}, "reasoning stands beside no single answer"),
        ("pair", {**PAIR, "images": ["a.png"]}, "images is not read: only text is"),
        ("asked", {"prompt": ASK, "Video": b"x"}, "Video is not read: only text is"),
        ("asked", {"prompt": "<image>\nWhat is this?"}, "<image> stands for what is not text"),
        ("shown", {"messages": [{**USER, "content": "What is this? <audio>"}, ANSWER]},
         "<audio> stands for what is not text"),
        ("shown", {**SHOWN, "loss": False}, "loss switches the row off"),
        ("shown", {**SHOWN, "sample_weight": 0.5}, "sample_weight 0.5 is neither 0 nor 1"),
        ("pair", {**PAIR, "choices": ["Garda", "Como"]}, "choices is not in the prompt"),
        ("shown", {"text": "A text.", "context": PASSAGE}, "a whole text stands beside a column"),
    ],
)  # fmt: skip
def test_a_column_that_has_no_place_drops_the_row(
    kind: str, row: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadRow, match=f"^{reason}"):
        read(kind, row)


def test_an_account_names_every_column() -> None:
    row = {**PAIR, "system": BRIEF, "images": [], "id": 1, "score_chosen": 2.0, "messages": TURNS}
    assert layout_of("pair", row).account([*row]) == (
        "reads prompt, chosen, rejected; system as the system turn; drops rows with images; "
        "does not read id, score_chosen, messages"
    )
    asked = {"prompt": ASK, "answer": "4"}
    assert layout_of("asked", asked).account([*asked]) == "reads prompt; rewards see answer"


VALUES = ["Of eleven plain words this is one that no row has here.", 7, 0.5, True, None, [], "",
          ["a", "b"], {"a": 1}, [{"role": "user", "content": "Other."}]]  # fmt: skip
UNKNOWN = ["prompt_id", "score_a", "domain", "turns", "split", "Meta", "judge_reason", "model"]
# columns of other layouts: where they change the choice, the row is of that layout
OTHERS = sorted({c for f in FORMATS for c in f.columns} | {"messages", "text", "order"})


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: f"{s.kind.__name__}-{s.format}")
def test_columns_beside_a_row_change_nothing_in_silence(sample: Sample, chat: ChatTemplate) -> None:
    """Its tokens stay the same, or a known column is in them, or the row is dropped."""
    base = layout_of(sample.kind, sample.row, sample.forced)
    plain = tokens_of(sample.kind, base.read(sample.row), chat)
    draw, same, changed, dropped = random.Random(str(sample.row)), 0, 0, 0
    for _ in range(60):
        names = draw.sample([*UNKNOWN, *KIND_OF, *OTHERS], draw.randint(1, 4))
        more = {name: draw.choice(VALUES) for name in names if name not in sample.row}
        cells = [*sample.row.items(), *more.items()]
        draw.shuffle(cells)
        row = dict(cells)
        if {"prompt", "chosen", "rejected", "completion", "label"} <= row.keys():
            continue  # refused: two layouts claim the label
        if base.gives == ("completions", "prompt") and OTHER_ORDERS & row.keys():
            continue  # refused: which column orders them is not clear
        layout = layout_of(sample.kind, row, sample.forced)
        if (layout.name, layout.gives) != (base.name, base.gives):
            continue  # they make another layout
        account = layout.account([*row])
        assert all(name in account for name in row), account
        try:
            made = tokens_of(sample.kind, layout.read(row), chat)
        except BadRow:
            assert any(KIND_OF.get(name) or name in layout.reads for name in more)
            dropped += 1
            continue
        if made == plain:
            same += 1
            continue
        used = [n for n, v in more.items() if n in layout.known or n in layout.reads]
        assert used, more
        assert all(f"does not read {n}" not in account for n in used)
        changed += 1
        text = "".join(said(one, chat) for one in made)
        for name in used:
            if more[name] == VALUES[0] and layout.known.get(name) in ("system", "passage"):
                assert VALUES[0] in text
    assert same > 5


# ---- labels ----


def run(
    rows: list[dict[str, Any]], chat: ChatTemplate, monkeypatch: pytest.MonkeyPatch,
    source: Any = None, **settings: Any,
) -> tuple[RowsData, list[str]]:  # fmt: skip
    lines: list[str] = []
    monkeypatch.setattr(reading, "rank_zero_info", lines.append)
    data = PreferenceData(
        source or rows, tokenizer=chat.tokenizer, template="plain", val_fraction=0, **settings
    )
    data.setup()
    return data, lines


def labeled(*labels: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"Lake {i}?", "completion": "Garda.", "label": v}
            for i, v in enumerate(labels)]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "shares"),
    [
        (["desirable", "undesirable", "1.0", "0"], [1, 0, 1, 0]),
        (["y", "N", "Accepted", "rejected"], [1, 0, 1, 0]),
        ([1, -1, -1.0], [1, 0, 0]),
        (["1", "-1"], [1, 0]),
        ([0.25, 1, 0], [0.25, 1, 0]),
        (["0.25", "0.5"], [0.25, 0.5]),
        ([True, "bad", 1, "0.5"], [1, 0, 1, 0.5]),
    ],
)
def test_labels_of_one_scale_are_read(
    labels: list[Any], shares: list[float], chat: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = run(labeled(*labels), chat, monkeypatch)
    assert [row.label for row in data.sample_rows(9)] == shares


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([1, 4, 5], "the values 1, 4, 5,"),
        ([0, 1, 2], "the values 0, 1, 2,"),
        (["1", "2"], "the values 1, 2,"),
        ([0, 55.5, 100], "the values 0, 55.5, 100,"),
        ([-1, 0, 1], "the values -1, 0, 1: beside -1"),
        ([-1, 0.5], "the values -1, 0.5: beside -1"),
        (["good", "fair", "poor"], "the values 'fair', 'poor', neither a thumb up nor down"),
        (["good", 3], "the values 1, 3,"),
        ([*range(1, 10)], "the values 1, 2, 3, 4, 5, 6 and 3 others,"),
    ],
)
def test_labels_of_another_scale_are_refused_before_any_row(
    labels: list[Any], named: str, chat: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in (labeled(*labels), labeled(*labels[::-1])):
        with pytest.raises(ValueError) as refused:
            run(source, chat, monkeypatch)
        assert f"label has {named}" in str(refused.value)


def test_a_stray_word_drops_its_row_alone(
    chat: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, lines = run(labeled(*["good", "bad"] * 60, "god"), chat, monkeypatch)
    assert "1 dropped (label 'god' is neither a thumb up nor down, first in row 121)" in lines[-1]


def test_labels_of_one_side_are_said(chat: ChatTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    _, lines = run(labeled(1, 1, "yes"), chat, monkeypatch)
    assert "no label says bad: all 3 are good; " in lines[-1]
    _, lines = run(labeled(1, 1, 0.1), chat, monkeypatch)
    assert "no label says" not in lines[-1]


def test_classes_must_mean_what_they_are_called(
    chat: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for names, fine in ((["bad", "good"], True), (["good", "bad"], False), (["a", "b"], False)):
        table = Dataset.from_list(labeled(0, 1)).cast_column("label", ClassLabel(names=names))
        if fine:
            data, _ = run([], chat, monkeypatch, source=table)
            assert [row.label for row in data.sample_rows(2)] == [0, 1]
        else:
            with pytest.raises(ValueError, match=f"label is a class, 0 for '{names[0]}', 1 for"):
                run([], chat, monkeypatch, source=table)


def test_a_late_row_of_a_stream_in_another_scale_is_dropped() -> None:
    layout = layout_of("pair", labeled(1)[0])
    for signed, value in ((True, 0), (False, -1), (False, 2), (False, "-1")):
        with pytest.raises(BadRow, match="is not a"):
            replace(layout, signed=signed).read(labeled(value)[0])
    assert replace(layout, signed=True).read(labeled(-1)[0])["label"] == 0
    assert replace(layout, signed=True).read(labeled(False)[0])["label"] == 0


def test_labels_of_pairs_are_probabilities(
    chat: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in (5, -1, "sports"):
        with pytest.raises(ValueError, match="beside a pair it is the probability that"):
            run([{**PAIR, "label": 1}, {**PAIR, "label": wrong}], chat, monkeypatch)
    rows = [{**PAIR, "label": 0.2, "margin": -1.0, "score_chosen": 1, "score_rejected": 9}, PAIR]
    data, lines = run(rows, chat, monkeypatch)
    assert data.sample_rows(1)[0].label == pytest.approx(0.2)
    assert "label is below 0.5 in 1 rows: there rejected is the better; " in lines[-1]
    assert "margin is below 0 in 1 rows: there rejected is the better; " in lines[-1]
    assert "score_rejected is above score_chosen in 1 rows; " in lines[-1]


def test_scored_pairs_never_have_a_margin_below_zero(
    chat: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**PAIR, "score_chosen": a, "score_rejected": 4.0} for a in (1.0, 9.0)]
    data, lines = run(rows, chat, monkeypatch, format="scored-pairs")
    assert [row.margin for row in data.sample_rows(3)] == [5]
    assert "1 dropped (score_rejected is above score_chosen, first in row 1)" in lines[-1]


# ---- trees, and sources whose rows differ ----


@pytest.mark.parametrize("streamed", [False, True])
def test_a_message_per_row_is_not_a_text(
    streamed: bool, tmp_path: Path, chat: ChatTemplate
) -> None:
    rows = [{"id": 1, "parent_id": None, "text": ASK}, {"id": 2, "parent_id": 1, "text": "Garda."}]
    roles = [{"text": ASK, "role": "user"}, {"text": "Garda.", "role": "assistant"}]
    for number, (found, column) in enumerate(((rows, "parent_id"), (roles, "role"))):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
        for kind in (DemonstrationData, PromptData):
            source = f"stream:{path}" if streamed else str(path)
            data = kind(source, tokenizer=chat.tokenizer, template="plain", val_fraction=0)
            with pytest.raises(ValueError, match=f"{column} says that a row is one message"):
                data.setup()
    whole = [{"text": ASK, "role": "data engineer", "parent_id": None}]
    DemonstrationData(whole, tokenizer=chat.tokenizer, template="plain", val_fraction=0).setup()


def test_a_known_column_that_only_late_rows_have_is_read(
    tmp_path: Path, chat: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, Any]] = [dict(PAIR) for _ in range(4)]
    rows[3]["system"] = BRIEF
    path = tmp_path / "late.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source in (str(path), f"stream:{path}", rows):
        data, lines = run([], chat, monkeypatch, source=source)
        assert "system as the system turn" in lines[0]
        texts = [said(row, chat) for row in data.sample_rows(4)]
        assert [BRIEF in text for text in texts] == [False, False, False, True]
