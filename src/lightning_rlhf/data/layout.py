"""Read the rows of one source by the layout that was chosen for it, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_rlhf.data.fields import read_label
from lightning_rlhf.data.gathering import Gather
from lightning_rlhf.data.surroundings import check_placeholders, find, said, surrounded
from lightning_rlhf.text.messages import BadRow

Row = dict[str, Any]
# our columns that may stand beside others: a column of those -> what goes with it
BESIDE = {
    "chosen": ("prompt", "label", "margin"),
    "completions": ("ranks", "ratings", "order"),
}
ORDERS = BESIDE["completions"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of a source, chosen once. Cached rows are found by what is pickled of it.

    Args:
        name: of its format.
        columns: of the source, that its format needs.
        also: those that its format reads where they are there.
        gives: one of the sets of our columns that the reader takes.
        keeps: our columns that its rows may have; None for all, which rewards see.
        convert: its row -> our columns.
        gather: rows of the source -> rows that are read.
        known: columns beside the format that change what a row means, and their kinds.
        signed: see ``read_label``.
    """

    name: str
    columns: tuple[str, ...]
    also: tuple[str, ...]
    gives: tuple[str, ...]
    keeps: tuple[str, ...] | None
    convert: Callable[[Row], Row]
    gather: Gather | None = None
    known: dict[str, str] = field(default_factory=dict)
    signed: bool | None = None

    def read(self, row: Row) -> Row:
        """Read a row as our columns: those of this layout alone, so that no other is guessed.

        Raises:
            BadRow: it cannot be used.
        """
        try:
            made = self.convert(row)
        except KeyError as lacking:  # a later row of a stream
            raise BadRow(f"it has no {lacking.args[0]}") from lacking
        if self.keeps is None:
            if made.get(self.gives[0]) is None:
                raise BadRow(f"{self.gives[0]} is empty")
        else:
            made = {name: value for name, value in made.items() if name in self.keeps}
            self._check(made)
        if not self.known.keys().isdisjoint(row) and (found := find(row, self.known)):
            made = surrounded(made, found, alone=self.keeps is None)
        check_placeholders(made)
        return made

    def _check(self, made: Row) -> None:
        """Check the order of completions, and read the label in the scale of its source."""
        if self.signed is not None and made.get("label") is not None:
            made["label"] = read_label(made["label"], "label", self.signed)
        orders = [name for name in ORDERS if name in self.gives]
        if orders and all(made.get(name) is None for name in ORDERS):
            raise BadRow(f"{orders[0]} is empty")

    @property
    def reads(self) -> set[str]:
        """The columns that are read as the layout has them."""
        ours = (self.keeps or self.gives) if self.name == "ours" else ()
        return {*self.columns, *self.also, *ours}

    def account(self, columns: Sequence[str]) -> str:
        """Say what becomes of each column of the source, in a clause."""
        reads = self.reads
        known = {c: self.known[c] for c in columns if c in self.known}
        beside = known.keys() | reads
        rest = [c for c in columns if c not in beside]
        clauses = ["reads " + ", ".join(c for c in columns if c in reads and c not in known)]
        clauses += said(known)
        if rest:
            names = ", ".join(rest)
            whole = self.keeps is None and self.name == "ours"
            clauses.append(f"rewards see {names}" if whole else f"does not read {names}")
        return "; ".join(clauses)
