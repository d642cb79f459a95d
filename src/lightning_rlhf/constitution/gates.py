"""Gates between stages: limits on the share of revisions that show a known failure.

Small models collapse here: they copy, talk about the critique, loop, refuse, or repeat one pious
phrase (arXiv 2212.08073, sections 3.1 and 4.3; arXiv 2504.04918).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, NamedTuple

from lightning_rlhf.constitution.chain import Chain
from lightning_rlhf.constitution.detectors import (
    Phrase,
    confuses_roles,
    is_copy,
    is_refusal,
    length_ratio,
    loops,
    phrases,
    risen,
)


class GateTripped(ValueError):
    """Raised for rows that must not be trained on as they are."""


@dataclass(frozen=True)
class Gates:
    """Largest share of rows that may fail each gate; None switches a gate off."""

    unchanged: float | None = 0.5  # the revision is the draft
    near_copy: float | None = 0.5  # keeps ``similar`` or more of the draft's words in order
    role_confusion: float | None = 0.05  # "Critique:", "Here is a revised ..."
    _: KW_ONLY
    no_end: float | None = 0.1  # cut off by its length
    loops: float | None = 0.05  # most word triples are repeats
    length: float | None = 0.25  # over ``longest`` times the draft's words, or under its inverse
    refusals: float | None = 0.5  # declines, where the draft did not
    boilerplate: float | None = 0.2  # has a phrase whose share of texts rose by more than this
    similar: float = 0.95
    longest: float = 3.0
    phrase: int = 4  # words per phrase

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            if limit is not None and not 0 <= limit <= 1:
                raise ValueError(f"Gates.{name} must be a share from 0 to 1, got {limit}")

    @property
    def limits(self) -> dict[str, float | None]:
        """Limit of each gate by name."""
        return {k: v for k, v in asdict(self).items() if k not in ("similar", "longest", "phrase")}


class Checked(NamedTuple):
    """One answer to check."""

    id: str
    source: str  # id of its chain, whose rounds are not independent of one another
    draft: str
    answer: str
    finished: bool


class GateResult(NamedTuple):
    """Result of one gate."""

    gate: str
    share: float  # of rows that failed; for boilerplate, the rise of its phrase's share
    limit: float | None
    failed: tuple[str, ...]  # row ids
    detail: str = ""

    @property
    def tripped(self) -> bool:
        return self.limit is not None and self.share > self.limit

    def __str__(self) -> str:
        text = f"gate {self.gate}{self.detail}: {self.share:.0%} of rows"
        if self.limit is None:
            return f"{text} (no limit)"
        if not self.tripped:
            return f"{text}, at most {self.limit:.0%} allowed"
        rows = ", ".join(self.failed[:3])
        return f"{text}, but at most {self.limit:.0%} are allowed; look at rows {rows}"


class GateReport(NamedTuple):
    """Results of all gates over all rows."""

    rows: int
    results: tuple[GateResult, ...]
    passed: dict[str, tuple[str, ...]]  # row id -> the gates it passed
    phrases: tuple[Phrase, ...]  # those that rose most from drafts to answers
    draft_refusals: float  # share of drafts that decline, to compare revisions with

    @property
    def tripped(self) -> tuple[GateResult, ...]:
        return tuple(result for result in self.results if result.tripped)

    def clean(self, id: str) -> bool:
        """True if a row passed every gate that has a limit."""
        return all(r.gate in self.passed[id] for r in self.results if r.limit is not None)

    def stamped(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add the names of the gates that each row passed, as ``"gates"``."""
        return [{**row, "gates": list(self.passed[str(row["id"])])} for row in rows]

    def stop(self) -> None:
        """Raise if a gate tripped.

        Raises:
            GateTripped: one sentence per tripped gate.
        """
        if self.tripped:
            raise GateTripped("; ".join(map(str, self.tripped)))

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.rows:,} rows checked by {len(self.results)} gates", *map(str, self.results)]
        )

    def to_row(self) -> dict[str, Any]:
        """Turn the report into a plain dict for JSON."""
        results = [{**r._asdict(), "tripped": r.tripped} for r in self.results]
        return {
            **self._asdict(),
            "results": results,
            "phrases": [p._asdict() for p in self.phrases],
        }


def check(rows: Sequence[Chain | dict[str, Any]], gates: Gates | None = None) -> GateReport:
    """Check answers against the gates.

    Args:
        rows: chains, whose revisions get the ids "<id>/r<round>" as in ``demonstrations``; or
            ``{"id", "draft", "answer", "finished"}``.
        gates: the limits.
    """
    gates = gates or Gates()
    answers = [checked for row in rows for checked in _answers(row)]
    texts = [(a.source, a.answer) for a in answers]
    top = risen(texts, [a.draft for a in answers], gates.phrase)
    failed = {name: _failed(name, answers, gates, top) for name in gates.limits}
    results = tuple(
        GateResult(name, _share(ids, answers), gates.limits[name], tuple(ids))
        if name != "boilerplate"
        else _boilerplate(ids, gates, top)
        for name, ids in failed.items()
    )
    sets = {name: set(ids) for name, ids in failed.items()}
    passed = {a.id: tuple(n for n, ids in sets.items() if a.id not in ids) for a in answers}
    refusals = [a.id for a in answers if is_refusal(a.draft)]
    return GateReport(
        rows=len(answers),
        results=results,
        passed=passed,
        phrases=tuple(top),
        draft_refusals=_share(refusals, answers),
    )


def _boilerplate(ids: list[str], gates: Gates, top: list[Phrase]) -> GateResult:
    rise = top[0].rise if top else 0.0
    detail = f' ("{top[0].text}" rose)' if top else ""
    return GateResult("boilerplate", rise, gates.boilerplate, tuple(ids), detail)


def _failed(name: str, answers: list[Checked], gates: Gates, top: list[Phrase]) -> list[str]:
    rose = {p.text for p in top if gates.boilerplate is not None and p.rise > gates.boilerplate}
    long = gates.longest
    fails = {
        "unchanged": lambda a: a.answer.strip() == a.draft.strip(),
        "near_copy": lambda a: is_copy(a.draft, a.answer, gates.similar),
        "role_confusion": lambda a: confuses_roles(a.answer),
        "no_end": lambda a: not a.finished,
        "loops": lambda a: loops(a.answer),
        "length": lambda a: not 1 / long <= length_ratio(a.draft, a.answer) <= long,
        "refusals": lambda a: is_refusal(a.answer) and not is_refusal(a.draft),
        "boilerplate": lambda a: bool(rose & phrases(a.answer, gates.phrase)),
    }[name]  # fmt: skip
    return [a.id for a in answers if fails(a)]


def _answers(row: Chain | dict[str, Any]) -> list[Checked]:
    if isinstance(row, Chain):
        numbers = range(1, len(row.rounds) + 1)
        return [
            Checked(f"{row.id}/r{k}", row.id, row.draft.text, row.answer(k), row.finished(k))
            for k in numbers
        ]
    try:
        id = str(row["id"])
        return [Checked(id, id, row["draft"], row["answer"], bool(row["finished"]))]
    except KeyError as error:
        raise ValueError(
            f"a row to check lacks {error}: give id, draft, answer and finished, or give chains"
        ) from error


def _share(ids: list[str], answers: list[Checked]) -> float:
    return len(ids) / len(answers) if answers else 0.0
