"""A judge against people: shares, intervals and calibration computed by hand."""

from __future__ import annotations

import json
import math
import random

import pytest

from lightning_rlhf.constitution.ai_feedback import AIFeedback
from lightning_rlhf.constitution.principles import Constitution, Principle
from lightning_rlhf.constitution.question import Question
from lightning_rlhf.constitution.testing import ScriptedGenerator
from lightning_rlhf.evaluation.judge_eval import calibration, judge_eval, wilson
from lightning_rlhf.text.messages import Message

LAW = Constitution("law", "1", (Principle("x", comparison="nicer?"),))
ASK = AIFeedback(LAW, transcripts=(), question=Question("{first}|{second}"))


def by_number(messages: list[Message], option: str) -> float:
    """Prefer the larger number, with more confidence the larger the difference is."""
    a, b = (float(text) for text in messages[-1]["content"].split("|"))
    p = 1 / (1 + math.exp(b - a))
    return math.log(p if option == "A" else 1 - p)


def test_wilson_is_the_published_interval() -> None:
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0, 0) == (0, 1)


def test_a_judge_right_in_three_of_four() -> None:
    rows = [{"prompt": f"q{i}", "chosen": "2", "rejected": "0"} for i in range(30)]
    rows += [{"prompt": f"w{i}", "chosen": "0", "rejected": "2"} for i in range(10)]
    rows += [{"prompt": "tie", "first": "1", "second": "0", "human": 0.5}]
    report = judge_eval(ScriptedGenerator(lambda m, s: "", by_number), ASK, rows)
    assert (report.rows, report.decided, report.accuracy) == (40, 40, 0.75)
    assert report.interval == wilson(30, 40) and report.consistency == 1
    assert report.accuracy_all == 0.75 and report.agreement == 0.75
    (bin,) = report.bins
    sure = 1 / (1 + math.exp(-2))
    assert (bin.rows, bin.confidence, bin.accuracy) == (40, pytest.approx(sure), 0.75)
    assert report.ece == pytest.approx(sure - 0.75)
    firsts = sum(v.extra["human"] == 1 for v in report.verdicts)
    assert 8 < firsts < 32  # the preferred answer is not always the first
    assert json.loads(json.dumps(report.to_row()))["accuracy"] == 0.75
    assert "agrees with people in 75.0% of 40 decided pairs" in str(report)


def test_agreement_with_soft_labels() -> None:
    rows = [{"prompt": "q", "chosen": "2", "rejected": "0", "label": 2 / 3}]
    report = judge_eval(ScriptedGenerator(lambda m, s: "", by_number), ASK, rows)
    assert report.agreement == pytest.approx(2 / 3) and report.accuracy == 1


def test_a_judge_of_positions_decides_nothing() -> None:
    judge = ScriptedGenerator(lambda m, s: "", lambda m, o: -0.1 if o == "A" else -3.0)
    rows = [{"prompt": f"q{i}", "chosen": "2", "rejected": "0"} for i in range(10)]
    report = judge_eval(judge, ASK, rows)
    assert report.accuracy is None and report.accuracy_all == 0.5 and report.consistency == 0
    assert "decides none of 10 pairs" in str(report) and "ignore its labels" in str(report)


def test_kappa_of_a_table_by_hand() -> None:
    # judge first, people first: 20; first, second: 5; second, first: 10; second, second: 15
    table = [("2", "0", 1.0)] * 20 + [("2", "0", 0.0)] * 5
    table += [("0", "2", 1.0)] * 10 + [("0", "2", 0.0)] * 15
    rows = [{"prompt": str(i), "first": a, "second": b, "human": h}
            for i, (a, b, h) in enumerate(table)]  # fmt: skip
    report = judge_eval(ScriptedGenerator(lambda m, s: "", by_number), ASK, rows)
    assert report.kappa == pytest.approx(0.4)  # (0.7 - 0.5) / (1 - 0.5)


def test_calibrated_verdicts_have_no_error_whichever_side_comes_first() -> None:
    draw = random.Random(0)
    cases = [(p, draw.random() < p) for p in (draw.random() for _ in range(20_000))]
    bins = calibration(cases, 5)
    assert all(abs(b.confidence - b.accuracy) < 0.03 for b in bins) and len(bins) == 5
    assert calibration([(1 - p, not first) for p, first in cases], 5)[0].rows == bins[0].rows


def test_errors_of_wrong_rows() -> None:
    judge = ScriptedGenerator(lambda m, s: "", by_number)
    with pytest.raises(ValueError, match="row 1 lacks 'rejected': give prompt, chosen, rejected"):
        judge_eval(judge, ASK, [{"prompt": "q", "chosen": "1"}])
    with pytest.raises(ValueError, match="row 1: human is 2: it must be a share"):
        judge_eval(judge, ASK, [{"prompt": "q", "first": "1", "second": "2", "human": 2}])
