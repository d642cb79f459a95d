"""Draft, critique, revise: the supervised stage of Constitutional AI (arXiv 2212.08073, section 3).

In each round a principle is drawn afresh, the model critiques its own last answer by it and then
revises it; the revision takes the answer's place.
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
from lightning_rlhf.constitution.generator import Completion, Generator, Message, Request
from lightning_rlhf.constitution.principles import (
    Constitution,
    Governed,
    Principle,
)
from lightning_rlhf.constitution.sampled import named
from lightning_rlhf.constitution.seeds import as_messages, seed_of
from lightning_rlhf.constitution.transcripts import Transcript, load_transcripts, some


class _Step(NamedTuple):
    """What a round asks of one chain."""

    chain: Chain
    principle: Principle
    asked: list[Message]


class SelfCritique(Governed):
    """The loop.

    Args:
        constitution: whose principles are drawn; a file, or None for the built-in one.
        rounds: critiques and revisions per row; the paper has 4.
        transcripts: worked examples before each request; None for the built-in ones, () for none.
        critique: whether a critique comes before each revision. It helps small models (section
            3.5 of the paper); without it the answer is revised directly.
        shots: how many transcripts, drawn for each row; None for all, in their order.
        seed: of the run. Every draw is made of it, the row's id, the stage and the round.
    """

    def __init__(
        self,
        constitution: Constitution | str | None = None,
        rounds: int = 4,
        transcripts: Sequence[Transcript] | None = None,
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
        some(self.transcripts, shots)
        super().__init__(constitution, "critique" if critique else "revision")

    def run(self, generator: Generator, rows: Sequence[dict[str, Any]]) -> list[Chain]:
        """A chain for each row, in one call for all drafts and two for each round.

        Args:
            generator: who drafts, critiques and revises.
            rows: ``{"prompt": text or messages}``, with an ``"id"`` where it should not be a hash
                of the prompt. Rows of one id get the same draws.
        """
        chains = self._draft(generator, rows)
        for round in range(1, self.rounds + 1):
            chains = self._round(generator, chains, round)
        return chains

    def _draft(self, generator: Generator, rows: Sequence[dict[str, Any]]) -> list[Chain]:
        ids = named(rows)
        requests = [
            Request(as_messages(row["prompt"]), self._seed(id, "draft", 0))
            for id, row in zip(ids, rows, strict=True)
        ]
        answers = generator.generate(requests)
        return [
            Chain(
                id, row["prompt"], Draft(answer.text, answer.finished, request.seed), (),
                self._examples(id), dict(generator.identity), self.constitution.stamp, self.seed,
            )
            for id, row, request, answer in zip(ids, rows, requests, answers, strict=True)
        ]  # fmt: skip

    def _round(self, generator: Generator, chains: list[Chain], round: int) -> list[Chain]:
        steps = [self._step(chain, round) for chain in chains]
        critiques: Iterable[Completion] = [Completion("", True)] * len(steps)
        if self.critique:
            critiques = generator.generate(
                [Request(s.asked, self._seed(s.chain.id, "critique", round)) for s in steps]
            )
        critiqued = list(zip(steps, critiques, strict=True))
        revisions = generator.generate(
            [
                Request(
                    revision_prompt(s.asked, self._request(s), c.text, s.principle.revision),
                    self._seed(s.chain.id, "revision", round),
                )
                for s, c in critiqued
            ]
        )
        return [
            self._longer(step, critique, revision, round)
            for (step, critique), revision in zip(critiqued, revisions, strict=True)
        ]

    def _step(self, chain: Chain, round: int) -> _Step:
        principle = self._principle(round, chain.id)
        request = principle.critique if self.critique else ""
        answer = chain.answer(round - 1)
        return _Step(chain, principle, critique_prompt(chain.prompt, answer, chain.shots, request))

    def _request(self, step: _Step) -> str:
        return step.principle.critique if self.critique else ""

    def _longer(self, step: _Step, critique: Completion, revision: Completion, round: int) -> Chain:
        name = step.chain.id
        done = Round(
            principle=step.principle.id,
            critique_request=self._request(step),
            critique=critique.text,
            critique_finished=critique.finished,
            critique_seed=self._seed(name, "critique", round) if self.critique else None,
            revision_request=step.principle.revision,
            revision=revision.text,
            finished=revision.finished,
            seed=self._seed(name, "revision", round),
        )
        return replace(step.chain, rounds=(*step.chain.rounds, done))

    def _principle(self, round: int, name: str) -> Principle:
        kind: Literal["critique", "revision"] = "critique" if self.critique else "revision"
        return self.constitution.draw(kind, self.seed, name, round)

    def _seed(self, name: str, stage: str, round: int) -> int:
        return seed_of(self.seed, name, stage, round)

    def _examples(self, name: str) -> tuple[Message, ...]:
        drawn = some(self.transcripts, self.shots, self.seed, name)
        return tuple(m for t in drawn for m in t.messages(self.critique))


def demonstrations(
    chains: Sequence[Chain], rounds: Sequence[int] | Literal["all", "last"] = "all"
) -> list[dict[str, Any]]:
    """Rows to imitate: the revisions of all rounds, as in the paper, or of some.

    Args:
        chains: from ``SelfCritique.run``.
        rounds: "all", "last", or numbers from 1.
    """
    rows = []
    for chain in chains:
        for round in _numbers(rounds, len(chain.rounds)):
            _check_round(chain, round, first=1)
            rows.append(
                {
                    "id": f"{chain.id}/r{round}",
                    "prompt": chain.prompt,
                    "completion": chain.answer(round),
                    "finished": chain.finished(round),
                    "source_id": chain.id,
                    "round": round,
                    "principle": chain.rounds[round - 1].principle,
                    "constitution": chain.constitution["sha256"],
                }
            )
    return rows


def _numbers(rounds: Sequence[int] | str, last: int) -> Sequence[int]:
    if not isinstance(rounds, str):
        return rounds
    if rounds not in ("all", "last"):
        raise ValueError(f'rounds must be "all", "last" or numbers from 1, got {rounds!r}')
    return range(1 if rounds == "all" else last, last + 1)


def pairs(
    chains: Sequence[Chain], kind: Literal["revision_vs_draft"] | tuple[str, int, int]
) -> list[dict[str, Any]]:
    """Two answers to each prompt, for a judge to compare: which is better is not assumed.

    Args:
        chains: from ``SelfCritique.run``.
        kind: "revision_vs_draft" (the last revision first) or ("rounds", k, j); round 0 is the
            draft.
    """
    rows = []
    for chain in chains:
        k, j = _which(chain, kind)
        rows.append(
            {
                "id": f"{chain.id}/r{k}-r{j}",
                "prompt": chain.prompt,
                "first": chain.answer(k),
                "second": chain.answer(j),
                "kind": kind if isinstance(kind, str) else f"rounds_{k}_{j}",
                "source_id": chain.id,
            }
        )
    return rows


def _which(chain: Chain, kind: Any) -> tuple[int, int]:
    if kind == "revision_vs_draft":
        return len(chain.rounds), 0
    if not isinstance(kind, str) and len(kind) == 3 and kind[0] == "rounds":
        for round in kind[1:]:
            _check_round(chain, round, first=0)
        return kind[1], kind[2]
    raise ValueError(f'kind must be "revision_vs_draft" or ("rounds", k, j), got {kind!r}')


def _check_round(chain: Chain, round: int, first: int) -> None:
    if not isinstance(round, int) or not first <= round <= len(chain.rounds):
        raise ValueError(
            f"row {chain.id} has no round {round!r}: give {first} to {len(chain.rounds)}"
        )
