"""A journal of answers on disk: a killed run that starts again repeats no request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lightning_rlhf.constitution.generator import Completion, Generator, Request, Unanswered
from lightning_rlhf.constitution.seeds import digest
from lightning_rlhf.text.jsonl import append_rows_synced, complete_rows, truncate
from lightning_rlhf.text.messages import Message

T = TypeVar("T")
R = TypeVar("R")


class Journaled:
    """Wrap a generator: each answer is written to a JSONL file before it is returned.

    The key of an answer is a hash of the generator's ``identity`` and of the request (messages and
    seed, or messages and options). A kill loses at most the ``batch`` in progress.

    Args:
        generator: answers the requests that are not in the file.
        path: the file, made on the first write.
        batch: number of requests sent to the generator at once.
    """

    def __init__(self, generator: Generator, path: str | Path, batch: int = 64):
        if batch < 1:
            raise ValueError(f"batch must be 1 or more, got {batch}")
        self.generator = generator
        self.path = Path(path)
        self.batch = batch
        self.asked = 0  # requests sent to the generator
        self.found = 0  # requests answered by the file, or by an earlier one of the same call
        self._known = reopen(self.path)

    @property
    def identity(self) -> dict[str, str]:
        return self.generator.identity

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer from the file, else by the generator."""
        keys = [self._key("generate", r.messages, r.seed) for r in requests]
        rows = self._answer(keys, requests, self.generator.generate, Completion._asdict)
        return [Completion(r["text"], r["finished"]) for r in rows]

    def option_logprobs(
        self, prompts: Sequence[list[Message]], options: Sequence[str]
    ) -> list[list[float]]:
        """Score options from the file, else by the generator."""

        def ask(batch: list[list[Message]]) -> list[list[float]]:
            return self.generator.option_logprobs(batch, options)

        keys = [self._key("options", prompt, list(options)) for prompt in prompts]
        rows = self._answer(keys, prompts, ask, _as_row)
        return [[-float("inf") if x is None else x for x in row["logprobs"]] for row in rows]

    def _key(self, kind: str, messages: list[Message], more: Any) -> str:
        return digest([kind, self.identity, messages, more])

    def _answer(
        self,
        keys: list[str],
        asked: Sequence[T],
        ask: Callable[[list[T]], list[R]],
        as_row: Callable[[R], dict[str, Any]],
    ) -> list[dict[str, Any]]:
        new = {k: q for k, q in zip(keys, asked, strict=True) if k not in self._known}
        self.asked += len(new)
        self.found += len(keys) - len(new)
        todo = list(new)
        for start in range(0, len(todo), self.batch):
            batch = todo[start : start + self.batch]
            try:
                answers = ask([new[key] for key in batch])
            except Unanswered as error:  # the others were answered, and may have been paid for
                pairs = zip(batch, error.answers, strict=True)
                self._write({key: as_row(a) for key, a in pairs if a is not None})
                raise
            self._write({k: as_row(a) for k, a in zip(batch, answers, strict=True)})
        return [self._known[key] for key in keys]

    def _write(self, answers: dict[str, dict[str, Any]]) -> None:
        append_rows_synced(self.path, ({"key": key, **a} for key, a in answers.items()))
        self._known.update(answers)


def reopen(path: Path) -> dict[str, dict[str, Any]]:
    """Read a journal's answers by key, and cut off a last line that a kill left incomplete.

    Raises:
        ValueError: a line before the last is broken.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, dict[str, Any]] = {}
    if not path.exists():
        return known
    end = 0
    for number, (row, after) in enumerate(complete_rows(path), 1):
        if not _is_answer(row):
            raise ValueError(
                f"{path} line {number} is not an answer of a journal: remove that line"
            )
        known[row.pop("key")] = row
        end = after
    truncate(path, end)
    return known


def _is_answer(row: Any) -> bool:
    """Tell whether a row has a key, and a text or log-probs."""
    if not isinstance(row, dict) or not isinstance(row.get("key"), str):
        return False
    if isinstance(row.get("text"), str):
        return isinstance(row.get("finished"), bool)
    scores = row.get("logprobs")
    return isinstance(scores, list) and all(x is None or _is_number(x) for x in scores)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_row(scores: list[float]) -> dict[str, Any]:
    return {"logprobs": [_finite(x) for x in scores]}


def _finite(value: float) -> float | None:
    """Replace infinity, which JSON does not have, by None."""
    return value if value - value == 0 else None
