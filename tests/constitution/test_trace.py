"""A row's history: requests, answers, labels, and the chain that it came from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lightning_rlhf.constitution.ai_feedback import AIFeedback
from lightning_rlhf.constitution.demonstrations import demonstrations
from lightning_rlhf.constitution.pairs import pairs
from lightning_rlhf.constitution.readers import load
from lightning_rlhf.constitution.self_critique import SelfCritique
from lightning_rlhf.constitution.testing import ScriptedGenerator
from lightning_rlhf.constitution.trace import find, story


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = ScriptedGenerator(
        lambda m, s: f"said\u2028{s}", lambda m, o: math.log(0.75 if "said" in o else 0.25)
    )
    chains = SelfCritique(load(), rounds=2).run(model, [{"id": "a", "prompt": "why?"}])
    feedback = AIFeedback(load())
    model.score = lambda m, o: math.log(
        0.75 if (o == "A") == (f"(A) {chains[0].answer(2)}" in m[-1]["content"]) else 0.25
    )
    labels = feedback.label(model, pairs(chains, "revision_vs_draft"))
    files = {
        "chains": [c.to_row() for c in chains],
        "sft": [{**r, "gates": ["loops"]} for r in demonstrations(chains)],
        "labels": feedback.rows(labels),
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
        )
    with (tmp_path / "chains.jsonl").open("a") as file:
        file.write('{"id": "torn')
    return tmp_path


def test_a_whole_chain(folder: Path) -> None:
    (row,) = find([folder], "a")
    text = story(row)
    assert str(folder) in text and "model scripted" in text and load().sha256[:12] in text
    for round in row["rounds"]:
        for part in (round["principle"], round["critique_request"], round["revision"]):
            assert part in text
    assert "36 turns of worked examples" in text


def test_a_row_brings_its_chain(folder: Path) -> None:
    row, chain = find([folder], "a/r2")
    assert chain["id"] == "a" and row["completion"] == chain["rounds"][1]["revision"]
    assert "round 2 of chain a" in story(row) and "gates passed: loops" in story(row)


def test_both_orders_of_a_label(folder: Path) -> None:
    row, chain = find([folder / "labels.jsonl", folder / "chains.jsonl"], "a/r2-r0")
    assert row["chosen"] == chain["rounds"][1]["revision"]
    text = story(row)
    assert "chosen answer shown first: log-probs of the labels -0.2877, -1.3863" in text
    assert "rejected answer shown first: log-probs of the labels -1.3863, -0.2877" in text
    assert "decided: P(chosen is better) is 0.7500" in text


def test_errors_of_unknown_rows(folder: Path) -> None:
    with pytest.raises(ValueError, match="no row 'b' in"):
        find([folder], "b")
    with pytest.raises(FileNotFoundError, match="no file or folder at"):
        find([folder / "none"], "a")
    with pytest.raises(ValueError, match="row x is not a chain, label or demonstration"):
        story({"id": "x"})
