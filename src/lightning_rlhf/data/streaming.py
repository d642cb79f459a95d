"""Train on rows that do not fit on disk: read, tokenize, split and shuffle a block at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch.utils.data
from datasets import Dataset, IterableDataset
from datasets.exceptions import DatasetGenerationError
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_info

from lightning_rlhf.data.batching import Batches, fill
from lightning_rlhf.data.token_table import Maker, Report, column, drop_bad_rows, held_out
from lightning_rlhf.functional.processes import Processes
from lightning_rlhf.text.display import printable, shortened

BLOCK = 8192  # rows that are shuffled together, and in memory at once
CHUNK = 1024  # rows that are Python objects at once
READ_ERRORS = (DatasetGenerationError, ValueError, OSError, KeyError, TypeError, OverflowError)


def first_rows(rows: IterableDataset, name: str) -> list[dict[str, Any]]:
    """Read the first block of a stream.

    Raises:
        ValueError: it is empty, cannot be read, or has rows without named columns.
    """
    try:
        block = list(islice(rows, BLOCK))
    except READ_ERRORS as error:
        reason = shortened(str(error.__cause__ or error), 300)
        raise ValueError(f"{name} cannot be read: {reason}") from error
    if not block:
        raise ValueError(f"{name} holds no rows")
    for number, row in enumerate(block, 1):
        if not isinstance(row, dict) or not all(isinstance(key, str) for key in row):
            kind = type(row).__name__ if not isinstance(row, dict) else "of other names than text"
            raise ValueError(f"{name}: row {number} is {kind}: give rows of named columns")
    return block


def encode_in_memory(raw: Sequence[dict[str, Any]], maker: Maker) -> Dataset:
    """Encode raw rows into a table in memory, one or more for each."""
    parts = [maker.table(raw[i : i + CHUNK]) for i in range(0, len(raw), CHUNK)]
    return Dataset(pa.concat_tables(parts))


def run_length(trainer: Trainer | None) -> int:
    """Count the batches that a fit can draw, which Lightning takes as the length of an epoch.

    Raises:
        ValueError: only the end of the data would end the fit.
    """
    assert trainer is not None, "only a fit has a length"
    if trainer.max_steps != -1:
        return trainer.max_steps * trainer.accumulate_grad_batches
    if isinstance(trainer.limit_train_batches, int):
        return trainer.limit_train_batches
    raise ValueError(
        "a stream has no end, and the learning rate must know one: give the Trainer max_steps, or "
        "a whole number as limit_train_batches, which is then an epoch"
    )


class Cutting(NamedTuple):
    """Cut the token rows of a block into batches."""

    kinds: frozenset[str]  # that may share a batch
    val_fraction: float  # share of prompts that are left out
    batch_size: int  # in rows
    max_tokens: int | None  # per batch, instead of batch_size
    seed: int

    def batches(self, table: Dataset, block: int) -> tuple[Batches, Report]:
        """Make batches of a block in random order, and report on its rows."""
        kept, report = drop_bad_rows(table)
        unlike = np.array([k not in self.kinds for k in column(kept, "kind").to_pylist()], bool)
        val = ~unlike & held_out(column(kept, "split_key").to_numpy(), self.val_fraction)
        budget = self.max_tokens or np.inf
        long = ~unlike & ~val & (column(kept, "tokens").to_numpy() > budget)
        rows = kept.select(np.flatnonzero(~(unlike | val | long)))
        out = {
            "another kind than the first rows": int(unlike.sum()),
            "of held-out prompts": int(val.sum()),
            "longer than max_tokens": int(long.sum()),
        }
        dropped = report.dropped + Counter(out)  # a sum of Counters has no zeros
        return Batches(rows, self._partition(rows, block)), report._replace(
            kept=len(rows), dropped=dropped
        )

    def _partition(self, rows: Dataset, block: int) -> list[Sequence[int]]:
        draw = np.random.default_rng([self.seed, block])
        if self.max_tokens is None:
            order = draw.permutation(len(rows)).tolist()
            return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        costs = column(rows, "tokens").to_numpy()
        batches = fill(costs, self.max_tokens, int(draw.integers(2**63)))
        return [batches[i] for i in draw.permutation(len(batches))]


class TokenStream(torch.utils.data.IterableDataset):
    """Endless batches of rows, with an exact position.

    A block of rows at a time is tokenized, shuffled and cut into batches. The position is where the
    block began and how many of its batches were taken. After a resume the block is made again, so
    that no row is lost in a buffer or seen twice. Where the source ends it starts over, with its
    files in another order.

    Args:
        name: of the source, for messages.
        rows: the source, or this process's share of it.
        maker: makes token rows from raw rows.
        cutting: cuts token rows into batches.
        length: number of batches that Lightning sees; None ends with the source.
        processes: each has a share of the source, and a checkpoint holds the position of each.
    """

    def __init__(
        self,
        name: str,
        rows: IterableDataset,
        maker: Maker,
        *,
        cutting: Cutting,
        length: int | None,
        processes: Processes = Processes(),
    ):
        self.name = name
        self.rows = rows
        self.maker = maker
        self.cutting = cutting
        self.length = length
        self.processes = processes
        self.report = Report(0, 0, Counter(), Counter())  # of this pass
        self._passes, self._block = 0, 0  # blocks of all passes: the number seeds the order
        # where the next block begins; None: at the start
        self._source: dict[str, Any] | None = None
        self._raw: Iterator[dict[str, Any]] | None = None
        self._batches: Batches | Sequence[Any] = ()
        self._taken = 0
        self._began = self._here()

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError(f"{self.name} is a stream without a length")
        return self.length

    def __iter__(self) -> TokenStream:
        return self  # keeps its position: an epoch of a stream is only a number of batches

    def __next__(self) -> list[dict[str, Any]]:
        while self._taken == len(self._batches):
            self._next_block()
        self._taken += 1
        return self._batches[self._taken - 1]

    def _next_block(self) -> None:
        began = self._here()
        if self._raw is None:
            self.rows.set_epoch(self._passes)  # from the second pass on, files in another order
            self.rows.load_state_dict(self._source)
            self._raw = iter(self.rows)
        try:
            raw = list(islice(self._raw, BLOCK))
        except READ_ERRORS as error:
            after = f"after {self.report.read:,} rows of pass {self._passes + 1}"
            reason = error.__cause__ or error
            raise ValueError(f"{self.name} cannot be read {after}: {reason}") from error
        if not raw:
            self._end_of_pass()
            return
        self._source = self.rows.state_dict()
        table = encode_in_memory(raw, self.maker)
        self._batches, report = self.cutting.batches(table, self._block)
        self.report = added(self.report, report)
        self._block += 1
        self._began, self._taken = began, 0

    def _end_of_pass(self) -> None:
        self.log_report()
        if self.report.kept == 0:
            raise ValueError(f"{self.name}: no row can be used: {self.report}")
        after = {**self._here(), "passes": self._passes + 1, "source": None}
        self._go_to(**{**after, "read": 0, "kept": 0, "cut": {}, "dropped": {}})
        if self.length is None:
            raise StopIteration

    def log_report(self) -> None:
        """Log the report of this pass so far."""
        rank_zero_info(printable(f"{self.name}, pass {self._passes + 1}: {self.report}"))

    # ---- the position ----

    def _go_to(
        self, *, passes: int, block: int, read: int, kept: int, cut: dict[str, int],
        dropped: dict[str, int], source: dict[str, Any] | None,
    ) -> None:  # fmt: skip
        self._passes, self._block, self._source = passes, block, source
        self.report = Report(read, kept, Counter(cut), Counter(dropped))
        self._raw, self._batches, self._taken = None, (), 0
        self._began = self._here()

    def _here(self) -> dict[str, Any]:
        """Return where the next block begins, as plain values for a checkpoint."""
        report = self.report
        return {
            "passes": self._passes, "block": self._block, "read": report.read,
            "kept": report.kept, "cut": dict(report.cut), "dropped": dict(report.dropped),
            "source": self._source,
        }  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return where the block began and how many of its batches were taken, of each process."""
        own = {**self._began, "taken": self._taken}
        return {"processes": self.processes.gather_states(own)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position; its block is made again."""
        position = dict(state["processes"][self.processes.rank])
        taken = position.pop("taken")
        self._go_to(**position)
        if taken:
            self._next_block()
            self._taken = taken


def added(one: Report, other: Report) -> Report:
    """Add two reports."""
    read, kept = one.read + other.read, one.kept + other.kept
    return Report(read, kept, one.cut + other.cut, one.dropped + other.dropped)
