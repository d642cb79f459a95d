"""Small samples of the common sets, column by column: what is trained on, and what is dropped."""

from __future__ import annotations

import contextlib
import json
import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from common_rows import (
    ALONE,
    ARTICLE,
    ASKED,
    BAD,
    DELETED,
    GOOD,
    LATER,
    LONG,
    LOST,
    NO,
    OSLO,
    PATH,
    POST,
    QUESTION,
    RHINE,
    SPLIT,
    SUMMARIZED,
    TALK,
    TREE,
    WHOLE,
    WORST,
    Kept,
    Row,
    Sample,
    argilla,
    battle,
    battle_table,
    choice,
    collected,
    farm,
    feedback,
    helpsteer,
    helpsteer_2,
    helpsteer_3,
    nemo,
    openai,
    pair,
    ranked,
    response,
    safe_rlhf,
    said,
    shp,
    side,
    summary,
    task,
    ultrafeedback,
    votes,
    webgpt,
)  # fmt: skip
from lightning_rlhf.data.common_sets import COMMON_SETS, CommonSet
from lightning_rlhf.data.datamodules import DemonstrationData, PreferenceData, PromptData
from lightning_rlhf.data.hints import HINTS
from lightning_rlhf.data.layouts import NAMES
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.votes import BOTH_BAD, TIE, vote_of_word
from lightning_rlhf.text.messages import BadRow

