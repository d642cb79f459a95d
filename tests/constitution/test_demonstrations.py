"""Demonstrations: gates stop, broken rows are left out, helpful rows are mixed in by default."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_rlhf.constitution.chain import Chain
from lightning_rlhf.constitution.demonstrations import demonstrations, write_demonstrations
from lightning_rlhf.constitution.gates import Gates, GateTripped
from lightning_rlhf.constitution.generator import Completion
from lightning_rlhf.constitution.readers import load
from lightning_rlhf.constitution.self_critique import SelfCritique
from lightning_rlhf.constitution.testing import ScriptedGenerator
from lightning_rlhf.text.jsonl import read_rows, write_rows
from lightning_rlhf.text.messages import Message
from support import RULES

OFF = Gates(**dict.fromkeys(Gates().limits))
LOOSE = Gates(**dict.fromkeys(Gates().limits, 1.0))


def say(messages: list[Message], seed: int) -> str | Completion:
    """Never finish row 3; use different words in each answer."""
    question = messages[0]["content"]
    text = f"{question} said {seed % 1000} in words {seed % 7} of {seed % 11}"
    return Completion(text, "3" not in question)


@pytest.fixture
def chains(tmp_path: Path) -> str:
    loop = SelfCritique(load(), rounds=2, transcripts=())
    made = loop.run(ScriptedGenerator(say), [{"prompt": f"question {i}"} for i in range(10)])
    write_rows(tmp_path / "chains.jsonl", [chain.to_row() for chain in made])
    return str(tmp_path / "chains.jsonl")


@pytest.fixture
def helpful(tmp_path: Path) -> str:
    rows = [{"prompt": f"help {i}", "completion": "gladly"} for i in range(30)]
    write_rows(tmp_path / "helpful.jsonl", rows)
    return str(tmp_path / "helpful.jsonl")


def test_rows_of_all_rounds_of_the_last_and_of_some() -> None:
    made = SelfCritique(RULES, rounds=3, transcripts=()).run(
        ScriptedGenerator(lambda m, s: str(s)), [{"id": "a", "prompt": "x"}]
    )
    rows = demonstrations(made)
    assert [(r["id"], r["round"]) for r in rows] == [("a/r1", 1), ("a/r2", 2), ("a/r3", 3)]
    assert [r["completion"] for r in rows] == [made[0].answer(k) for k in (1, 2, 3)]
    assert {r["source_id"] for r in rows} == {"a"} and rows[0]["constitution"] == RULES.sha256
    assert [r["round"] for r in demonstrations(made, "last")] == [3]
    assert [r["round"] for r in demonstrations(made, [1])] == [1]


def test_all_rounds_and_helpful_rows(chains: str, helpful: str, tmp_path: Path) -> None:
    counts = write_demonstrations(chains, str(tmp_path / "out"), helpful, share=0.25, gates=LOOSE)
    rows = list(read_rows(tmp_path / "out/rows.jsonl"))
    assert counts["revisions"] == 18  # ten rows in two rounds, without the row that never ends
    assert counts["left_out"] == 2
    assert counts["helpful"] == 6 == sum(row["completion"] == "gladly" for row in rows)
    assert len(rows) == 24
    assert not any("3" in str(row["prompt"]) for row in rows if "round" in row)
    last = {row["id"]: Chain.from_row(row).answer(2) for row in read_rows(chains)}
    for row in rows:
        if row.get("round") == 2:
            assert row["completion"] == last[row["source_id"]]


def test_a_gate_that_is_off_leaves_nothing_out(chains: str, tmp_path: Path) -> None:
    assert write_demonstrations(chains, str(tmp_path), pure=True, gates=OFF)["revisions"] == 20


def test_an_error_where_no_revision_is_left(chains: str, tmp_path: Path) -> None:
    never = [row for row in read_rows(chains) if "3" in row["prompt"]]
    write_rows(tmp_path / "never.jsonl", never)
    with pytest.raises(ValueError, match=r"no revision is left to imitate; .*gates\.json says why"):
        write_demonstrations(str(tmp_path / "never.jsonl"), str(tmp_path), pure=True, gates=LOOSE)


def test_critique_data_alone_needs_pure(chains: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"give helpful= rows .* or ask for it with pure=true"):
        write_demonstrations(chains, str(tmp_path))
    assert write_demonstrations(chains, str(tmp_path), pure=True, gates=OFF)["helpful"] == 0


def test_a_tripped_gate_writes_only_its_report(chains: str, helpful: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(GateTripped, match=r"gate no_end: 10% of rows, but at most 5%"):
        write_demonstrations(chains, str(out), helpful, gates=Gates(no_end=0.05, boilerplate=None))
    report = json.loads((out / "gates.json").read_text())
    assert [r["gate"] for r in report["results"] if r["tripped"]] == ["no_end"]
    assert not (out / "rows.jsonl").exists()


def test_a_broken_line_is_named(chains: str, tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    with pytest.raises(ValueError, match=r"broken\.jsonl line 2 is broken JSON"):
        write_demonstrations(chains, str(tmp_path), str(tmp_path / "broken.jsonl"), gates=OFF)
