"""Whoever answers: what the loop and the labeller ask of a model, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

Message = dict[str, str]  # role and content
Prompt = str | list[Message]


class Completion(NamedTuple):
    """What was answered."""

    text: str
    finished: bool  # ended by EOS or a stop, not by its length


class Request(NamedTuple):
    """What is asked: messages that end with a user's turn, or an assistant's to be continued."""

    messages: list[Message]
    seed: int  # of this request's samples, whatever it is batched with


class Generator(Protocol):
    """A model, as the loop sees it."""

    @property
    def identity(self) -> dict[str, str]:
        """Model, adapter hash, sampling settings: into every row and every key of a journal."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """An answer to each request."""
        ...

    def option_logprobs(
        self, prompts: Sequence[list[Message]], options: Sequence[str]
    ) -> list[list[float]]:
        """Summed token log-probs of each option as the beginning of the next assistant turn.

        Where a prompt ends with an assistant's turn, the option continues it.
        """
        ...


class ScriptedGenerator:
    """A generator for tests and docs: answers come from functions, and it counts what it is asked.

    Args:
        answer: of messages and seed; a plain string counts as finished.
        score: log-prob of an option after messages.
        identity: goes into rows.
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
        self.requests: list[Request] = []  # all that were sent
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
            raise ValueError("this ScriptedGenerator has no score: give it one to ask for options")
        self.calls += 1
        self.questions += prompts
        return [[self.score(prompt, option) for option in options] for prompt in prompts]
