"""Draft, critique, revise: the supervised stage of Constitutional AI (arXiv 2212.08073, section 3).

Each round draws a principle, lets the model critique its own last answer by it, and then revise it;
the revision replaces the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from lightning_rlhf.constitution.chain import (
    Chain,
    Draft,
    Round,
    critique_prompt,
    revision_prompt,
)
from lightning_rlhf.constitution.generator import Completion, Generator, Request
from lightning_rlhf.constitution.principles import Constitution, Principle
from lightning_rlhf.constitution.readers import LazyConstitution
from lightning_rlhf.constitution.seeds import row_ids, seed_of
from lightning_rlhf.constitution.transcripts import Transcript, load_transcripts, some
from lightning_rlhf.text.messages import Message, as_messages


class _Step(NamedTuple):
    """One chain at the start of a round."""

    chain: Chain
    principle: Principle
    request: str  # the critique's; "" where the answer is revised directly
    messages: list[Message]  # up to the critique


class SelfCritique:
    """The loop of critiques and revisions.

    Args:
        constitution: the source of principles: an object, a file, or None for the built-in one.
        rounds: critiques and revisions per row; the paper has 4.
        transcripts: worked examples before each request; None for the built-in ones, () for none.
        critique: write a critique before each revision. It helps small models (section 3.5 of the
            paper); without it the answer is revised directly.
        shots: number of transcripts, drawn for each row; None for all, in their order.
        seed: of the run. Each draw is hashed from it, the row's id, the kind of request, the round.
    """

    def __init__(
        self,
        constitution: Constitution | str | None = None,
        rounds: int = 4,
        transcripts: Sequence[Transcript] | None = None,
        *,
        critique: bool = True,
        shots: int | None = None,
        seed: int = 0,
    ):
        if rounds < 1:
            raise ValueError(f"rounds must be 1 or more, got {rounds}")
        self.rounds = rounds
        self.transcripts = load_transcripts() if transcripts is None else tuple(transcripts)
        self.critique = critique
        self.shots = shots
        self.seed = seed
        self._kind: Literal["critique", "revision"] = "critique" if critique else "revision"
        some(self.transcripts, shots)
        self._lazy = LazyConstitution(constitution, self._kind)

    @property
    def constitution(self) -> Constitution:
        """The constitution, read on first use.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is wrong, or none of its principles can be drawn.
        """
        return self._lazy.value

    def run(self, generator: Generator, rows: Sequence[dict[str, Any]]) -> list[Chain]:
        """Make a chain for each row: one call for all drafts and two for each round.

        Args:
            generator: the model that drafts, critiques and revises.
            rows: ``{"prompt": text or messages}``, with an optional ``"id"``; else a hash of the
                prompt is the id. Rows with one id get the same draws.
        """
        chains = self._draft(generator, rows)
        for round in range(1, self.rounds + 1):
            chains = self._round(generator, chains, round)
        return chains

    def _draft(self, generator: Generator, rows: Sequence[dict[str, Any]]) -> list[Chain]:
        ids = row_ids(rows)
        requests = [
            Request(as_messages(row["prompt"]), self._seed(id, "draft", 0))
            for id, row in zip(ids, rows, strict=True)
        ]
        answers = generator.generate(requests)
        return [
            Chain(
                id,
                row["prompt"],
                Draft(answer.text, answer.finished, request.seed),
                rounds=(),
                shots=self._examples(id),
                generator=dict(generator.identity),
                constitution=self.constitution.stamp,
                seed=self.seed,
            )
            for id, row, request, answer in zip(ids, rows, requests, answers, strict=True)
        ]

    def _round(self, generator: Generator, chains: list[Chain], round: int) -> list[Chain]:
        steps = [self._step(chain, round) for chain in chains]
        critiques: Iterable[Completion] = [Completion("", True)] * len(steps)
        if self.critique:
            critiques = generator.generate(
                [Request(s.messages, self._seed(s.chain.id, "critique", round)) for s in steps]
            )
        critiqued = list(zip(steps, critiques, strict=True))
        revisions = generator.generate(
            [
                Request(
                    revision_prompt(s.messages, s.request, c.text, s.principle.revision),
                    self._seed(s.chain.id, "revision", round),
                )
                for s, c in critiqued
            ]
        )
        return [
            self._extended(step, critique, revision, round)
            for (step, critique), revision in zip(critiqued, revisions, strict=True)
        ]

    def _step(self, chain: Chain, round: int) -> _Step:
        principle = self.constitution.draw(self._kind, self.seed, chain.id, round)
        request = principle.critique if self.critique else ""
        answer = chain.answer(round - 1)
        messages = critique_prompt(chain.prompt, answer, chain.shots, request)
        return _Step(chain, principle, request, messages)

    def _extended(
        self, step: _Step, critique: Completion, revision: Completion, round: int
    ) -> Chain:
        id = step.chain.id
        done = Round(
            principle=step.principle.id,
            critique_request=step.request,
            critique=critique.text,
            critique_finished=critique.finished,
            critique_seed=self._seed(id, "critique", round) if self.critique else None,
            revision_request=step.principle.revision,
            revision=revision.text,
            finished=revision.finished,
            seed=self._seed(id, "revision", round),
        )
        return replace(step.chain, rounds=(*step.chain.rounds, done))

    def _seed(self, id: str, purpose: str, round: int) -> int:
        return seed_of(self.seed, id, purpose, round)

    def _examples(self, id: str) -> tuple[Message, ...]:
        drawn = some(self.transcripts, self.shots, self.seed, id)
        return tuple(m for t in drawn for m in t.messages(self.critique))
