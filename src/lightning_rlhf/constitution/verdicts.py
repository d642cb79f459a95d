"""Verdicts: a judge's log-probs as a soft label, and a report on all labels of a judge.

Normalized log-probs of the option labels are soft labels (arXiv 2212.08073, section 4.1). Both
orders are asked and averaged (arXiv 2309.00267, section 2.1), because a judge may prefer a
position.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NamedTuple

from lightning_rlhf.text.messages import Message, Prompt

Status = Literal["decided", "tied", "inconsistent", "unparseable"]
STATUSES: tuple[Status, ...] = ("decided", "tied", "inconsistent", "unparseable")
NEAR = 1e-9  # rounding error between two equal probabilities


class Order(NamedTuple):
    """A judge's answer to one order of a pair."""

    swapped: bool  # True if the pair's second answer was shown first
    logprobs: tuple[float, float]  # of label A and label B
    sent: list[Message]  # the messages before the label
    reasoning: str = ""
    finished: bool = True  # True if the reasoning ended by EOS or a stop string
    seed: int | None = None  # of the reasoning

    @property
    def p_a(self) -> float | None:
        """Probability of label A against B; None where neither has a finite log-prob."""
        return normalized(self.logprobs)

    @property
    def p_first(self) -> float | None:
        """Probability that the pair's first answer is better, in whichever order it was shown."""
        p = self.p_a
        return p if p is None or not self.swapped else 1 - p


class Label(NamedTuple):
    """Label of a pair, from its orders."""

    status: Status
    p: float  # that the first answer is better: 0.5 unless decided; clamped where a clamp is given
    raw: float | None  # mean of the orders
    clamped: bool


def normalized(logprobs: tuple[float, float]) -> float | None:
    """Softmax of the first of two log-probs; None where neither is finite or one is NaN."""
    a, b = logprobs
    if any(math.isnan(x) or x == math.inf for x in logprobs) or max(a, b) == -math.inf:
        return None
    return 1 / (1 + math.exp(b - a)) if b - a < 700 else 0.0


def label_of(orders: Sequence[Order], clamp: tuple[float, float] | None) -> Label:
    """Average the orders of a pair into its label; an undecided pair gets 0.5.

    Args:
        orders: one or two; none for two equal answers, which tie.
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
    """Two answers and their label: one row of the preference stage."""

    id: str
    prompt: Prompt
    _: KW_ONLY
    first: str
    second: str
    status: Status
    p: float  # probability that the first answer is better, used as the label
    raw: float | None  # before clamping, and before an undecided pair became 0.5
    clamped: bool
    orders: tuple[Order, ...]
    principle: str  # its id
    judge: dict[str, str]  # its identity
    constitution: dict[str, str]  # name, version, sha256
    seed: int  # of the run
    extra: dict[str, Any]  # other fields of the pair

    def to_row(self) -> dict[str, Any]:
        """Turn the verdict into a plain dict for JSON, which ``PreferenceData`` reads.

        ``chosen`` is the answer that the judge prefers, ``label`` the probability that it is
        better.
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
        """Read a row that ``to_row`` wrote.

        Raises:
            ValueError: a field is absent or of the wrong type.
        """
        try:
            sides = (row["chosen"], row["rejected"])
            first, second = sides if row["first_is_chosen"] else sides[::-1]
            orders = tuple(_order(order) for order in row["orders"])
            names = ("id", "prompt", "status", "raw", "clamped", "principle", "judge")
            kept = {name: row[name] for name in (*names, "constitution", "seed", "extra")}
            return cls(first=first, second=second, p=row["p_first"], orders=orders, **kept)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"row {row.get('id', '?')} is not a label of AIFeedback: {error}; "
                "give rows that it wrote"
            ) from error


def _order_row(order: Order) -> dict[str, Any]:
    """Turn an order into a dict for JSON, which has no infinity: it becomes null."""
    logprobs = [x if math.isfinite(x) else None for x in order.logprobs]
    return {**order._asdict(), "logprobs": logprobs, "p_first": order.p_first}


def _order(row: dict[str, Any]) -> Order:
    a, b = (-math.inf if x is None else x for x in row["logprobs"])
    return Order(**{**{k: row[k] for k in Order._fields}, "logprobs": (a, b)})


class FeedbackReport(NamedTuple):
    """Figures about a judge, from all of its labels."""

    pairs: int
    counts: dict[str, int]  # of each status
    orders: int  # orders with a probability
    first_position: float | None  # share of them that prefer the answer shown first; 0.5 is fair
    position_bias: float | None  # share of pairs, asked in both orders, won by a position
    always: str | None  # "A" or "B", where every order of every pair got this label
    mass: float | None  # mean probability of both labels together, out of all possible tokens
    lean: float  # mean |p - 0.5| of the labels
    clamped: int
    labels: tuple[str, str]

    @classmethod
    def of(
        cls, verdicts: Sequence[Verdict], labels: tuple[str, str] = ("A", "B")
    ) -> FeedbackReport:
        """Compute the figures over verdicts."""
        counted = Counter(v.status for v in verdicts)
        shares = [p for v in verdicts for o in v.orders if (p := o.p_a) is not None]
        firsts = [0.5 if (side := _side(p)) == 0 else float(side > 0) for p in shares]
        both = [v for v in verdicts if len(v.orders) == 2 and v.status != "unparseable"]
        one_way = {0.0: labels[1], 1.0: labels[0]}.get(_mean(firsts) if both else None)  # type: ignore[arg-type]
        return cls(
            pairs=len(verdicts),
            counts={status: counted[status] for status in STATUSES},
            orders=len(shares),
            first_position=_mean(firsts),
            position_bias=_mean([float(v.status == "inconsistent") for v in both]),
            always=one_way,
            mass=_mean([sum(map(math.exp, o.logprobs)) for v in verdicts for o in v.orders]),
            lean=_mean([abs(v.p - 0.5) for v in verdicts]) or 0.0,
            clamped=sum(v.clamped for v in verdicts),
            labels=labels,
        )

    def __str__(self) -> str:
        counts = ", ".join(f"{n:,} {status}" for status, n in self.counts.items() if n)
        parts = [f"{self.pairs:,} pairs judged: {counts or 'none'}"]
        if self.always is not None:
            label = self.always.strip()
            parts.append(
                f"the judge answers {label} in both orders of every pair: ignore its labels"
            )
        elif self.first_position is not None:
            parts.append(
                f"the answer shown first was preferred in {self.first_position:.0%} (50 % is fair)"
            )
        if self.position_bias is not None and self.always is None:
            parts.append(f"the position decided {self.position_bias:.0%} of pairs")
        if self.mass is not None and self.mass < 0.1:
            parts.append(f"the labels have only {self.mass:.1%} of the judge's probability")
        parts.append(f"labels are {self.lean:.3f} from 0.5 on average")
        return "; ".join(parts)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
