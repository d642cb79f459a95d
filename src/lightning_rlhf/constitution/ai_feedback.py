"""A judge's soft labels: the preference stage of Constitutional AI (arXiv 2212.08073, section 4).

One principle is drawn for each pair, the log-probs of two option labels are normalised, and both
orders of the answers are asked (arXiv 2309.00267, section 2.1). With a chain of thought the labels
come near 0 and 1, so they are clamped to 0.4 and 0.6 (section 4.1 of the former).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from lightning_rlhf.constitution.generator import Completion, Generator, Message, Request
from lightning_rlhf.constitution.principles import (
    Constitution,
    Governed,
    Principle,
)
from lightning_rlhf.constitution.question import Question
from lightning_rlhf.constitution.seeds import prompt_of, row_id, seed_of, share_of
from lightning_rlhf.constitution.transcripts import Comparison, load_comparisons, some
from lightning_rlhf.constitution.verdicts import FeedbackReport, Order, Verdict, label_of

OWN = ("id", "prompt", "first", "second")  # of a pair; all else is kept as extra


class _Asking(NamedTuple):
    """One pair in one order."""

    pair: int
    swapped: bool
    messages: list[Message]  # up to where a chain of thought, or the label, begins
    seed: int


class AIFeedback(Governed):
    """The labeller.

    Args:
        constitution: whose comparisons are drawn, one for each pair; a file, or None for the
            built-in one.
        chain_of_thought: whether the judge reasons before each label.
        clamp: bounds of a label after a chain of thought; None for none. Without one nothing is
            clamped.
        transcripts: worked examples before each question; None for the built-in ones, () for none.
        shots: how many of them, drawn for each pair; None for all, in their order.
        swap: ask both orders; without it the order is drawn.
        undecided: what becomes of a tied, inconsistent or unparseable verdict in ``rows``: a label
            of 0.5, or nothing.
        labels: of the two options, as the judge's turn begins with them.
        question: the texts around the answers.
        seed: of the run. Every draw is made of it and the pair's id.
    """

    def __init__(
        self,
        constitution: Constitution | str | None = None,
        chain_of_thought: bool = False,
        clamp: tuple[float, float] | None = (0.4, 0.6),
        transcripts: Sequence[Comparison] | None = None,
        shots: int | None = None,
        swap: bool = True,
        undecided: Literal["half", "drop"] = "half",
        labels: tuple[str, str] = ("A", "B"),
        question: Question | None = None,
        seed: int = 0,
    ):
        if undecided not in ("half", "drop"):
            raise ValueError(f'undecided must be "half" or "drop", got {undecided!r}')
        if clamp is not None and not 0 <= clamp[0] <= 0.5 <= clamp[1] <= 1:
            raise ValueError(f"clamp must be a low and a high bound around 0.5, got {clamp}")
        if len(labels) != 2 or labels[0] == labels[1]:
            raise ValueError(f"labels must be two different texts, got {labels!r}")
        self.chain_of_thought = chain_of_thought
        self.clamp = clamp if chain_of_thought else None
        self.transcripts = load_comparisons() if transcripts is None else tuple(transcripts)
        self.shots = shots
        self.swap = swap
        self.undecided = undecided
        self.labels = (labels[0], labels[1])
        self.question = question or Question()
        self.seed = seed
        some(self.transcripts, shots)
        super().__init__(constitution, "comparison")

    def label(self, judge: Generator, pairs: Sequence[dict[str, Any]]) -> list[Verdict]:
        """A verdict on each pair, in one call for all labels and one before it for all reasons.

        Args:
            judge: who is asked.
            pairs: ``{"prompt", "first", "second"}`` and what else they say of themselves; with an
                ``"id"`` where it should not be a hash of these.
        """
        ids = [_pair_id(pair, place) for place, pair in enumerate(pairs, 1)]
        drawn = [self.constitution.draw("comparison", self.seed, id) for id in ids]
        askings = [
            self._asking(place, pair, id, principle, swapped)
            for place, (pair, id, principle) in enumerate(zip(pairs, ids, drawn, strict=True))
            for swapped in self._orders(pair, id)
        ]
        orders: list[list[Order]] = [[] for _ in pairs]
        for asking, order in zip(askings, self._ask(judge, askings), strict=True):
            orders[asking.pair].append(order)
        rows = zip(pairs, ids, drawn, orders, strict=True)
        return [self._verdict(judge, *row) for row in rows]

    def rows(self, verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
        """Rows that ``PreferenceData`` reads; undecided ones stay at 0.5 or are left out.

        Two answers that are alike are always left out: they train nothing.
        """
        kept = [v for v in verdicts if self.undecided == "half" or v.status == "decided"]
        return [v.to_row() for v in kept if v.first != v.second]

    def report(self, verdicts: Sequence[Verdict]) -> FeedbackReport:
        """What all verdicts together show of the judge."""
        return FeedbackReport.of(verdicts, self.labels)

    def _orders(self, pair: dict[str, Any], id: str) -> list[bool]:
        if pair["first"] == pair["second"]:
            return []  # nothing to ask
        return [False, True] if self.swap else [share_of(self.seed, id, "order") < 0.5]

    def _asking(
        self, place: int, pair: dict[str, Any], id: str, principle: Principle, swapped: bool
    ) -> _Asking:
        sides = (pair["second"], pair["first"]) if swapped else (pair["first"], pair["second"])
        reasoned = self.chain_of_thought
        examples = some(self.transcripts, self.shots, self.seed, id)
        shown = [m for e in examples for m in self.question.example(e, self.labels, reasoned)]
        asked = self.question.ask(
            pair["prompt"], principle.comparison, *sides, self.labels, reasoned
        )
        return _Asking(
            place, swapped, [*shown, asked], seed_of(self.seed, id, "judge", int(swapped))
        )

    def _ask(self, judge: Generator, askings: list[_Asking]) -> list[Order]:
        thoughts = [Completion("", True)] * len(askings)
        sent = [asking.messages for asking in askings]
        if self.chain_of_thought:
            thoughts = judge.generate([Request(a.messages, a.seed) for a in askings])
            sent = [
                [*asking.messages, *self.question.after(thought.text, self.labels)]
                for asking, thought in zip(askings, thoughts, strict=True)
            ]
        scored = judge.option_logprobs(sent, self.labels)
        return [
            Order(
                asking.swapped, (logprobs[0], logprobs[1]), messages, thought.text,
                thought.finished, asking.seed if self.chain_of_thought else None,
            )
            for asking, logprobs, messages, thought in zip(
                askings, scored, sent, thoughts, strict=True
            )
        ]  # fmt: skip

    def _verdict(
        self,
        judge: Generator,
        pair: dict[str, Any],
        id: str,
        principle: Principle,
        orders: list[Order],
    ) -> Verdict:
        status, p, raw, clamped = label_of(orders, self.clamp)
        return Verdict(
            id, pair["prompt"], pair["first"], pair["second"], status, p, raw, clamped,
            tuple(orders), principle.id, dict(judge.identity), self.constitution.stamp, self.seed,
            {key: value for key, value in pair.items() if key not in OWN},
        )  # fmt: skip


def _pair_id(pair: dict[str, Any], place: int) -> str:
    for side in ("first", "second"):
        if not isinstance(pair.get(side), str):
            raise ValueError(f"pair {place} has no text {side!r}: give prompt, first and second")
    prompt = prompt_of(pair, f"pair {place}")
    return str(pair.get("id") or row_id(prompt, pair["first"], pair["second"]))