SAMPLES = {
    **{f"ultrafeedback-{aspect.replace('_', '-')}": ultrafeedback(aspect)
       for aspect in ("helpfulness", "honesty", "instruction_following", "truthfulness")},
    **{f"helpsteer-{attribute}": helpsteer(attribute)
       for attribute in ("helpfulness", "correctness", "coherence", "complexity", "verbosity")},
    "helpsteer2": helpsteer_2(False),
    "helpsteer2-margin": helpsteer_2(True),
    "helpsteer3": helpsteer_3(False),
    "helpsteer3-margin": helpsteer_3(True),
    **{f"safe-rlhf-{label}{'' if safe else '-all'}": safe_rlhf(label, safe)
       for label in ("better", "safer") for safe in (True, False)},
    "ultrafeedback-mean": Sample(
        "preference",
        [feedback("5", "2", "2", mean=True), {"instruction": QUESTION, "completions": []}],
        [ranked([GOOD, BAD, WORST], [0, 1, 1], [6.5, 3.5, 3.5]), "completions is empty"],
        asked=True,
    ),
    "beavertails": Sample(
        "preference",
        [
            {"prompt": QUESTION, "response": RHINE, "category": {"fraud": False}, "is_safe": True},
            {"prompt": QUESTION, "response": OSLO, "category": {"fraud": True}, "is_safe": False},
            {"prompt": QUESTION, "response": OSLO, "category": None, "is_safe": None},
        ],
        [
            Kept(ASKED, [GOOD], {"ranks": [0], "label": 1}),
            Kept(ASKED, [BAD], {"ranks": [0], "label": 0}),
            "no is_safe",
        ],
    ),
    "shp": Sample(
        "preference",
        [
            shp(1, (8, 2)),
            shp(0, (2, 8), OSLO, RHINE),
            shp(1, (2, 8)),
            shp(None, (2, 8)),
            shp(2, (2, 8)),
            shp(1, (None, None)),
        ],
        [
            pair(),
            pair(),
            "labels contradicts score_A and score_B",
            "no labels",
            "labels 2 is neither 0 nor 1",
            pair(),
        ],
    ),
    "webgpt": Sample(
        "preference",
        [
            webgpt((0.5, -0.5)),
            webgpt((-1, 1), OSLO, RHINE),
            webgpt((0, 0)),
            webgpt((0.5, 0.5)),
            webgpt((None, 1)),
        ],
        [
            pair(),
            pair(),
            "judged a tie",
            "score_0 and score_1 prefer both answers or none",
            "no score_0",
        ],
    ),
    "summaries": Sample(
        "preference",
        [
            summary(POST, 0),
            summary(ARTICLE, 1, OSLO, RHINE),
            summary(POST, None),
            summary({"post": None, "article": None}, 0),
            {**summary(POST, 0), "summaries": [{"text": RHINE}]},
        ],
        [
            pair(SUMMARIZED[0]),
            pair(SUMMARIZED[1]),
            "no choice",
            "info has neither a post nor an article",
            "1 summaries, not 2",
        ],
    ),
    "alpaca-farm": Sample(
        "preference",
        [farm(1), farm(2, OSLO, RHINE, text="In Asia."), farm(0), farm(None), farm(1.0)],
        [
            pair(),
            pair(ASKED.replace("river.", "river.\n\nIn Asia.")),
            "0 names neither output_1 nor output_2, nor a tie",
            "nobody voted",
            pair(),
        ],
    ),
    "oasst-rankings": Sample(
        "preference",
        TREE,
        [
            DELETED,
            *[LOST] * 2,
            ALONE,
            pair(),
            pair(LATER),
            "an answer without a rank",
        ],
    ),
    "oasst": Sample(
        "demonstration",
        TREE,
        [
            DELETED,
            *[LOST] * 2,
            PATH,
            Kept(ASKED, [GOOD], {}),
            "a question without an answer",
        ],
    ),
    "arena": Sample(
        "preference",
        [
            battle("model_a"),
            battle("model_b", OSLO, RHINE),
            battle("tie"),
            battle("tie (bothbad)"),
            battle("both_bad"),
            battle(None),
            battle("model_a", **LONG),
            battle("model_a", **LONG, turn=1),
            battle("model_a", **LONG, turn=2),
            battle("model_a", turn=2),
            battle("someone"),
            battle("model_a", conversation_a=[*TALK, *said("", RHINE)[1:]],
                   conversation_b=[*TALK, *said("", OSLO)[1:]], turn=2),
        ],
        [
            pair(),
            pair(),
            "judged a tie",
            "judged both bad",
            "judged both bad",
            "nobody voted",
            SPLIT,
            pair(),
            SPLIT,
            "turn 2 of a conversation with 1 answers",
            "'someone' names neither model_a nor model_b, nor a tie",
            pair(LATER),
        ],
    ),
    "arena-table": Sample(
        "preference",
        [
            battle_table("model_a"),
            battle_table("model_b", (OSLO,), (RHINE,)),
            battle_table("tie"),
            battle_table("nobody"),
            battle_table("model_a", (RHINE, "So."), (OSLO, "Because.")),
            battle_table("model_a", (RHINE, None), (OSLO, "Because.")),
            battle_table("model_a", (RHINE,), (OSLO, "Because.")),
        ],
        [
            pair(),
            pair(),
            "judged a tie",
            "0 of winner_model_a, winner_model_b, winner_tie are 1",
            SPLIT,
            "a turn without text",
            "prompt, response_a and response_b have different numbers of turns",
        ],
    ),
    "rewardbench-2": Sample(
        "preference",
        [
            {"id": "1", "prompt": QUESTION, "chosen": [RHINE], "rejected": [OSLO, NO],
             "num_correct": 1, "num_incorrect": 2},
            {"id": "2", "prompt": QUESTION, "chosen": [], "rejected": [OSLO],
             "num_correct": 0, "num_incorrect": 1},
        ],
        [
            ranked([GOOD, BAD, WORST], [0, 1, 1]),
            "chosen or rejected is not a list of answers",
        ],
    ),
    "stack-exchange": Sample(
        "preference",
        [
            {"qid": 1, "question": QUESTION, "date": "d", "answers": [
                {"text": OSLO, "pm_score": 1, "selected": False},
                {"text": RHINE, "pm_score": 4, "selected": True}]},
            {"qid": 2, "question": QUESTION, "date": "d", "answers": [
                {"text": OSLO, "pm_score": None, "selected": False}]},
        ],
        [ranked([BAD, GOOD], [1, 0], [1, 4]), "no pm_score"],
    ),
    "helpsteer": Sample(
        "prompt",
        helpsteer("helpfulness").rows[:4],
        [Kept(ASKED, [], {}), Kept(ASKED.replace("Name a river.", "Alone?"), [], {}),
         Kept(LATER, [], {})],
    ),
    "red-team": Sample(
        "prompt",
        [{"transcript": f"{ASKED} {OSLO}", "task_description": "to ask", "rating": 4.0}],
        [Kept(ASKED, [], {})],
    ),
    "argilla": Sample(
        "preference",
        [
            argilla(["response1"], ["submitted"]),
            argilla(["Response 2", "response2", "response1"], ["submitted"] * 3,
                    response1=OSLO, response2=RHINE),
            argilla(["response2", "response1"], ["discarded", "submitted"]),
            argilla(["response2", "response1"], ["submitted"] * 2),
            argilla([["response1", "response2"]], ["submitted"]),
            argilla([], []),
        ],
        [pair(), pair(label=pytest.approx(2 / 3)), pair(), "judged a tie", pair(), "nobody voted"],
    ),
    "votes": Sample(
        "preference",
        [
            votes("response1"),
            votes("Response 2 is better", response1=OSLO, response2=RHINE),
            votes("tie"),
            votes(None),
            votes("response3"),
            votes("left", system="Be brief."),
            votes([response("response1"), response("response2"), response("Response 1")]),
            votes([response("response2", "draft"), response("response1")]),
            votes([response({"rank": [2, 1], "value": ["response2", "response1"]})]),
            votes([response([{"rank": 1, "value": "response1"},
                             {"rank": 1, "value": "response2"}])]),
            votes({"selected": "left"}),
            votes([{"selected": "left"}]),
        ],
        [
            pair(),
            pair(),
            "judged a tie",
            "nobody voted",
            "'response3' names neither response1 nor response2, nor a tie",
            pair("\n\nSystem: Be brief." + ASKED),
            pair(label=pytest.approx(2 / 3)),
            pair(),
            pair(),
            "judged a tie",
            pair(),
            pair(),
        ],
    ),
    "label-studio": Sample(
        "preference",
        [
            task(side("left")),
            task(side("right"), data={"prompt": QUESTION, "answer1": OSLO, "answer2": RHINE}),
            task(side("left"), side("right"), side("left")),
            task(side("left"), side("right")),
            task(side("right"), side("left"), cancelled=0),
            task([]),
            task(side("left", "a,b"), data={"question": QUESTION, "a": RHINE, "b": OSLO}),
            task(side("left"), data={"prompt": QUESTION, "x": RHINE, "y": OSLO}),
            task([choice("Response 1")]),
            task([choice("neither")]),
            task([{"type": "rating", "value": {"rating": 4}, "from_name": "stars"}]),
            task([choice("left"), choice("right", "tone")]),
            task(side("left"), data={"answer1": RHINE, "answer2": OSLO}),
        ],
        [
            pair(),
            pair(),
            pair(label=pytest.approx(2 / 3)),
            "judged a tie",
            pair(),
            "nobody voted",
            pair(),
            "data does not name its two answers: call them answer1 and answer2, or as the "
            "labeling interface calls them",
            pair(),
            "judged both bad",
            "annotations has rating, and only pairwise and choices are read",
            "annotations answers several questions (best, tone); export one of them",
            "data has none of prompt, instruction, question, input, context, messages",
        ],
    ),
    "distilabel": Sample(
        "preference",
        [
            {"instruction": QUESTION, "generations": [OSLO, RHINE], "ratings": [1, 5],
             "generation_models": ["m", "n"], "rationales": ["so", "so"]},
            {"instruction": QUESTION, "generations": [OSLO, RHINE], "ratings": [1, None]},
            {"instruction": QUESTION, "generations": [OSLO, RHINE], "ratings": [2, 2]},
            {"instruction": QUESTION, "generations": [OSLO, RHINE], "ratings": None},
            {"instruction": QUESTION, "generations": [RHINE, OSLO], "ratings": [4, 3],
             "system_prompt": "Be brief."},
        ],
        [
            ranked([BAD, GOOD], [1, 0], [1, 5]),
            "a generation without a rating",
            "no completion is better than another",
            "generations or ratings is not a list",
            ranked([GOOD, BAD], [0, 1], [4, 3], "\n\nSystem: Be brief." + ASKED),
        ],
    ),
    "orca-pairs": Sample(
        "preference",
        [
            {"system": "Be brief.", "question": QUESTION, "chosen": RHINE, "rejected": OSLO},
            {"system": "", "question": QUESTION, "chosen": RHINE, "rejected": OSLO},
            {"system": None, "question": QUESTION, "chosen": RHINE, "rejected": OSLO,
             "status": "tie"},
        ],
        [pair("\n\nSystem: Be brief." + ASKED), pair(), "judged a tie"],
    ),
    "axolotl-pairs": Sample(
        "preference",
        [
            {"messages": TALK, "chosen": said("", RHINE)[1], "rejected": said("", OSLO)[1]},
            {"messages": said(QUESTION, RHINE), **WHOLE},
            {"messages": TALK, "chosen": said("", RHINE)[1], "rejected": None},
        ],
        [pair(LATER), pair(), "rejected is NoneType, not text"],
    ),
    "orca-feedback": Sample(
        "preference",
        [
            {"system": "Be brief.", "question": QUESTION, "completion": RHINE, "label": True},
            {"system": "", "question": QUESTION, "completion": OSLO, "label": 0},
        ],
        [
            Kept("\n\nSystem: Be brief." + ASKED, [GOOD], {"ranks": [0], "label": 1}),
            Kept(ASKED, [BAD], {"ranks": [0], "label": 0}),
        ],
    ),
    "preference-collection": Sample(
        "preference",
        [
            collected("A"),
            collected("B", OSLO, RHINE),
            collected(None),
            collected("C"),
        ],
        [
            pair(),
            pair(),
            "nobody voted",
            "'C' names neither orig_response_A nor orig_response_B, nor a tie",
        ],
    ),
    "ultrainteract": Sample(
        "preference",
        [
            {"id": "1", "parent_id": "0", "chosen": RHINE, "rejected": OSLO, "trajectory": [
                {"from": "user", "value": "Hi."}, {"from": "assistant", "value": "Hello."},
                {"from": "user", "value": QUESTION}]},
            {"id": "2", "parent_id": "1", "chosen": RHINE, "rejected": OSLO, "trajectory": None},
        ],
        [pair(LATER), "no prompt"],
    ),
    "step-dpo": Sample(
        "preference",
        [
            {"prompt": QUESTION, "initial_reason_steps": "It is", "chosen": f" {RHINE}",
             "rejected": f" {OSLO}", "answer": "4"},
            {"prompt": QUESTION, "initial_reason_steps": "", "chosen": RHINE, "rejected": OSLO},
        ],
        [
            Kept(ASKED + " It is", [GOOD, BAD], {"ranks": [0, 1]}),
            pair(),
        ],
    ),
    "nemo-rankings": Sample(
        "preference",
        [
            nemo(TALK, (1, OSLO), (0, RHINE)),
            nemo(TALK[2:], (0, RHINE), (0, OSLO)),
            nemo(TALK, (None, RHINE), (1, OSLO)),
        ],
        [
            ranked([BAD, GOOD], [1, 0], prompt=LATER),
            "no completion is better than another",
            "no rank",
        ],
    ),
    "openai-pairs": Sample(
        "preference",
        [
            openai({"messages": TALK, "tools": [], "parallel_tool_calls": True}),
            openai({"messages": TALK[2:]}),
            openai(None),
            openai({"messages": TALK}, RHINE, RHINE),
        ],
        [pair(LATER), pair(), "input is not an object with messages", "identical pair"],
    ),
    "swift-pairs": Sample(
        "preference",
        [
            {"messages": [*TALK, said("", RHINE)[1]], "rejected_response": OSLO},
            {"messages": TALK, "rejected_response": OSLO},
            {"messages": said(QUESTION, RHINE), "rejected_response": None},
        ],
        [
            pair(LATER),
            "the last turn is not an assistant's answer",
            "rejected is NoneType, not text",
        ],
    ),
}  # fmt: skip


