"""Every layout of columns, each with a row written here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.data.common_sets import COMMON_SETS
from lightning_rlhf.data.datamodules import DemonstrationData, PreferenceData, PromptData
from lightning_rlhf.data.formats import read_demonstration, read_feedback, read_pair, read_ranking
from lightning_rlhf.data.layouts import FORMATS, NAMES, recognize
from lightning_rlhf.text.messages import BadRow

TURNS = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "Name a river."},
]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a river."},
]
GPT = {"from": "gpt", "value": "The Rhine."}
COMMON = {one.name for one in COMMON_SETS}  # test_common_sets.py has samples of them

# name: (a row, what it is in our columns)
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sharegpt-pairs": (
        {"conversations": TURNS, "chosen": GPT, "rejected": {"from": "gpt", "value": "Oslo."}},
        {"prompt": MESSAGES, "chosen": GPT, "rejected": {"from": "gpt", "value": "Oslo."}},
    ),
    "sharegpt": (
        {"conversations": [*TURNS, GPT]},
        {"messages": [*MESSAGES, {"role": "assistant", "content": "The Rhine."}]},
    ),
    "annotated": (
        {
            "instruction": "Shorten.", "input": "A very long line.", "response1": "A long line.",
            "response2": "A line.", "annotator1": 2, "annotator2": 2, "annotator3": 0,
        },
        {
            "prompt": "Shorten.\n\nA very long line.", "chosen": "A line.",
            "rejected": "A long line.", "label": pytest.approx(5 / 6),
        },
    ),
    "two-outputs": (
        {"input": "Name a river.", "output_1": "Oslo.", "output_2": "The Rhine.", "label": 2},
        {"prompt": "Name a river.", "chosen": "The Rhine.", "rejected": "Oslo."},
    ),
    "ultrafeedback": (
        {
            "instruction": "Name a river.",
            "completions": [
                {"response": "Oslo.", "overall_score": 2.5},
                {"response": "The Rhine.", "overall_score": 9},
            ],
        },
        {
            "prompt": "Name a river.",
            "completions": [
                {"response": "Oslo.", "overall_score": 2.5},
                {"response": "The Rhine.", "overall_score": 9},
            ],
        },
    ),
    "ranked-answers": (
        {"prompt": "Name a river.", "answers": [{"answer": "Oslo.", "rank": 2.0},
                                                {"answer": "The Rhine.", "rank": 1.0}]},
        {"prompt": "Name a river.", "completions": [{"answer": "Oslo.", "rank": 2.0},
                                                    {"answer": "The Rhine.", "rank": 1.0}]},
    ),
    "scored-pairs": (
        {"prompt": "Name a river.", "chosen": "The Rhine.", "rejected": "Oslo.",
         "score_chosen": 8.5, "score_rejected": 2},
        {"prompt": "Name a river.", "chosen": "The Rhine.", "rejected": "Oslo.",
         "score_chosen": 8.5, "score_rejected": 2, "margin": 6.5},
    ),
    "sharegpt-feedback": (
        {"conversations": [*TURNS, GPT], "label": "thumbs_up"},
        {"messages": [*MESSAGES, {"role": "assistant", "content": "The Rhine."}],
         "label": "thumbs_up"},
    ),
    "alpaca-pairs": (
        {"instruction": "Name one.", "input": "rivers", "chosen": "The Rhine.", "rejected": "No."},
        {"prompt": "Name one.\n\nrivers", "chosen": "The Rhine.", "rejected": "No."},
    ),
    "alpaca-feedback": (
        {"instruction": "Name one.", "input": "", "response": "The Rhine.", "label": True},
        {"prompt": "Name one.", "completion": "The Rhine.", "label": True},
    ),
    "alpaca": (
        {
            "instruction": "Another.", "input": "", "output": "The Loire.",
            "system": "Be brief.", "history": [["Name a river.", "The Rhine."]],
        },
        {
            "prompt": [
                *MESSAGES,
                {"role": "assistant", "content": "The Rhine."},
                {"role": "user", "content": "Another."},
            ],
            "completion": "The Loire.",
        },
    ),
    "instructions": (
        {"instruction": "Name one.", "response": "The Rhine."},
        {"prompt": "Name one.", "completion": "The Rhine."},
    ),
    "response-j-k": (
        {"question": "Name a river.", "response_j": "The Rhine.", "response_k": "Oslo."},
        {"prompt": "Name a river.", "chosen": "The Rhine.", "rejected": "Oslo."},
    ),
    "questions": (
        {"question": "Two and three?", "answer": "2 + 3 = 5\n#### 5"},
        {"prompt": "Two and three?", "completion": "2 + 3 = 5\n#### 5", "answer": "5"},
    ),
}  # fmt: skip
READERS = {
    frozenset({"prompt", "chosen", "rejected"}): read_pair,
    frozenset({"prompt", "completions"}): read_ranking,
    frozenset({"prompt", "completion", "label"}): read_feedback,
    frozenset({"messages", "label"}): read_feedback,
}


def test_every_format_has_its_row() -> None:
    assert ROWS.keys() == {f.name for f in FORMATS} - COMMON


@pytest.mark.parametrize("name", ROWS)
def test_a_format_is_told_and_read(name: str) -> None:
    row, ours = ROWS[name]
    accepts = [*PreferenceData.accepts, *DemonstrationData.accepts]
    asked = next(f for f in FORMATS if f.name == name).asked
    for forced in (name,) if asked else ("auto", name):
        found = recognize([*row, "id"], accepts, "a.jsonl", reader="a test", forced=forced)
        assert found.name == name
        assert found.convert(row) == ours
        assert found.keeps is not None and {*found.gives} <= {*found.keeps}
        assert found.read(row) == {k: v for k, v in ours.items() if k in found.keeps}
        assert {*found.gives} <= found.read(row).keys()
    READERS.get(frozenset(found.gives), read_demonstration)(found.read(row))  # and is a row of ours


def test_our_own_columns_come_first() -> None:
    found = recognize(
        ["prompt", "chosen", "rejected", "instruction", "output"],
        PreferenceData.accepts, "a.jsonl", reader="PreferenceData", forced="auto",
    )  # fmt: skip
    assert found.name == "ours"
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 2.0}
    assert found.read(row) == row, "further columns stay"


def test_a_format_that_changes_a_loss_is_only_taken_when_asked_for() -> None:
    """Scores beside a pair are no margin until somebody says so."""
    row, ours = ROWS["scored-pairs"]
    plain = recognize(
        [*row], PreferenceData.accepts, "a.jsonl", reader="PreferenceData", forced="auto"
    )
    assert plain.name == "ours"
    assert read_pair(plain.read(row)).margin is None
    asked = recognize(
        [*row], PreferenceData.accepts, "a.jsonl", reader="PreferenceData", forced="scored-pairs"
    )
    assert read_pair(asked.read(row)).margin == ours["margin"]


@pytest.mark.parametrize("name", ["sharegpt-pairs", "alpaca-pairs", "response-j-k"])
def test_pairs_of_every_layout_keep_what_is_said_of_them(name: str) -> None:
    (found,) = (f for f in FORMATS if f.name == name)
    pair = read_pair(found.read({**ROWS[name][0], "label": 0.8, "margin": 2}))
    assert (pair.label, pair.margin) == (0.8, 2.0)


def test_the_reader_decides_between_two_that_fit() -> None:
    columns = ["question", "answer"]
    found = recognize(columns, PromptData.accepts, "a", reader="PromptData", forced="auto")
    assert found.name == "questions"
    with pytest.raises(ValueError) as refused:
        recognize(
            columns, PreferenceData.accepts, "a.jsonl", reader="PreferenceData", forced="auto"
        )
    assert str(refused.value).startswith(
        "a.jsonl has the columns {question, answer}: questions, which gives "
        "{answer, completion, prompt}, but PreferenceData needs {chosen, prompt, rejected} or "
    )


def test_a_wrong_or_misfitting_name_says_what_is_there() -> None:
    with pytest.raises(ValueError) as unknown:
        recognize(["a"], PromptData.accepts, "a.jsonl", reader="PromptData", forced="sharegtp")
    assert str(unknown.value) == (
        f"format must be \"auto\" or one of {', '.join(NAMES)}, got 'sharegtp'"
    )
    with pytest.raises(ValueError) as misfit:
        recognize(
            ["instruction"], PromptData.accepts, "a.jsonl", reader="PromptData", forced="alpaca"
        )
    assert str(misfit.value) == (
        "a.jsonl has the columns {instruction}, so it is not alpaca: {output} is missing"
    )


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("sharegpt", {"conversations": []}, "not a list of turns"),
        (
            "sharegpt",
            {"conversations": [{"from": "me", "value": "x"}]},
            "the role 'me' is not known",
        ),
        ("two-outputs", {"label": 0}, "judged a tie"),
        ("two-outputs", {"label": 3}, "verdict 3 is not one of"),
        ("annotated", {"annotator1": 1, "annotator2": 2, "annotator3": 0}, "judged a tie"),
        ("scored-pairs", {"score_chosen": "high"}, "score_chosen 'high' is not a finite number"),
        ("alpaca", {"instruction": None}, "instruction is NoneType, not text"),
        ("alpaca", {"history": ["x"]}, "not a list of"),
    ],
)
def test_a_bad_row_says_why(name: str, change: dict[str, Any], reason: str) -> None:
    (found,) = (f for f in FORMATS if f.name == name)
    with pytest.raises(BadRow, match=reason):
        found.read({**ROWS[name][0], **change})


def test_the_docs_name_every_format() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    tables = page.partition("\n## Messages\n")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", tables, re.M)) == set(NAMES) - COMMON


PAIRED = {"prompt": "Name a river.", "chosen": "The Rhine.", "rejected": "Oslo."}
TALK = [*MESSAGES, {"role": "assistant", "content": "The Rhine."}]


@pytest.mark.parametrize(
    ("kind", "row", "read"),
    [
        (PreferenceData, {"messages": TALK, "score_chosen": 8.0, **PAIRED}, PAIRED),
        (PreferenceData, {"messages": TALK, "label": 0.9, **PAIRED}, {**PAIRED, "label": 0.9}),
        (PreferenceData, {"completions": ["a", "b"], "completion": "c", **PAIRED}, PAIRED),
        (PreferenceData, {"label": True, "completion": "c", "prompt": "q", "text": "x"},
         {"label": True, "completion": "c", "prompt": "q"}),
        (PreferenceData, {"completions": ["a", "b"], "prompt": "q", "ranks": [1, 0],
                          "messages": TALK}, {"completions": ["a", "b"], "prompt": "q",
                                              "ranks": [1, 0]}),
        (DemonstrationData, {"messages": TALK, "label": 3, **PAIRED}, {"messages": TALK}),
        (DemonstrationData, {"label": 3, "margin": "much", **PAIRED}, PAIRED),
        (DemonstrationData, {"text": "t", "completion": "c", "prompt": "q"},
         {"completion": "c", "prompt": "q"}),
        (PromptData, {"messages": TALK, **PAIRED}, {"messages": TALK, **PAIRED}),
    ],
)  # fmt: skip
def test_one_layout_is_read_and_no_other_column(
    kind: Any, row: dict[str, Any], read: dict[str, Any]
) -> None:
    for columns in ([*row], [*row][::-1]):
        assert kind.recognize(columns, "a.jsonl").read(row) == read


def test_rewards_see_the_whole_row_of_a_prompt() -> None:
    row = {"prompt": "q", "answer": "4", "id": 1}
    assert PromptData.recognize([*row], "a.jsonl").read(row) == row
    with pytest.raises(BadRow, match="prompt is empty"):
        PromptData.recognize([*row, "text"], "a").read({**row, "prompt": None, "text": "other"})


def test_a_label_that_two_layouts_claim_is_refused() -> None:
    columns = [*PAIRED, "completion", "label"]
    with pytest.raises(ValueError, match="a.jsonl has a pair, and a completion with a label"):
        PreferenceData.recognize(columns, "a.jsonl")


def test_a_row_without_the_order_that_others_have_is_dropped() -> None:
    row = {"prompt": "q", "completions": ["a", "b"], "ranks": None}
    with pytest.raises(BadRow, match="^ranks is empty$"):
        PreferenceData.recognize([*row], "a").read(row)
    rated = {**row, "ratings": [1, 2]}
    assert PreferenceData.recognize([*rated], "a").read(rated) == rated


def test_a_row_of_a_stream_that_lacks_a_column_is_dropped() -> None:
    layout = DemonstrationData.recognize(["instruction", "output"], "a")
    with pytest.raises(BadRow, match="^it has no output$"):
        layout.read({"instruction": "q"})
