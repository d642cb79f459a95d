"""What a judge said of two answers, the arithmetic of its label, and what all labels together show.

Log-probs of the option labels, normalised, are soft labels (arXiv 2212.08073, section 4.1); both
orders are asked and averaged (arXiv 2309.00267, section 2.1), because a judge may answer a
position.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lightning_rlhf.constitution.generator import Message, Prompt

Status = Literal["decided", "tied", "inconsistent", "unparseable"]
STATUSES: tuple[Status, ...] = ("decided", "tied", "inconsistent", "unparseable")
NEAR = 1e-9  # what rounding may put between two equal probabilities


class Order(NamedTuple):
    """One asking."""

    swapped: bool  # whether the pair's second answer stood first
    logprobs: tuple[float, float]  # of label A and label B
    sent: list[Message]  # the messages that the label followed
    reasoning: str = ""
    finished: bool = True  # whether the reasoning ended by itself
    seed: int | None = None  # of the reasoning

    @property
    def p_a(self) -> float | None:
        """Probability of label A against B; None where neither has a finite log-prob."""
        return normalised(self.logprobs)

    @property
    def p_first(self) -> float | None:
        """Probability that the pair's first answer is better, wherever it stood."""
        p = self.p_a
        return p if p is None or not self.swapped else 1 - p


class Label(NamedTuple):
    """What the orders come to."""

    status: Status
    p: float  # that the first answer is better: 0.5 unless decided, clamped if asked
    raw: float | None  # the plain mean of the orders
    clamped: bool


def normalised(logprobs: tuple[float, float]) -> float | None:
    """Softmax of the first of two log-probs; None where neither is finite or one is no number."""
    a, b = logprobs
    if any(math.isnan(x) or x == math.inf for x in logprobs) or max(a, b) == -math.inf:
        return None
    return 1 / (1 + math.exp(b - a)) if b - a < 700 else 0.0


def label_of(orders: Sequence[Order], clamp: tuple[float, float] | None) -> Label:
    """The mean of the orders; never a guess.

    Args:
        orders: one asking, or both; none for two answers that are alike, which tie.
        clamp: bounds of a decided probability, or None.
    """
    shares = [order.p_first for order in orders]
    known = [p for p in shares if p is not None]
    if len(known) < len(shares):
        return Label("unparseable", 0.5, None, False)
    raw = sum(known) / len(known) if known else 0.5
    sides = {_side(p) for p in known}
    if sides == {1, -1}:
        return Label("inconsistent", 0.5, raw, False)
    if abs(raw - 0.5) <= NEAR:
        return Label("tied", 0.5, raw, False)
    p = min(max(raw, clamp[0]), clamp[1]) if clamp else raw
    return Label("decided", p, raw, p != raw)


def _side(p: float) -> int:
    return 0 if abs(p - 0.5) <= NEAR else 1 if p > 0.5 else -1


@dataclass(frozen=True)
class Verdict:
    """A row of the preference stage."""

    id: str
    prompt: Prompt
    first: str
    second: str
    status: Status
    p: float  # that the first answer is better, as trained on
    raw: float | None  # before clamping, and before an undecided one became 0.5
    clamped: bool
    orders: tuple[Order, ...]
    principle: str  # its id
    judge: dict[str, str]  # its identity
    constitution: dict[str, str]  # name, version, sha256
    seed: int  # of the run
    extra: dict[str, Any]  # what else the pair said of itself

    def to_row(self) -> dict[str, Any]:
        """A plain dict that JSON can hold, and that ``PreferenceData`` reads.

        ``chosen`` is the answer the judge leans to and ``label`` the probability that it is better.
        """
        better_first = self.p >= 0.5
        sides = (self.first, self.second) if better_first else (self.second, self.first)
        return {
            "id": self.id,
            "prompt": self.prompt,
            "chosen": sides[0],
            "rejected": sides[1],
            "label": self.p if better_first else 1 - self.p,
            "first_is_chosen": better_first,
            "p_first": self.p,
            "raw": self.raw,
            "status": self.status,
            "clamped": self.clamped,
            "principle": self.principle,
            "orders": [_order_row(order) for order in self.orders],
            "judge": self.judge,
            "constitution": self.constitution,
            "seed": self.seed,
            "extra": self.extra,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Verdict:
        """The verdict that ``to_row`` wrote."""
        try:
            sides = (row["chosen"], row["rejected"])
            first, second = sides if row["first_is_chosen"] else sides[::-1]
            orders = tuple(_order(order) for order in row["orders"])
            names = ("id", "prompt", "status", "raw", "clamped", "principle", "judge")
            kept = {name: row[name] for name in (*names, "constitution", "seed", "extra")}
            return cls(first=first, second=second, p=row["p_first"], orders=orders, **kept)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"row {row.get('id', '?')} is no label of AIFeedback: {error}"
            ) from error