KINDS: dict[str, type[RowsData]] = {
    "preference": PreferenceData,
    "demonstration": DemonstrationData,
    "prompt": PromptData,
}
PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")


def test_the_page_names_every_set() -> None:
    """Its formats are those of the code; asked and gathered ones are marked."""
    table = PAGE.partition("## Common sets\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]
    found: dict[str, str] = {}
    for part in ";".join(cells).split(";"):
        marks = part.partition("(")[2]
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", part), marks)
    assert found.keys() >= SAMPLES.keys()
    assert found.keys() <= set(NAMES)
    assert {common.name for common in COMMON_SETS} == SAMPLES.keys()
    for common in COMMON_SETS:
        assert common.asked == ("asked" in found[common.name]), common.name
        assert (common.gather is not None) == ("gathered" in found[common.name]), common.name


def layout_of(name: str, kind: type[RowsData] | None = None) -> CommonSet:
    """The layout that the data module of a sample reads."""
    accepts = (kind or KINDS[SAMPLES[name].kind]).accepts
    return next(
        common
        for common in COMMON_SETS
        if common.name == name
        and common.columns <= SAMPLES[name].rows[0].keys()
        and any(wanted <= common.gives for wanted in accepts)
    )


def shuffled(row: Row, draw: random.Random) -> Row:
    """The same row with its columns in another order, and more of them."""
    row = {**row, "note": draw.choice([None, "n"]), "extra": draw.choice([None, {"a": [1]}])}
    return dict(draw.sample(sorted(row.items()), len(row)))


@pytest.fixture
def settings(tokenizers: dict[str, PreTrainedTokenizerBase]) -> Row:
    return {"template": "plain", "tokenizer": tokenizers["byte_level"], "val_fraction": 0}


def kept_rows(data: RowsData, wanted: list[Kept]) -> list[Kept]:
    """The rows that a data module kept, with the facts that are wanted of each."""
    decode, decode_all = data.tokenizer.decode, data.tokenizer.batch_decode
    return [
        Kept(
            str(decode(row.prompt_ids)),
            decode_all(row.completion_ids),
            {fact: getattr(row, fact) for fact in one.facts},
        )
        for row, one in zip(data.sample_rows(99), wanted, strict=True)
    ]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_of_a_set(name: str, settings: Row, tmp_path: Path) -> None:
    """Every row of a sample is read as written by hand, or dropped and counted."""
    sample, draw = SAMPLES[name], random.Random(name)
    file = tmp_path / "rows.jsonl"
    rows = [shuffled(row, draw) for row in sample.rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = KINDS[sample.kind](str(file), format=name if sample.asked else "auto", **settings)
    data.setup()
    kept = [wanted for wanted in sample.read if isinstance(wanted, Kept)]
    assert kept_rows(data, kept) == kept
    reading = data.readings[str(file)]
    assert reading.layout.startswith(f"read as {name}; ")
    assert reading.report.dropped == Counter(w for w in sample.read if isinstance(w, str))


ABOUT_PROMPTS = (
    "no prompt|a deleted message|a reply to|input is not|completions is|info has|data has"
    "|the last turn is not|a turn without text|prompt, response_a|turn 2 of"
)


@pytest.mark.parametrize("name", [n for n in SAMPLES if SAMPLES[n].kind == "preference"])
def test_prompts_need_no_votes(name: str, settings: Row) -> None:
    """Every prompt of a set is read, whatever its answers are."""
    sample = SAMPLES[name]
    data = PromptData(sample.rows, format=name, **settings)
    data.setup()
    found = {data.tokenizer.decode(row.prompt_ids) for row in data.sample_rows(99)}
    assert found >= {kept.prompt for kept in sample.read if isinstance(kept, Kept)}
    report = data.readings["the list given as source"].report
    if layout_of(name, PromptData).gather is None:
        votes = [r for r in sample.read if isinstance(r, str) and not re.match(ABOUT_PROMPTS, r)]
        assert report.kept >= sum(isinstance(r, Kept) for r in sample.read) + len(votes)
    assert all(re.match(ABOUT_PROMPTS, reason) for reason in report.dropped), report


SIDES = {"chosen": [*TALK[2:], said("", RHINE)[1]], "rejected": [*TALK[2:], said("", OSLO)[1]]}
OURS_TOO = {
    "capybara": {"source": "s", "conversation": [{"input": QUESTION, "output": None}],
                 "prompt": "[a]", **SIDES, "rating_chosen": 5, "rating_rejected": 4},
    "skywork": {**SIDES, "source": "s"},
    "cleaned": {"source": "s", "prompt": QUESTION, **SIDES, "chosen-rating": 5.0,
                "chosen-model": "m", "rejected-rating": 1.0, "rejected-model": "n"},
    "rewardbench": {"prompt": QUESTION, "chosen": RHINE, "rejected": OSLO, "chosen_model": "m",
                    "subset": "easy", "id": 1},
    "hh": {"chosen": f"{ASKED} {RHINE}", "rejected": f"{ASKED} {OSLO}"},
}  # fmt: skip


@pytest.mark.parametrize("name", OURS_TOO)
def test_sets_in_our_own_columns(name: str, settings: Row) -> None:
    data = PreferenceData([OURS_TOO[name]], **settings)
    data.setup()
    assert kept_rows(data, [pair()]) == [pair()]
    note = data.readings["the list given as source"].layout
    assert note == "" or (name == "capybara" and note.startswith("the text prompt beside whole"))


@pytest.mark.parametrize("name", ["safe-rlhf-better", "helpsteer-verbosity"])
def test_a_choice_that_is_the_users_is_asked_for(name: str, settings: Row) -> None:
    there = SAMPLES[name].rows[0].keys()
    names = [*dict.fromkeys(c.name for c in COMMON_SETS if c.asked and c.columns <= there)]
    assert len(names) in (4, 5)
    with pytest.raises(ValueError) as raised:
        PreferenceData(SAMPLES[name].rows, **settings).setup()
    assert str(raised.value).endswith(
        f"}}: say what of them is read, with format={' or '.join(names)}"
    )


@pytest.mark.parametrize("beside", ["labels", "scores", "rewards", "rank"])
def test_completions_beside_another_order_are_not_sorted(beside: str, settings: Row) -> None:
    """Steps with a label each, or answers with their scores, do not stand from best to worst."""
    row = {"prompt": QUESTION, "completions": [OSLO, RHINE], beside: [0, 1]}
    with pytest.raises(ValueError) as raised:
        PreferenceData([row], **settings).setup()
    assert str(raised.value) == (
        f"the list given as source has completions beside {beside}: if it orders them, say so with "
        f"columns={{'{beside}': 'ratings'}} (higher is better) or 'ranks' (lower is); if they "
        "stand from best to worst, with format=ours"
    )
    data = PreferenceData([row], columns={beside: "ratings"}, **settings)
    data.setup()
    assert kept_rows(data, [ranked([BAD, GOOD], [1, 0])])[0].facts["ranks"] == [1, 0]
    data = PreferenceData([row], format="ours", **settings)
    data.setup()
    assert kept_rows(data, [ranked([BAD, GOOD], [0, 1])])[0].facts["ranks"] == [0, 1]


def test_a_gathered_set_is_not_a_stream(settings: Row, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in TREE))
    with pytest.raises(ValueError) as raised:
        PreferenceData(f"stream:{file}", **settings).setup()
    assert str(raised.value) == (
        f"stream:{file}: oasst-rankings looks at all rows of a source at once, and a stream is "
        "read in blocks: give a file, a folder or a hub id without stream:, or a table"
    )


def test_a_gathered_set_loses_no_system_column(settings: Row) -> None:
    rows = [{**row, "system": "Be brief.", "tools": None} for row in TREE]
    with pytest.raises(ValueError) as raised:
        PreferenceData(rows, **settings).setup()
    assert str(raised.value) == (
        "the list given as source: oasst-rankings does not read system, and without it a row says "
        "something else: leave it out with columns={'system': 'unused'}"
    )
    data = PreferenceData(rows, columns={"system": "unused"}, **settings)
    data.setup()
    assert kept_rows(data, [pair(), pair(LATER)]) == [pair(), pair(LATER)]


def test_max_rows_cuts_no_tree(settings: Row) -> None:
    data = PreferenceData(TREE, max_rows=5, **settings)
    data.setup()
    assert data.readings["the list given as source"].layout.endswith("14 rows gathered to 7; ")
    assert kept_rows(data, [pair()]) == [pair()]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        *HINTS.items(),
        ("prompt answer1 answer2 pw annotator", "answer1 and answer2 are read beside a vote; name "
         "its column with columns={'yours': 'preference'}"),
        ("a b", "rename them with columns={'yours': 'ours'}"),
    ],
)  # fmt: skip
def test_what_is_not_read_names_the_conversion(columns: str, said: str) -> None:
    with pytest.raises(ValueError) as raised:
        PreferenceData.recognize(columns.split(), "rows.jsonl")
    assert str(raised.value).endswith(f"; {said}")


