"""A generator that remembers on disk: killed and begun again, it asks nothing twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lightning_rlhf.constitution.generator import Completion, Generator, Message, Request
from lightning_rlhf.constitution.seeds import digest

T = TypeVar("T")


class Journaled:
    """Wraps a generator; each answer becomes a line of a JSONL file before it is handed on.

    The key of an answer is a hash of who was asked (the generator's ``identity``) and what
    (messages and seed, or messages and options). A kill costs at most the ``batch`` in hand.

    Args:
        generator: who answers what is not in the file.
        path: the file; it is made where it is not there.
        batch: requests handed on at once.
    """

    def __init__(self, generator: Generator, path: str | Path, batch: int = 64):
        if batch < 1:
            raise ValueError(f"batch must be 1 or more, got {batch}")
        self.generator = generator
        self.path = Path(path)
        self.batch = batch
        self.asked = 0  # requests that went to the generator
        self.found = 0  # requests that the file, or an earlier one of the same call, answered
        self._known = reopen(self.path)

    @property
    def identity(self) -> dict[str, str]:
        return self.generator.identity

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answers from the file, the others from the generator."""

        def ask(some: list[Request]) -> list[dict[str, Any]]:
            return [c._asdict() for c in self.generator.generate(some)]

        keys = [self._key("generate", r.messages, r.seed) for r in requests]
        return [Completion(r["text"], r["finished"]) for r in self._answer(keys, requests, ask)]

    def option_logprobs(
        self, prompts: Sequence[list[Message]], options: Sequence[str]
    ) -> list[list[float]]:
        """Log-probs from the file, the others from the generator."""

        def ask(some: list[list[Message]]) -> list[dict[str, Any]]:
            scored = self.generator.option_logprobs(some, options)
            return [{"logprobs": [_finite(x) for x in row]} for row in scored]

        keys = [self._key("options", prompt, list(options)) for prompt in prompts]
        rows = self._answer(keys, prompts, ask)
        return [[-float("inf") if x is None else x for x in row["logprobs"]] for row in rows]

    def _key(self, kind: str, messages: list[Message], more: Any) -> str:
        return digest([kind, self.identity, messages, more])

    def _answer(
        self, keys: list[str], asked: Sequence[T], ask: Callable[[list[T]], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        new = {k: q for k, q in zip(keys, asked, strict=True) if k not in self._known}
        self.asked += len(new)
        self.found += len(keys) - len(new)
        todo = list(new)
        for start in range(0, len(todo), self.batch):
            piece = todo[start : start + self.batch]
            answers = ask([new[key] for key in piece])
            self._write(dict(zip(piece, answers, strict=True)))
        return [self._known[key] for key in keys]

    def _write(self, answers: dict[str, dict[str, Any]]) -> None:
        lines = [json.dumps({"key": k, **a}, ensure_ascii=False) + "\n" for k, a in answers.items()]
        with self.path.open("ab") as file:
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
        self._known.update(answers)


def reopen(path: Path) -> dict[str, dict[str, Any]]:
    """The answers of a file by their keys; a last line that a kill left in half is cut off it.

    Raises:
        ValueError: a line before the last is broken.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, dict[str, Any]] = {}
    if not path.exists():
        return known
    end, lines = 0, path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            known[row.pop("key")] = row
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path} line {number} is no answer of a journal: take that line out"
            ) from error
        end += len(line) + 1
    if lines[-1]:
        os.truncate(path, end)
    return known


def _finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if value - value == 0 else None