def _order_row(order: Order) -> dict[str, Any]:
    """JSON knows no infinity: an option that was not among the judge's is null."""
    logprobs = [x if math.isfinite(x) else None for x in order.logprobs]
    return {**order._asdict(), "logprobs": logprobs, "p_first": order.p_first}


def _order(row: dict[str, Any]) -> Order:
    a, b = (-math.inf if x is None else x for x in row["logprobs"])
    return Order(**{**{k: row[k] for k in Order._fields}, "logprobs": (a, b)})


class FeedbackReport(NamedTuple):
    """What all labels together show of the judge."""

    pairs: int
    counts: dict[str, int]  # of each status
    orders: int  # askings with an answer
    first_position: float | None  # share of them that prefer what stood first; 0.5 is fair
    position_bias: float | None  # share of pairs, asked both ways, whose answer was a position
    always: str | None  # "A" or "B", where every asking of both orders was answered so
    mass: float | None  # mean probability of both labels together, against all else it could say
    lean: float  # mean |p - 0.5| of the labels as trained on
    clamped: int
    labels: tuple[str, str]

    @classmethod
    def of(
        cls, verdicts: Sequence[Verdict], labels: tuple[str, str] = ("A", "B")
    ) -> FeedbackReport:
        """Counts over verdicts."""
        counted = Counter(v.status for v in verdicts)
        shares = [p for v in verdicts for o in v.orders if (p := o.p_a) is not None]
        firsts = [0.5 if (side := _side(p)) == 0 else float(side > 0) for p in shares]
        both = [v for v in verdicts if len(v.orders) == 2 and v.status != "unparseable"]
        one_way = {0.0: labels[1], 1.0: labels[0]}.get(_mean(firsts) if both else None)  # type: ignore[arg-type]
        return cls(
            len(verdicts), {status: counted[status] for status in STATUSES}, len(shares),
            _mean(firsts), _mean([float(v.status == "inconsistent") for v in both]), one_way,
            _mean([sum(map(math.exp, o.logprobs)) for v in verdicts for o in v.orders]),
            _mean([abs(v.p - 0.5) for v in verdicts]) or 0.0, sum(v.clamped for v in verdicts),
            labels,
        )  # fmt: skip

    def __str__(self) -> str:
        told = ", ".join(f"{n:,} {status}" for status, n in self.counts.items() if n)
        parts = [f"{self.pairs:,} pairs judged: {told or 'none'}"]
        if self.always is not None:
            always = f"answers {self.always.strip()} in 100 % of both orders"
            parts.append(f"the judge {always}: its labels say nothing")
        elif self.first_position is not None:
            parts.append(
                f"what stood first was preferred in {self.first_position:.0%} (50 % is fair)"
            )
        if self.position_bias is not None and self.always is None:
            parts.append(f"the answer followed the position in {self.position_bias:.0%} of pairs")
        if self.mass is not None and self.mass < 0.1:
            parts.append(f"the judge would say one of the labels in only {self.mass:.1%}")
        parts.append(f"labels lie {self.lean:.3f} from 0.5 on average")
        return "; ".join(parts)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
