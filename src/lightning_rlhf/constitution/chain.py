"""A chain: one prompt's draft and rounds of critique and revision, with all that made them."""

from __future__ import annotations

from dataclasses import KW_ONLY, asdict, dataclass, fields
from typing import Any, Literal

from lightning_rlhf.constitution.transcripts import turns
from lightning_rlhf.text.messages import Message, Prompt, as_messages

RequestKind = Literal["draft", "critique", "revision"]


@dataclass(frozen=True)
class Draft:
    """The first answer."""

    text: str
    finished: bool
    seed: int


@dataclass(frozen=True)
class Round:
    """One critique and revision."""

    principle: str  # its id
    critique_request: str  # "" where the answer is revised directly
    critique: str
    _: KW_ONLY
    critique_finished: bool
    critique_seed: int | None
    revision_request: str
    revision: str
    finished: bool  # True if the revision ended by EOS or a stop string
    seed: int  # of the revision


@dataclass(frozen=True)
class Chain:
    """A draft and its rounds: one row that ``SelfCritique`` makes."""

    id: str
    prompt: Prompt
    draft: Draft
    _: KW_ONLY
    rounds: tuple[Round, ...]
    shots: tuple[Message, ...]  # the worked examples before every request of this row
    generator: dict[str, str]  # its identity
    constitution: dict[str, str]  # name, version, sha256
    seed: int  # of the run

    def answer(self, round: int) -> str:
        """Answer after a number of rounds; round 0 is the draft."""
        return self.rounds[round - 1].revision if round else self.draft.text

    def finished(self, round: int) -> bool:
        """True if that answer ended by EOS or a stop string."""
        return self.rounds[round - 1].finished if round else self.draft.finished

    def check_round(self, round: int, first: int) -> None:
        """Refuse a round that the chain does not have.

        Args:
            round: its number.
            first: smallest number allowed: 0 to include the draft, else 1.

        Raises:
            ValueError: there is no such round.
        """
        if not isinstance(round, int) or not first <= round <= len(self.rounds):
            raise ValueError(
                f"row {self.id} has no round {round!r}: give {first} to {len(self.rounds)}"
            )

    def sent(self, kind: RequestKind, round: int = 1) -> list[Message]:
        """Rebuild a request's messages: the draft's, or those of a round's critique or revision."""
        if kind == "draft":
            return as_messages(self.prompt)
        here = self.rounds[round - 1]
        messages = critique_prompt(
            self.prompt, self.answer(round - 1), self.shots, here.critique_request
        )
        if kind == "critique":
            return messages
        return revision_prompt(
            messages, here.critique_request, here.critique, here.revision_request
        )

    def to_row(self) -> dict[str, Any]:
        """Turn the chain into a plain dict for JSON."""
        row = asdict(self)
        return {**row, "rounds": list(row["rounds"]), "shots": list(row["shots"])}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Chain:
        """Read a row that ``to_row`` wrote.

        Raises:
            ValueError: a field is absent or unknown.
        """
        try:
            rounds = tuple(Round(**round) for round in row["rounds"])
            parts = {"draft": Draft(**row["draft"]), "rounds": rounds, "shots": tuple(row["shots"])}
            return cls(**{field.name: row[field.name] for field in fields(cls)} | parts)
        except (KeyError, TypeError) as error:
            name = row.get("id", "?")
            raise ValueError(
                f"row {name} is not a chain of SelfCritique: {error}; give rows that it wrote"
            ) from error


def critique_prompt(
    prompt: Prompt, answer: str, shots: tuple[Message, ...], request: str
) -> list[Message]:
    """Build a critique request: examples, conversation, answer, and the request if there is one.

    The conversation's system turn stays first: most chat templates accept it nowhere else.
    """
    messages = as_messages(prompt)
    system = [m for m in messages[:1] if m["role"] == "system"]
    answered = turns(("assistant", answer))
    requested = turns(("user", request)) if request else []
    return [*system, *map(dict, shots), *messages[len(system) :], *answered, *requested]


def revision_prompt(
    before: list[Message], critique_request: str, critique: str, request: str
) -> list[Message]:
    """Build a revision request: messages before the critique, the critique if any, the request."""
    critiqued = turns(("assistant", critique)) if critique_request else []
    return [*before, *critiqued, *turns(("user", request))]
