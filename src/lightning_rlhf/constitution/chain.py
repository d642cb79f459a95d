"""What became of one prompt: a draft, its rounds, and everything needed to make them again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from lightning_rlhf.constitution.generator import Message, Prompt
from lightning_rlhf.constitution.seeds import as_messages
from lightning_rlhf.constitution.transcripts import turns

Stage = Literal["draft", "critique", "revision"]


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
    critique_finished: bool
    critique_seed: int | None
    revision_request: str
    revision: str
    finished: bool  # whether the revision ended by itself
    seed: int  # of the revision


@dataclass(frozen=True)
class Chain:
    """A row of the supervised stage."""

    id: str
    prompt: Prompt
    draft: Draft
    rounds: tuple[Round, ...]
    shots: tuple[Message, ...]  # the worked examples before every request of this row
    generator: dict[str, str]  # its identity
    constitution: dict[str, str]  # name, version, sha256
    seed: int  # of the run

    def answer(self, round: int) -> str:
        """What stood after so many rounds; 0 is the draft."""
        return self.rounds[round - 1].revision if round else self.draft.text

    def finished(self, round: int) -> bool:
        """Whether that answer ended by itself."""
        return self.rounds[round - 1].finished if round else self.draft.finished

    def sent(self, stage: Stage, round: int = 1) -> list[Message]:
        """The prompt exactly as it was sent: for the draft, or a round's critique or revision."""
        if stage == "draft":
            return as_messages(self.prompt)
        here = self.rounds[round - 1]
        asked = critique_prompt(
            self.prompt, self.answer(round - 1), self.shots, here.critique_request
        )
        if stage == "critique":
            return asked
        return revision_prompt(asked, here.critique_request, here.critique, here.revision_request)

    def to_row(self) -> dict[str, Any]:
        """A plain dict that JSON can hold."""
        row = asdict(self)
        return {**row, "rounds": list(row["rounds"]), "shots": list(row["shots"])}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Chain:
        """The chain that ``to_row`` wrote."""
        try:
            rounds = tuple(Round(**round) for round in row["rounds"])
            parts = {"draft": Draft(**row["draft"]), "rounds": rounds, "shots": tuple(row["shots"])}
            return cls(**{field.name: row[field.name] for field in fields(cls)} | parts)
        except (KeyError, TypeError) as error:
            name = row.get("id", "?")
            raise ValueError(f"row {name} is no chain of SelfCritique: {error}") from error


def critique_prompt(
    prompt: Prompt, answer: str, shots: tuple[Message, ...], request: str
) -> list[Message]:
    """Examples, conversation, the answer, and the request about it, if there is one.

    A system turn of the conversation stays first: most chat templates take it nowhere else.
    """
    messages = as_messages(prompt)
    first = [m for m in messages[:1] if m["role"] == "system"]
    asked = turns(("user", request)) if request else []
    answered = turns(("assistant", answer))
    return [*first, *map(dict, shots), *messages[len(first) :], *answered, *asked]


def revision_prompt(
    asked: list[Message], critique_request: str, critique: str, request: str
) -> list[Message]:
    """What stood before the critique, the critique if there is one, and the revision's request."""
    critiqued = turns(("assistant", critique)) if critique_request else []
    return [*asked, *critiqued, *turns(("user", request))]
