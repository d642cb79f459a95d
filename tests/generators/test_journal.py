"""No request is repeated: duplicates, incomplete lines, and seven kills of a process."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from kill_harness import Kill, Killer, run_killed
from lightning_rlhf.constitution.ai_feedback import AIFeedback
from lightning_rlhf.constitution.generator import Completion, Request
from lightning_rlhf.constitution.pairs import pairs
from lightning_rlhf.constitution.readers import load
from lightning_rlhf.constitution.seeds import seed_of
from lightning_rlhf.constitution.self_critique import SelfCritique
from lightning_rlhf.constitution.testing import ScriptedGenerator
from lightning_rlhf.generators.journal import Journaled
from lightning_rlhf.text.messages import Message

ROWS = [{"id": str(i), "prompt": f"question {i}"} for i in range(5)]
# the moments around what is asked of the model and what is written into the journal
KILLS = [
    Kill("ask", 1, "before"),
    Kill("write", 1, "after"),
    Kill("write", 3, "torn"),
    Kill("ask", 2, "after"),
    Kill("write", 4, "after"),
    Kill("write", 1, "torn"),
    Kill("ask", 5, "before"),
]


def request(text: str, seed: int = 0) -> Request:
    return Request([{"role": "user", "content": text}], seed)


def scripted(name: str = "m") -> ScriptedGenerator:
    return ScriptedGenerator(
        lambda m, s: Completion(m[-1]["content"].upper() + str(s), s == 0),
        lambda m, o: -math.inf if o == "C" else -0.1,
        {"model": name},
    )


def test_a_request_is_sent_once_in_a_call_and_after_it(tmp_path: Path) -> None:
    model = scripted()
    journal = Journaled(model, tmp_path / "deep" / "j.jsonl", batch=2)
    asked = [request("a"), request("b", 1), request("a"), request("a", 1)]
    answers = [Completion("A0", True), Completion("B1", False), Completion("A0", True)]
    assert journal.generate(asked) == [*answers, Completion("A1", False)]
    assert (journal.asked, journal.found, model.calls) == (3, 1, 2)  # two batches of at most two

    again = Journaled(model, journal.path)
    assert again.generate(asked) == [*answers, Completion("A1", False)]
    assert (again.asked, again.found, model.calls) == (0, 4, 2)
    assert again.identity == {"model": "m"}


def test_another_model_or_request_is_another_answer(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journaled(scripted("m"), path).generate([request("a")])
    other = Journaled(scripted("n"), path)
    other.generate([request("a")])
    other.option_logprobs([request("a").messages], ["A", "B"])
    other.option_logprobs([request("a").messages], ["B", "A"])
    assert other.asked == 3 and len(path.read_text().splitlines()) == 4


def test_an_infinite_log_prob_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    prompts = [request("a").messages]
    once = Journaled(scripted(), path).option_logprobs(prompts, ["A", "C"])
    assert once == [[-0.1, -math.inf]]
    again = Journaled(scripted(), path)
    assert again.option_logprobs(prompts, ["A", "C"]) == once and again.found == 1
    json.loads(path.read_text(), parse_constant=pytest.fail)  # plain JSON: no Infinity


def test_an_incomplete_last_line_is_dropped_and_a_broken_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journaled(scripted(), path).generate([request("a"), request("b")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    journal = Journaled(scripted(), path)
    journal.generate([request("a"), request("b")])
    assert (journal.asked, journal.found) == (1, 1) and path.read_bytes() == whole
    path.write_bytes(b"broken\n" + whole)
    with pytest.raises(ValueError, match=r"j\.jsonl line 1 is broken JSON.*remove that line"):
        Journaled(scripted(), path)
    for other in (b'{"prompt": "no key"}\n', b"3\n"):
        path.write_bytes(whole + other)
        with pytest.raises(ValueError, match=r"j\.jsonl line 3 is not an answer of a journal"):
            Journaled(scripted(), path)
    with pytest.raises(ValueError, match="batch must be 1 or more"):
        Journaled(scripted(), path, batch=0)


class Logged:
    """A model whose answers follow from what it is asked; it logs each request first."""

    identity = {"model": "logged"}  # noqa: RUF012

    def __init__(self, log: Path):
        self.log = log

    def _asked(self, *what: object) -> None:
        with self.log.open("a") as file:
            file.write(f"{seed_of(*what)}\n")

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        for request in requests:
            self._asked(request.messages, request.seed)
        return [Completion(f"é {seed_of(r.messages, r.seed)}", r.seed % 2 == 0) for r in requests]

    def option_logprobs(
        self, prompts: Sequence[list[Message]], options: Sequence[str]
    ) -> list[list[float]]:
        for prompt in prompts:
            self._asked(prompt, "options")
        return [[-(seed_of(p, o) % 7) / 2 for o in options] for p in prompts]


def judge(folder: Path, killer: Killer) -> None:
    """Write chains and judge their pairs, through a journal."""
    model = Logged(folder / "asked.log")
    journal = Journaled(model, folder / "journal.jsonl", batch=2)

    def tear() -> None:
        with journal.path.open("r+b") as file:
            file.truncate(journal.path.stat().st_size - 10)

    model.generate = killer.wrap("ask", model.generate)  # type: ignore[method-assign]
    model.option_logprobs = killer.wrap("ask", model.option_logprobs)  # type: ignore[method-assign]
    journal._write = killer.wrap("write", journal._write, tear)  # type: ignore[method-assign]
    chains = SelfCritique(load(), rounds=2, shots=1).run(journal, ROWS)
    verdicts = AIFeedback(load(), shots=1, chain_of_thought=True).label(
        journal, pairs(chains, "revision_vs_draft")
    )
    rows = [r.to_row() for r in [*chains, *verdicts]]
    (folder / "rows.json").write_text(json.dumps(rows))


def test_seven_kills_lose_only_the_batch_in_progress(tmp_path: Path) -> None:
    run_killed(judge, tmp_path, KILLS)
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
