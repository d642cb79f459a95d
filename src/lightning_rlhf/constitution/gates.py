"""Gates between stages: what is known to go wrong with revised answers, counted, with a limit each.

Small models collapse here: they copy, talk about the critique, loop, refuse, or repeat one pious
phrase (arXiv 2212.08073, sections 3.1 and 4.3; arXiv 2504.04918). A tripped gate says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from lightning_rlhf.constitution.chain import Chain
from lightning_rlhf.constitution.signs import (
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
    """Rows that must not be trained on as they are."""


@dataclass(frozen=True)
class Gates:
    """The share of rows that each gate lets fail; None switches a gate off."""

    unchanged: float | None = 0.5  # the revision is the draft
    near_copy: float | None = 0.5  # almost: ``similar`` or more of its words in their order
    role_confusion: float | None = 0.05  # "Critique:", "Here is a revised ..."
    no_end: float | None = 0.1  # ended by its length
    loops: float | None = 0.05  # most of its word triples come again
    length: float | None = 0.25  # beyond ``longest`` times the draft's words, or its inverse
    refusals: float | None = 0.5  # declines, where the draft did not
    boilerplate: float | None = 0.2  # holds a phrase whose share rose by more than that
    similar: float = 0.95
    longest: float = 3.0
    phrase: int = 4  # words of a phrase

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            if limit is not None and not 0 <= limit <= 1:
                raise ValueError(f"Gates.{name} must be a share from 0 to 1, got {limit}")

    @property
    def limits(self) -> dict[str, float | None]:
        """The limit of each gate."""
        return {k: v for k, v in asdict(self).items() if k not in ("similar", "longest", "phrase")}


class Checked(NamedTuple):
    """One answer before a gate."""

    id: str
    source: str  # of the chain; its rounds are not independent of one another
    draft: str
    answer: str
    finished: bool


class GateResult(NamedTuple):
    """What one gate found."""

    gate: str
    share: float  # of rows that failed; for boilerplate, by how much its phrase's share rose
    limit: float | None
    failed: tuple[str, ...]  # row ids
    detail: str = ""

    @property
    def tripped(self) -> bool:
        return self.limit is not None and self.share > self.limit

    def __str__(self) -> str:
        said = f"gate {self.gate}{self.detail}: {self.share:.0%} of rows"
        if self.limit is None:
            return f"{said} (no limit)"
        if not self.tripped:
            return f"{said}, at most {self.limit:.0%} allowed"
        rows = ", ".join(self.failed[:3])
        return f"{said}, but at most {self.limit:.0%} are allowed; look at rows {rows}"


class GateReport(NamedTuple):
    """All gates over all rows."""

    rows: int
    results: tuple[GateResult, ...]
    passed: dict[str, tuple[str, ...]]  # row id -> the gates it passed
    phrases: tuple[Phrase, ...]  # those that rose most against the drafts
    draft_refusals: float  # share of drafts that decline, beside which revisions are to be read

    @property
    def tripped(self) -> tuple[GateResult, ...]:
        return tuple(result for result in self.results if result.tripped)

    def clean(self, id: str) -> bool:
        """Whether a row passed every gate that has a limit."""
        return all(r.gate in self.passed[id] for r in self.results if r.limit is not None)

    def stamped(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows with the names of the gates they passed as ``"gates"``."""
        return [{**row, "gates": list(self.passed[str(row["id"])])} for row in rows]

    def stop(self) -> None:
        """Raise where a gate tripped.

        Raises:
            GateTripped: one sentence for each.
        """
        if self.tripped:
            raise GateTripped("; ".join(map(str, self.tripped)))

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.rows:,} rows before {len(self.results)} gates", *map(str, self.results)]
        )

    def to_row(self) -> dict[str, Any]:
        """A plain dict for a report."""
        results = [{**r._asdict(), "tripped": r.tripped} for r in self.results]
        return {
            **self._asdict(),
            "results": results,
            "phrases": [p._asdict() for p in self.phrases],
        }


def check(rows: Sequence[Chain | dict[str, Any]], gates: Gates | None = None) -> GateReport:
    """Put answers before the gates.

    Args:
        rows: chains, of which each round's revision is put before the gates as "<id>/r<round>", as
            ``demonstrations`` names them; or ``{"id", "draft", "answer", "finished"}``.
        gates: the limits.
    """
    gates = gates or Gates()
    answers = [checked for row in rows for checked in _answers(row)]
    texts = [(a.source, a.answer) for a in answers]
    top = risen(texts, [a.draft for a in answers], gates.phrase)
    failed = {name: _failed(name, answers, gates, top) for name in gates.limits}
    results = tuple(
        GateResult(
            name,
            (top[0].rise if top else 0.0) if name == "boilerplate" else _share(ids, answers),
            gates.limits[name], tuple(ids),
            f' ("{top[0].text}" rose)' if name == "boilerplate" and top else "",
        )
        for name, ids in failed.items()
    )  # fmt: skip
    sets = {name: set(ids) for name, ids in failed.items()}
    passed = {a.id: tuple(n for n, ids in sets.items() if a.id not in ids) for a in answers}
    refusals = [a.id for a in answers if is_refusal(a.draft)]
    return GateReport(len(answers), results, passed, tuple(top), _share(refusals, answers))


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
            f"a row before the gates lacks {error}: give id, draft, answer, finished, or chains"
        ) from error


def _share(ids: list[str], answers: list[Checked]) -> float:
    return len(ids) / len(answers) if answers else 0.0
