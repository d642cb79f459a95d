"""Soft labels computed by hand, and judges without information detected."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.constitution.ai_feedback import AIFeedback
from lightning_rlhf.constitution.principles import Constitution, Principle
from lightning_rlhf.constitution.question import Question
from lightning_rlhf.constitution.seeds import seed_of
from lightning_rlhf.constitution.testing import ScriptedGenerator
from lightning_rlhf.constitution.verdicts import Verdict
from lightning_rlhf.data.formats import Pair, read_pair
from lightning_rlhf.text.messages import Message

LAW = Constitution(
    "law", "1", (Principle("x", comparison="nicer?"), Principle("y", comparison="truer?"))
)
PLAIN = Question("{first}|{second}", "{first}|{second}", "so:{a}/{b}")
PAIR = {"id": "p", "prompt": "q", "first": "one", "second": "two"}


def judge(p_a: dict[str, float | None]) -> ScriptedGenerator:
    """Prefer A with a given probability for each "first|second"; None: neither label."""

    def score(messages: list[Message], option: str) -> float:
        p = p_a[next(m["content"] for m in reversed(messages) if "|" in m["content"])]
        if p is None:
            return -math.inf
        p = p if option == "A" else 1 - p
        return math.log(p) - 2 if p else -math.inf  # -2: other tokens have probability too

    return ScriptedGenerator(lambda m, s: f"because {s}", score)


def feedback(**options: Any) -> AIFeedback:
    return AIFeedback(LAW, **{"transcripts": (), "question": PLAIN, **options})


@pytest.mark.parametrize(
    ("forth", "back", "status", "p", "raw"),
    [
        (0.9, 0.3, "decided", 0.8, 0.8),  # (0.9 + (1 - 0.3)) / 2
        (0.2, 0.9, "decided", 0.15, 0.15),
        (0.5, 0.1, "decided", 0.7, 0.7),  # one order ties, the other decides
        (0.5, 0.5, "tied", 0.5, 0.5),
        (0.9, 0.8, "inconsistent", 0.5, 0.55),  # A both times
        (0.1, 0.3, "inconsistent", 0.5, 0.4),
        (1.0, 0.0, "decided", 1.0, 1.0),  # one label without a log-prob is an answer
        (None, 0.1, "unparseable", 0.5, None),
    ],
)
def test_both_orders_by_hand(
    forth: float | None, back: float, status: str, p: float, raw: float | None
) -> None:
    (verdict,) = feedback().label(judge({"one|two": forth, "two|one": back}), [PAIR])
    assert (verdict.status, verdict.p) == (status, pytest.approx(p))
    assert verdict.raw == (None if raw is None else pytest.approx(raw))
    assert [o.swapped for o in verdict.orders] == [False, True]
    if forth not in (None, 1.0):
        assert verdict.orders[0].logprobs == pytest.approx(
            (math.log(forth) - 2, math.log(1 - forth) - 2)
        )


def test_a_chain_of_thought_is_clamped_and_its_raw_value_kept() -> None:
    asked = judge({"one|two": 0.99, "two|one": 0.03})
    (verdict,) = feedback(chain_of_thought=True).label(asked, [PAIR])
    assert verdict.p == 0.6 and verdict.raw == pytest.approx(0.98) and verdict.clamped
    assert verdict.orders[0].seed == seed_of(0, "p", "judge", 0)
    assert verdict.orders[1].reasoning == f"because {seed_of(0, 'p', 'judge', 1)}"
    assert (
        verdict.orders[1].sent
        == [
            {"role": "user", "content": "two|one"},
            {"role": "assistant", "content": verdict.orders[1].reasoning},
            {"role": "user", "content": "so:A/B"},
        ]
        == asked.questions[1]
    )
    (verdict,) = feedback(chain_of_thought=True, clamp=None).label(asked, [PAIR])
    assert verdict.p == verdict.raw and not verdict.clamped
    (verdict,) = feedback().label(asked, [PAIR])  # without a chain of thought nothing is clamped
    assert verdict.p == pytest.approx(0.98)
    (verdict,) = feedback(chain_of_thought=True).label(
        judge({"one|two": 0.55, "two|one": 0.45}), [PAIR]
    )
    assert verdict.p == pytest.approx(0.55) and not verdict.clamped


def test_the_assistant_may_conclude_its_own_turn() -> None:
    own = Question("{first}|{second}", "{first}|{second}", " so:", concluded_by="assistant")
    asked = judge({"one|two": 0.9, "two|one": 0.1})
    feedback(chain_of_thought=True, question=own).label(asked, [PAIR])
    thought = f"because {seed_of(0, 'p', 'judge', 0)}"
    assert asked.questions[0][-1] == {"role": "assistant", "content": f"{thought} so:"}


def always(label: str) -> ScriptedGenerator:
    return ScriptedGenerator(
        lambda m, s: "hmm", lambda m, option: math.log(0.95 if option == label else 0.05)
    )


@pytest.mark.parametrize("label", ["A", "B"])
def test_a_judge_of_positions_is_reported(label: str) -> None:
    pairs = [{"prompt": f"q{i}", "first": "one", "second": "two"} for i in range(20)]
    labeler = AIFeedback(LAW)
    verdicts = labeler.label(always(label), pairs)
    assert {v.p for v in verdicts} == {0.5} and {v.status for v in verdicts} == {"inconsistent"}
    report = labeler.report(verdicts)
    assert report.always == label and report.position_bias == 1 and report.lean == 0
    sentence = f"the judge answers {label} in both orders of every pair: ignore its labels"
    assert sentence in str(report)
    rows = labeler.rows(verdicts)
    assert len(rows) == 20 and {row["label"] for row in rows} == {0.5}
    assert AIFeedback(LAW, undecided="drop").rows(verdicts) == []


def test_rows_are_read_as_soft_pairs() -> None:
    labeler = feedback()
    better, worse = (
        labeler.label(judge({"one|two": p, "two|one": 1 - p}), [{**PAIR, "kind": "k"}])[0]
        for p in (0.9, 0.2)
    )
    rows = [json.loads(json.dumps(row)) for row in labeler.rows([better, worse])]
    assert read_pair(rows[0]) == Pair("q", "one", "two", pytest.approx(0.9), None)
    assert read_pair(rows[1]) == Pair("q", "two", "one", pytest.approx(0.8), None)
    assert [Verdict.from_row(row) for row in rows] == [better, worse]
    assert rows[0]["extra"] == {"kind": "k"} and rows[0]["constitution"]["sha256"] == LAW.sha256
    lost = labeler.label(judge({"one|two": None, "two|one": None}), [PAIR])
    row = json.loads(json.dumps(lost[0].to_row(), allow_nan=False))
    assert Verdict.from_row(row) == lost[0] and row["label"] == 0.5


def test_equal_answers_are_not_asked_about() -> None:
    asked = judge({})
    labeler = feedback()
    verdicts = labeler.label(asked, [{**PAIR, "second": "one"}])
    assert verdicts[0].status == "tied" and verdicts[0].p == 0.5 and asked.questions == []
    assert labeler.rows(verdicts) == []
    assert labeler.report(verdicts).counts["tied"] == 1


def test_one_order_is_drawn_without_swap() -> None:
    pairs = [{**PAIR, "id": str(i)} for i in range(400)]
    verdicts = feedback(swap=False).label(always("A"), pairs)
    firsts = sum(v.p > 0.5 for v in verdicts)  # a judge of positions prefers neither answer
    assert 150 < firsts < 250 and all(len(v.orders) == 1 for v in verdicts)
    assert feedback().report(verdicts).always is None


def test_worked_examples_name_each_label_equally_often() -> None:
    for reasoned in (False, True):
        asked = always("A")
        AIFeedback(LAW, chain_of_thought=reasoned).label(asked, [PAIR])
        messages = asked.questions[0]
        labels = [
            m["content"] for m in messages if m["role"] == "assistant" and len(m["content"]) < 3
        ]
        assert sorted(labels) == ["A", "A", "B", "B"]
        assert [m["role"] for m in messages[:-1:2]] == ["user"] * len(messages[:-1:2])
        assert "one" in messages[-1 - 2 * reasoned]["content"]


pairs_of = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=5, unique=True)


@settings(max_examples=30, deadline=None)
@given(pairs_of, st.integers(0, 2), st.randoms(use_true_random=False))
def test_labels_depend_on_their_pair_alone(texts: list[str], seed: int, random: Any) -> None:
    def score(messages: list[Message], option: str) -> float:
        return -(seed_of(messages, option) % 1000) / 300

    labeler = AIFeedback(LAW, chain_of_thought=True, shots=2, seed=seed)
    pairs = [{"prompt": text, "first": text, "second": "other"} for text in texts]
    once = {v.id: v for v in labeler.label(ScriptedGenerator(lambda m, s: str(s), score), pairs)}
    mixed = random.sample(pairs, len(pairs))
    again = labeler.label(ScriptedGenerator(lambda m, s: str(s), score), mixed)
    assert {v.id: v for v in again} == once
    (alone,) = labeler.label(ScriptedGenerator(lambda m, s: str(s), score), pairs[:1])
    assert alone == once[alone.id]


def test_errors_of_wrong_settings_and_pairs() -> None:
    for options, error in [
        ({"undecided": "guess"}, 'undecided must be "half" or "drop"'),
        ({"clamp": (0.6, 0.4)}, "clamp must be a low and a high bound around 0.5"),
        ({"labels": ("A", "A")}, "labels must be two different texts"),
        ({"shots": 1}, "shots is 1, and there are 0 transcripts"),
    ]:
        with pytest.raises(ValueError, match=error):
            feedback(**options)
    with pytest.raises(ValueError, match=r"Question.direct uses \{answer\}: use only"):
        Question("{answer}")
    with pytest.raises(ValueError, match="pair 1 has no text 'second'"):
        feedback().label(judge({}), [{"prompt": "q", "first": "x"}])
    with pytest.raises(ValueError, match="pair 2 has no prompt"):
        feedback().label(judge({}), [PAIR, {**PAIR, "prompt": []}])
