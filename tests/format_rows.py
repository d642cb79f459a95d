"""A row of every layout, and what a model reads of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from lightning_rlhf.data.datamodules import DemonstrationData, PreferenceData, PromptData
from lightning_rlhf.data.layouts import OURS
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
