"""What was answered is never asked again: duplicates, torn lines, and seven kills of a process."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lightning_rlhf.constitution.generator import Completion, Request, ScriptedGenerator
from lightning_rlhf.generators.journal import Journaled

HERE = Path(__file__).parent


def request(text: str, seed: int = 0) -> Request:
    return Request([{"role": "user", "content": text}], seed)


def scripted(name: str = "m") -> ScriptedGenerator:
    return ScriptedGenerator(
        lambda m, s: Completion(m[-1]["content"].upper() + str(s), s == 0),
        lambda m, o: -math.inf if o == "C" else -0.1,
        {"model": name},
    )


def test_the_same_is_asked_once_in_a_call_and_after_it(tmp_path: Path) -> None:
    model = scripted()
    journal = Journaled(model, tmp_path / "deep" / "j.jsonl", batch=2)
    asked = [request("a"), request("b", 1), request("a"), request("a", 1)]
    answers = [Completion("A0", True), Completion("B1", False), Completion("A0", True)]
    assert journal.generate(asked) == [*answers, Completion("A1", False)]
    assert (journal.asked, journal.found, model.calls) == (3, 1, 2)  # two pieces of at most two

    again = Journaled(model, journal.path)
    assert again.generate(asked) == [*answers, Completion("A1", False)]
    assert (again.asked, again.found, model.calls) == (0, 4, 2)
    assert again.identity == {"model": "m"}


def test_another_model_or_another_question_is_another_answer(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journaled(scripted("m"), path).generate([request("a")])
    other = Journaled(scripted("n"), path)
    other.generate([request("a")])
    other.option_logprobs([request("a").messages], ["A", "B"])
    other.option_logprobs([request("a").messages], ["B", "A"])
    assert other.asked == 3 and len(path.read_text().splitlines()) == 4


def test_an_absent_option_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    prompts = [request("a").messages]
    once = Journaled(scripted(), path).option_logprobs(prompts, ["A", "C"])
    assert once == [[-0.1, -math.inf]]
    again = Journaled(scripted(), path)
    assert again.option_logprobs(prompts, ["A", "C"]) == once and again.found == 1
    json.loads(path.read_text(), parse_constant=pytest.fail)  # plain JSON: no Infinity


def test_a_torn_last_line_is_dropped_and_a_broken_one_before_it_told(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journaled(scripted(), path).generate([request("a"), request("b")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    journal = Journaled(scripted(), path)
    journal.generate([request("a"), request("b")])
    assert (journal.asked, journal.found) == (1, 1) and path.read_bytes() == whole
    path.write_bytes(b"broken\n" + whole)
    with pytest.raises(ValueError, match=r"j\.jsonl line 1 is no answer of a journal"):
        Journaled(scripted(), path)
    with pytest.raises(ValueError, match="batch must be 1 or more"):
        Journaled(scripted(), path, batch=0)


def test_seven_kills_lose_only_what_was_in_hand(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "killed.py"), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ends = json.loads((tmp_path / "ends.json").read_text())
    assert ends == [0, *[-signal.SIGKILL] * 7, 0], done.stderr

    rows, asked, lines = {}, {}, {}
    for name in ("whole", "killed"):
        folder = tmp_path / name
        rows[name] = json.loads((folder / "rows.json").read_text())
        asked[name] = Counter((folder / "asked.log").read_text().split())
        lines[name] = (folder / "journal.jsonl").read_text().splitlines()
    assert rows["killed"] == rows["whole"] and len(rows["whole"]) == 10
    assert set(asked["killed"]) == set(asked["whole"]) and set(asked["whole"].values()) == {1}
    assert sorted(lines["killed"]) == sorted(lines["whole"])
    # asked again: the two of a piece that was answered and not written, and the one of each torn
    again = sum(asked["killed"].values()) - len(asked["killed"])
    assert again == 2 + 1 + 1
