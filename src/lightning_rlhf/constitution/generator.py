"""``Generator``: the interface of a model, local, remote or scripted, for this room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from lightning_rlhf.text.messages import Message


class Completion(NamedTuple):
    """One answer."""

    text: str
    finished: bool  # ended by EOS or a stop string, not by its length


class Request(NamedTuple):
    """Messages that end with a user turn, or with an assistant turn to be continued."""

    messages: list[Message]
    seed: int  # of this request's sample; it does not depend on the batch


class Unanswered(ValueError):
    """Some requests have no answer; the message says why, of the first.

    Args:
        reason: of the first.
        answers: of all requests, in order; None where there is none.
    """

    def __init__(self, reason: str, answers: Sequence[Any]):
        missing = sum(answer is None for answer in answers)
        more = f" ({missing} of {len(answers)} requests)" if len(answers) > 1 else ""
        super().__init__(reason + more)
        self.answers = list(answers)


class Generator(Protocol):
    """A model that answers messages and scores options."""

    @property
    def identity(self) -> dict[str, str]:
        """Model, adapter hash and sampling settings: stored in each row and each journal key."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer each request."""
        ...

    def option_logprobs(
        self, prompts: Sequence[list[Message]], options: Sequence[str]
    ) -> list[list[float]]:
        """Sum the token log-probs of each option as the beginning of the next assistant turn.

        Where a prompt ends with an assistant turn, the option continues it.
        """
        ...
