"""A journaled run that kills itself where it is told to, begun again until it is through.

    python tests/constitution/killed.py FOLDER

Each leg is a process of its own, forked from one that has imported everything.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_rlhf.constitution.ai_feedback import AIFeedback
from lightning_rlhf.constitution.generator import Completion, Message, Request
from lightning_rlhf.constitution.principles import load
from lightning_rlhf.constitution.seeds import seed_of
from lightning_rlhf.constitution.self_critique import SelfCritique, pairs
from lightning_rlhf.generators.journal import Journaled

ROWS = [{"id": str(i), "prompt": f"question {i}"} for i in range(5)]


class Kill(NamedTuple):
    """When a process dies."""

    where: str  # "asking", "answered" (and not yet written), "torn" (half written) or "written"
    piece: int  # of this process, from 1


KILLS = [Kill("asking", 1), Kill("written", 1), Kill("torn", 3), Kill("answered", 2),
         Kill("written", 4), Kill("torn", 1), Kill("asking", 5)]  # fmt: skip


class Logged:
    """A model whose answers follow from what it is asked; each asking goes to a file first."""

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


def leg(folder: Path, kill: Kill | None) -> None:
    """The whole job, from what the journal holds to the end or the kill."""
    model = Logged(folder / "asked.log")
    journal = Journaled(model, folder / "journal.jsonl", batch=2)
    if kill is not None:
        arm(model, journal, kill)
    chains = SelfCritique(load(), rounds=2, shots=1).run(journal, ROWS)
    verdicts = AIFeedback(load(), shots=1, chain_of_thought=True).label(
        journal, pairs(chains, "revision_vs_draft")
    )
    rows = [r.to_row() for r in [*chains, *verdicts]]
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "counts.json").write_text(json.dumps([journal.asked, journal.found]))


def arm(model: Any, journal: Any, kill: Kill) -> None:
    """Let the process die at a place in a piece."""
    pieces = 0
    die: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731

    def asks(ask: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal pieces
            pieces += 1
            here = pieces == kill.piece
            if here and kill.where == "asking":
                die()
            answers = ask(*args)
            if here and kill.where == "answered":
                die()
            return answers

        return call

    write = journal._write

    def writes(answers: dict[str, dict[str, Any]]) -> None:
        if pieces == kill.piece and kill.where == "torn":
            write(answers)
            whole = journal.path.read_bytes()
            with journal.path.open("r+b") as file:
                file.truncate(len(whole) - 10)
            die()
        write(answers)
        if pieces == kill.piece and kill.where == "written":
            die()

    model.generate, model.option_logprobs = asks(model.generate), asks(model.option_logprobs)
    journal._write = writes


def forked(work: Callable[[], None]) -> int:
    """How a process that does the work ended: 0, or minus the signal that killed it."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main(home: Path) -> None:
    for name in ("whole", "killed"):
        (home / name).mkdir()
    ends = [forked(lambda: leg(home / "whole", None))]
    for kill in [*KILLS, None]:
        ends.append(forked(lambda kill=kill: leg(home / "killed", kill)))  # type: ignore[misc]
    (home / "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
