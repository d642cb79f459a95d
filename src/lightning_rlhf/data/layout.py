"""Read the rows of one source by the layout that was chosen for it, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_rlhf.data.gathering import Gather
from lightning_rlhf.text.messages import BadRow

Row = dict[str, Any]
# of our columns, those that may stand beside others: a column of those -> what goes with it
BESIDE = {
    "chosen": ("prompt", "label", "margin"),
    "completions": ("ranks", "ratings", "order"),
}
ORDERS = BESIDE["completions"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of a source, chosen once.

    Args:
        name: of its format.
        columns: of the source, that its format needs.
        gives: one of the sets of our columns that the reader takes.
        keeps: our columns that its rows may have; None for all, which rewards see.
        convert: its row -> our columns.
        gather: rows of the source -> rows that are read.
    """

    name: str
    columns: tuple[str, ...]  # sorted, as the others: cached rows are found by what is pickled
    gives: tuple[str, ...]
    keeps: tuple[str, ...] | None
    convert: Callable[[Row], Row]
    gather: Gather | None = None

    def read(self, row: Row) -> Row:
        """Read a row as our columns: those of this layout alone, so that no other is guessed.

        Raises:
            BadRow: it cannot be used.
        """
        try:
            made = self.convert(row)
        except KeyError as lacking:  # a later row of a stream
            raise BadRow(f"it has no {lacking.args[0]}") from lacking
        if row.get("tools") is not None:  # beside any format
            made = {**made, "tools": row["tools"]}
        if self.keeps is None:
            (needed,) = self.gives
            if made.get(needed) is None:
                raise BadRow(f"{needed} is empty")
            return made
        orders = [name for name in ORDERS if name in self.gives]
        if orders and all(made.get(name) is None for name in ORDERS):
            raise BadRow(f"{orders[0]} is empty")
        return {name: value for name, value in made.items() if name in self.keeps}