@pytest.mark.parametrize("kind", [PreferenceData, PromptData])
def test_half_of_a_character_pair_is_dropped(
    kind: type[RowsData], settings: Row, tmp_path: Path
) -> None:
    """In a stream, and in JSON within a cell, where no reader of files has seen it."""
    file = tmp_path / "rows.jsonl"
    rows = [battle_table("model_a"), battle_table("model_a", ("\ud83d",))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source in (str(file), f"stream:{file}"):
        data = kind(source, **settings)
        data.setup()
        report = data.readings[source].report
        assert report.kept == 1
        assert report.dropped == {"a text holds half of a character pair (\\ud83d alone)": 1}


def test_own_names_of_an_export(settings: Row) -> None:
    row = {"question": QUESTION, "one": OSLO, "two": RHINE, "best": [response("two")]}
    names = {"question": "prompt", "one": "response1", "two": "response2", "best": "preference"}
    row["best"] = [response("response2")]
    data = PreferenceData([row], columns=names, **settings)
    data.setup()
    assert kept_rows(data, [pair()]) == [pair()]


@pytest.mark.parametrize(
    ("word", "vote"),
    [
        ("left", 1.0), ("Right", 0.0), ("A", 1.0), ("Response B", 0.0), ("answer_1", 0.0),
        ("0", 1.0), (1, 0.0), (1.0, 0.0), ("1.0", 0.0), ("The first answer is better", 1.0),
        ("B is slightly better", 0.0), ("tie", TIE), ("Tie (inconsistent)", TIE),
        ("no preference", TIE), ("neither", BOTH_BAD), ("tie (bothbad)", BOTH_BAD),
    ],
)  # fmt: skip
def test_words_of_votes(word: Any, vote: Any) -> None:
    assert vote_of_word(word, ("answer_0", "answer_1")) == vote


@pytest.mark.parametrize("word", ["2", 2, "answer", "better", "worse", "C", "left right", True])
def test_words_that_name_no_answer(word: Any) -> None:
    with pytest.raises(BadRow, match="names neither answer_0 nor answer_1, nor a tie"):
        vote_of_word(word, ("answer_0", "answer_1"))


JUNK = [
    None, 0, -1, 7, 3.5, math.nan, math.inf, "", " ", "x", "[", "[1]", "{}", "[{}]", [], {}, [1],
    [None], [[]], {"a": 1}, [{}], [{"role": "user"}], True, "\ud83d", "1e999", 10**400, "9" * 5000,
    "[" * 3000,
]  # fmt: skip


def damaged(value: Any, draw: random.Random) -> Any:
    """The same value with junk at one place, at any depth."""
    if isinstance(value, dict | list) and value and draw.random() < 0.8:
        places = [*value] if isinstance(value, dict) else range(len(value))
        place, copy = draw.choice(places), value.copy()
        copy[place] = damaged(value[place], draw)
        return copy
    return draw.choice(JUNK)


@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_rows_are_dropped_with_a_reason(name: str) -> None:
    """No damage of a row raises anything but its reason."""
    sample, draw = SAMPLES[name], random.Random(name)
    layout = layout_of(name)
    for _ in range(200):
        rows, place = list(sample.rows), draw.randrange(len(sample.rows))
        column = draw.choice([*rows[place]])
        rows[place] = {**rows[place], column: damaged(rows[place][column], draw)}
        if layout.gather:
            assert all(isinstance(row, dict) for row in layout.gather(rows))
            continue
        with contextlib.suppress(BadRow):
            read = layout.read(rows[place]).keys()
            assert layout.gives - {"prompt"} <= read <= layout.gives | {"label", "margin", "tools"}


def as_text(value: Any, draw: random.Random) -> Any:
    """A cell as a CSV file may have it: a list or an object as JSON, or as Python prints it."""
    if not isinstance(value, list | dict):
        return value
    return json.dumps(value) if draw.random() < 0.5 else str(value)


def retyped(value: Any, draw: random.Random, key: str = "") -> Any:
    """The same cell as other writers have it: numbers as floats or text, lists as JSON."""
    if isinstance(value, dict):
        return {k: retyped(v, draw, k) for k, v in value.items()}
    if isinstance(value, list):
        return [retyped(v, draw, key) for v in value]
    if isinstance(value, int) and not isinstance(value, bool) and key != "label":
        return draw.choice([value, float(value), str(value), f"{value}.0"])
    return value


@pytest.mark.parametrize("name", SAMPLES)
def test_other_types_say_the_same(
    name: str, tokenizers: dict[str, PreTrainedTokenizerBase]
) -> None:
    sample, draw = SAMPLES[name], random.Random(name)
    chat = ChatTemplate(tokenizers["byte_level"], "plain")

    def read(rows: list[Row]) -> list[Any]:
        layout = layout_of(name)
        made: list[Any] = []
        for row in layout.gather(rows) if layout.gather else rows:
            try:
                row = row if layout.gather else layout.read(row)
                encoded = KINDS[sample.kind].encode(row, chat, 512)
                parts = encoded if isinstance(encoded, list) else [encoded]
                made.append([part._replace(row="") for part in parts])
            except (BadRow, KeyError) as reason:
                made.append(re.sub(r"(?<=\d)\.0|\W", "", str(reason)))
        return made

    expected = read([dict(row) for row in sample.rows])
    assert [isinstance(one, str) for one in expected] == [isinstance(r, str) for r in sample.read]
    for _ in range(4):
        assert read([retyped(row, draw) for row in sample.rows]) == expected
    texts = [{k: as_text(v, draw) for k, v in row.items()} for row in sample.rows]
    assert read(texts) == expected
