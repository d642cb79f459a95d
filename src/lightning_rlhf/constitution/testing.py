"""A scripted generator, for tests and documentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_rlhf.constitution.generator import Completion, Request
from lightning_rlhf.text.messages import Message


class ScriptedGenerator:
    """A generator whose answers come from functions; it records its requests.

    Args:
        answer: text or completion from messages and seed; a plain string counts as finished.
        score: log-prob of an option after messages.
        identity: stored in rows.
    """

    def __init__(
        self,
        answer: Callable[[list[Message], int], str | Completion],
        score: Callable[[list[Message], str], float] | None = None,
        identity: dict[str, str] | None = None,
    ):
        self.answer = answer
        self.score = score
        self._identity = identity or {"model": "scripted"}
        self.calls = 0  # of either method
        self.requests: list[Request] = []  # all that were generated
        self.questions: list[list[Message]] = []  # all whose options were scored

    @property
    def identity(self) -> dict[str, str]:
        return self._identity

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.calls += 1
        self.requests += requests
        answers = [self.answer(r.messages, r.seed) for r in requests]
        return [Completion(a, True) if isinstance(a, str) else a for a in answers]

    def option_logprobs(
        self, prompts: Sequence[list[Message]], options: Sequence[str]
    ) -> list[list[float]]:
        if self.score is None:
            raise ValueError("this ScriptedGenerator cannot score options: give it a score")
        self.calls += 1
        self.questions += prompts
        return [[self.score(prompt, option) for option in options] for prompt in prompts]
