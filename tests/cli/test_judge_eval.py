"""``judge-eval`` and ``trace`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_rlhf.cli.judge_eval import human_pairs
from lightning_rlhf.cli.main import main
from support import number_pairs, shared


def test_a_judge_is_measured(tiny_base: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file, home = tmp_path / "pairs.jsonl", tmp_path / "judge"
    file.write_text("".join(json.dumps(row) + "\n" for row in number_pairs(12)))
    asked = ["judge-eval", str(file), tiny_base, "--folder", str(home), "--max_rows", "9"]
    question = {"direct": "w1 {first} w2 {second}", "reasoned": "w1", "conclude": "w1"}
    init = {"transcripts": [], "labels": ["w3", "w4"], "question": question}
    path = "lightning_rlhf.constitution.ai_feedback.AIFeedback"
    asked += ["--feedback", json.dumps({"class_path": path, "init_args": init})]
    main(asked)
    report = json.loads((home / "report.json").read_text())
    assert report["rows"] == 9
    assert report["interval"][0] <= (report["accuracy"] or 0.5) <= report["interval"][1]
    assert len((home / "verdicts.jsonl").read_text().splitlines()) == 9
    assert (home / "calibration.png").is_file()
    said = capsys.readouterr().out
    assert "the judge" in said

    made = (home / "journal.jsonl").read_text()
    main(asked)  # again: nothing is asked twice
    assert (home / "journal.jsonl").read_text() == made

    id = json.loads((home / "verdicts.jsonl").read_text().splitlines()[0])["id"]
    main(["trace", id, str(home)])
    assert id in capsys.readouterr().out


def test_no_such_row(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(SystemExit):
        main(["trace", "nobody", str(tmp_path)])
    assert "no row 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("llmbar-natural/dataset.json", 100),
        ("pandalm/testset-v1.json", 999),
        ("xstest/pairs.jsonl", 316),
    ],
)
def test_what_people_decided(file: str, rows: int) -> None:
    """Ties among annotators are no decision; a share of them is a soft label."""
    pairs, dropped = human_pairs(str(shared(f"data/{file}")))
    assert len(pairs) + dropped == rows
    assert len(pairs) > 0.8 * rows
    assert all(pair["label"] is None or 0.5 < pair["label"] <= 1 for pair in pairs)
