"""Rows that fail one gate each, and limits that stop the next stage."""

from __future__ import annotations

import pytest

from lightning_rlhf.constitution.demonstrations import demonstrations
from lightning_rlhf.constitution.detectors import risen
from lightning_rlhf.constitution.gates import Gates, GateTripped, check
from lightning_rlhf.constitution.generator import Completion
from lightning_rlhf.constitution.readers import load
from lightning_rlhf.constitution.self_critique import SelfCritique
from lightning_rlhf.constitution.testing import ScriptedGenerator
from lightning_rlhf.text.messages import Message

DRAFT = "Put the lid on , wait ten minutes , and pour the tea into a warm cup or a glass ."
LONG = " ".join(f"w{i}" for i in range(80))
BAD = {
    "unchanged": DRAFT + " ",
    "near_copy": DRAFT.replace("warm", "hot"),
    "role_confusion": "Here is a revised answer: let it stand for ten minutes, then pour.",
    "no_end": "Let it stand for ten minutes and then pour it, and after that",
    "loops": "wait and see " * 6,
    "length": LONG,
    "refusals": "I'm sorry, but I can't help with making tea; ask somebody near you.",
}


def row(name: str, answer: str, finished: bool = True) -> dict[str, object]:
    return {"id": name, "draft": DRAFT, "answer": answer, "finished": finished}


def test_each_bad_row_fails_its_gate_and_no_other() -> None:
    rows = [row(name, text, name != "no_end") for name, text in BAD.items()]
    rows.append(row("good", "Cover it, let it draw for ten minutes, then fill a heated cup."))
    report = check(rows, Gates(boilerplate=None))
    for result in report.results:
        if result.gate != "boilerplate":
            assert result.failed == (result.gate,), result.gate
            assert result.share == pytest.approx(1 / 8)
    assert report.clean("good") and not any(report.clean(name) for name in BAD)
    assert "loops" not in report.passed["loops"] and len(report.passed["loops"]) == 7


def test_boilerplate_is_the_phrase_that_rose_most() -> None:
    answers = [f"you are valid and loved , number {'x' * i}" for i in range(6)] + ["no", "well"]
    drafts = ["the lid goes on it"] * 8
    named = [(str(i), answer) for i, answer in enumerate(answers)]
    (top, *_) = risen(named, drafts, 4)
    assert (top.text, top.before, top.after) == ("are valid and loved", 0.0, 0.75)
    rows = [
        {"id": str(i), "draft": d, "answer": a, "finished": True}
        for i, (d, a) in enumerate(zip(drafts, answers, strict=True))
    ]
    report = check(rows, Gates(boilerplate=0.2, length=None))
    assert [r.gate for r in report.tripped] == ["boilerplate"]
    with pytest.raises(GateTripped) as caught:
        report.stop()
    assert str(caught.value) == (
        'gate boilerplate ("are valid and loved" rose): 75% of rows, but at most 20% are allowed; '
        "look at rows 0, 1, 2"
    )
    assert report.passed["6"] and "boilerplate" in report.passed["6"]
    assert risen([(str(i), d) for i, d in enumerate(drafts)], drafts, 4) == []  # nothing rose
    assert risen([("a", answers[0])] * 8, drafts, 4) == []  # rounds of one chain do not count
    assert check(rows, Gates(boilerplate=0.8, length=None)).clean("0")


def test_limits_and_none_which_switches_a_gate_off() -> None:
    rows = [row(str(i), DRAFT) for i in range(4)]
    with pytest.raises(GateTripped, match="gate unchanged: 100% of rows, but at most 50%"):
        check(rows).stop()
    report = check(rows, Gates(unchanged=None))
    report.stop()
    assert report.clean("0") and "(no limit)" in str(report)
    check(rows, Gates(unchanged=1.0)).stop()
    check([]).stop()
    with pytest.raises(ValueError, match=r"Gates.loops must be a share from 0 to 1, got 2"):
        Gates(loops=2)
    with pytest.raises(ValueError, match="a row to check lacks 'draft'"):
        check([{"id": "x"}])


def test_chains_are_checked_round_by_round() -> None:
    def answer(messages: list[Message], seed: int) -> Completion:
        return Completion("the same words as ever", len(messages) < 4)

    chains = SelfCritique(load(), rounds=2, transcripts=()).run(
        ScriptedGenerator(answer), [{"id": "a", "prompt": "x"}]
    )
    report = check(chains)
    assert set(report.passed) == {r["id"] for r in demonstrations(chains)} == {"a/r1", "a/r2"}
    assert {r.gate for r in report.tripped} == {"unchanged", "no_end"}
    assert report.to_row()["results"][0]["tripped"]
    (first, _) = report.stamped(demonstrations(chains))
    assert "loops" in first["gates"] and "unchanged" not in first["gates"]
