"""A judge's soft labels: the preference stage of Constitutional AI (arXiv 2212.08073, section 4).

One principle is drawn for each pair, the log-probs of two option labels are normalized, and both
orders of the answers are asked (arXiv 2309.00267, section 2.1). After a chain of thought labels
are near 0 or 1, so they are clamped to 0.4 and 0.6 (section 4.1 of the former).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from lightning_rlhf.constitution.generator import Completion, Generator, Request
from lightning_rlhf.constitution.principles import Constitution, Principle
from lightning_rlhf.constitution.question import Question
from lightning_rlhf.constitution.readers import LazyConstitution
from lightning_rlhf.constitution.seeds import row_id, seed_of, share_of
from lightning_rlhf.constitution.transcripts import Comparison, load_comparisons, some
from lightning_rlhf.constitution.verdicts import FeedbackReport, Order, Verdict, label_of
from lightning_rlhf.text.messages import Message, checked_prompt

OWN = ("id", "prompt", "first", "second")  # fields of a pair; others are kept as extra


class _Asking(NamedTuple):
    """One pair in one order."""

    pair: int  # index
    swapped: bool
    messages: list[Message]  # up to the chain of thought, or the label
    seed: int


class AIFeedback:
    """Label pairs of answers by a judge and a constitution.

    Args:
        constitution: the source of comparisons, one drawn for each pair: an object, a file, or
            None for the built-in one.
        chain_of_thought: let the judge reason before each label.
        clamp: bounds of a label after a chain of thought; None for no bounds. Other labels are
            never clamped.
        transcripts: worked examples before each question; None for the built-in ones, () for none.
        shots: number of examples, drawn for each pair; None for all, in their order.
        swap: ask in both orders; else one order is drawn.
        undecided: in ``rows``, give tied, inconsistent and unparseable pairs the label 0.5
            ("half"), or leave them out ("drop").
        labels: the two options, as the judge's turn begins with them.
        question: the texts around the answers.
        seed: of the run. Each draw is hashed from it and the pair's id.
    """

    def __init__(
        self,
        constitution: Constitution | str | None = None,
        chain_of_thought: bool = False,
        clamp: tuple[float, float] | None = (0.4, 0.6),
        *,
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
        self._lazy = LazyConstitution(constitution, "comparison")

    @property
    def constitution(self) -> Constitution:
        """The constitution, read on first use.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is wrong, or none of its principles can be drawn.
        """
        return self._lazy.value

    def label(self, judge: Generator, pairs: Sequence[dict[str, Any]]) -> list[Verdict]:
        """Judge each pair: one call for all chains of thought, if any, and one for all labels.

        Args:
            judge: the model to ask.
            pairs: ``{"prompt", "first", "second"}`` and any other fields, with an optional
                ``"id"``; else a hash of these is the id.
        """
        ids = [_pair_id(pair, number) for number, pair in enumerate(pairs, 1)]
        drawn = [self.constitution.draw("comparison", self.seed, id) for id in ids]
        askings = [
            _Asking(
                index,
                swapped,
                self._messages(pair, id, principle, swapped),
                seed_of(self.seed, id, "judge", int(swapped)),
            )
            for index, (pair, id, principle) in enumerate(zip(pairs, ids, drawn, strict=True))
            for swapped in self._orders(pair, id)
        ]
        orders: list[list[Order]] = [[] for _ in pairs]
        for asking, order in zip(askings, self._ask(judge, askings), strict=True):
            orders[asking.pair].append(order)
        rows = zip(pairs, ids, drawn, orders, strict=True)
        return [self._verdict(judge, *row) for row in rows]

    def rows(self, verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
        """Turn verdicts into rows for ``PreferenceData``.

        Two equal answers are always left out: they have no gradient.
        """
        kept = [v for v in verdicts if self.undecided == "half" or v.status == "decided"]
        return [v.to_row() for v in kept if v.first != v.second]

    def report(self, verdicts: Sequence[Verdict]) -> FeedbackReport:
        """Compute figures about the judge from its verdicts."""
        return FeedbackReport.of(verdicts, self.labels)

    def _orders(self, pair: dict[str, Any], id: str) -> list[bool]:
        if pair["first"] == pair["second"]:
            return []  # equal answers are not asked about
        return [False, True] if self.swap else [share_of(self.seed, id, "order") < 0.5]

    def _messages(
        self, pair: dict[str, Any], id: str, principle: Principle, swapped: bool
    ) -> list[Message]:
        """Worked examples and the question about one pair in one order."""
        labels, reasoned = self.labels, self.chain_of_thought
        examples = some(self.transcripts, self.shots, self.seed, id)
        shown = [m for e in examples for m in self.question.example(e, labels, reasoned)]
        answers = (pair["second"], pair["first"]) if swapped else (pair["first"], pair["second"])
        question = self.question.ask(
            pair["prompt"], principle.comparison, answers, labels=labels, reasoned=reasoned
        )
        return [*shown, question]

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
                swapped=asking.swapped,
                logprobs=(logprobs[0], logprobs[1]),
                sent=messages,
                reasoning=thought.text,
                finished=thought.finished,
                seed=asking.seed if self.chain_of_thought else None,
            )
            for asking, logprobs, messages, thought in zip(
                askings, scored, sent, thoughts, strict=True
            )
        ]

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
            id,
            pair["prompt"],
            first=pair["first"],
            second=pair["second"],
            status=status,
            p=p,
            raw=raw,
            clamped=clamped,
            orders=tuple(orders),
            principle=principle.id,
            judge=dict(judge.identity),
            constitution=self.constitution.stamp,
            seed=self.seed,
            extra={key: value for key, value in pair.items() if key not in OWN},
        )


def _pair_id(pair: dict[str, Any], number: int) -> str:
    for side in ("first", "second"):
        if not isinstance(pair.get(side), str):
            raise ValueError(f"pair {number} has no text {side!r}: give prompt, first and second")
    prompt = checked_prompt(pair, f"pair {number}")
    return str(pair.get("id") or row_id(prompt, pair["first"], pair["second"]))
