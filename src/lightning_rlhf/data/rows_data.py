"""What every LightningDataModule of ours is: rows read once, split by prompt, drawn in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from pytorch_lightning import LightningDataModule
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data.batching import Batches, fill, fill_in_order
from lightning_rlhf.data.layouts import Format, recognise
from lightning_rlhf.data.reader import Reader, Reading
from lightning_rlhf.data.sampler import ResumableSampler
from lightning_rlhf.data.sources import Mixture, Source, is_stream, name_of
from lightning_rlhf.data.streaming import Cutting, TokenStream, run_length
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.token_table import Encode, Maker, column, held_out, token_row
from lightning_rlhf.data.tokens import TokenRow


class RowsData(LightningDataModule):
    """Rows to token rows, split by prompt, in a loader that resumes where it stopped.

    The tokenizer is the one of the module it is fitted with, or given.

    Args:
        source: a .jsonl, .json, .parquet or .csv file (.gz too), a folder of them, a hub id (its
            split behind a colon), a list of rows, an object of ``datasets``, or a mixture: sources
            with their weights, 0.5 for half of one's rows, 2 for each twice. "stream:" before a
            file, folder or hub id reads its rows as they are trained on.
        val_source: another source for validation; without one a share of the prompts is held out.
        val_fraction: that share; 0 for no validation.
        batch_size: rows to a step.
        max_tokens: tokens to a step instead: as many rows as fit, a prompt counted once.
        max_length: tokens to a row; prompts are cut on the left, completions on the right, counted.
        template: how messages become text, see ``ChatTemplate``.
        columns: source column -> our name, e.g. ``{"question": "prompt"}``.
        format: how rows are laid out, a name of ``data.recognise``; "auto" tells by the columns.
        max_rows: read only so many of a source.
        seed: of the order of rows.
        tokenizer: whose tokens; None for the module's.
    """

    encode: Encode  # row -> TokenRow
    accepts: Sequence[set[str]]  # the sets of columns a row may have
    collate: Callable[[Sequence[TokenRow]], Any]

    def __init__(
        self,
        source: Source | Mixture,
        val_source: Source | Mixture | None = None,
        val_fraction: float = 0.05,
        batch_size: int = 8,
        max_tokens: int | None = None,
        max_length: int = 1024,
        template: str = "auto",
        columns: dict[str, str] | None = None,
        format: str = "auto",
        max_rows: int | None = None,
        seed: int = 0,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        super().__init__()
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction must lie in [0, 1), got {val_fraction}")
        if max_length < 2:
            raise ValueError(
                f"max_length must hold a prompt and an answer: 2 or more, got {max_length}"
            )
        if max_tokens is not None and max_tokens < 2:
            raise ValueError(f"max_tokens must hold a row: 2 or more, got {max_tokens}")
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows must be 1 or more, got {max_rows}")
        self.source = source
        self.val_source = val_source
        self.val_fraction = val_fraction
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.max_length = max_length
        self.template = template
        self.columns = columns or {}
        self.format = format
        self.max_rows = max_rows
        self.seed = seed
        self._tokenizer = tokenizer
        self._made_with: PreTrainedTokenizerBase | None = None  # whose tokens the rows are
        self._opened: tuple[IterableDataset, Maker] | None = None  # a source that is a stream
        self._stream: TokenStream | None = None  # what a fit draws from it
        self.readings: dict[str, Reading] = {}  # of each source, what ``inspect`` shows
        self.train_rows: Dataset | None = None  # of a stream, its first ones
        self.val_rows: Dataset | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The given tokenizer, else that of the module in training or of one inside it.

        Raises:
            ValueError: neither is there.
        """
        if self._tokenizer is not None:
            return self._tokenizer
        module = getattr(self.trainer, "lightning_module", None)
        parts = module.modules() if module is not None else []
        found = next((t for m in parts if (t := getattr(m, "tokenizer", None)) is not None), None)
        found = found or self._made_with  # between two fits nobody is attached
        if found is None:
            raise ValueError(
                f"{type(self).__name__} needs a tokenizer: give tokenizer=, "
                "or fit a module that has one"
            )
        return found

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def prepare_data(self) -> None:
        """One process of a machine tokenises; the others find its file."""
        if not is_stream(self.source):
            self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Read, tokenise and split; again only for a module with another tokenizer."""
        if is_stream(self.source) and stage == "fit":
            run_length(self.trainer)  # it must have one
        if self._made_with is self.tokenizer:
            return
        reader = self._reader()
        self.readings = reader.readings
        rows = reader.read(self.source)
        self._opened = reader.opened
        if self.val_source is not None:
            self.train_rows, self.val_rows = rows, reader.read(self.val_source)
        else:
            is_val = held_out(column(rows, "split_key").to_numpy(), self.val_fraction)
            self.val_rows = rows.select(np.flatnonzero(is_val))
            self.train_rows = rows.select(np.flatnonzero(~is_val))
        self._made_with = self.tokenizer
        if len(self.train_rows) == 0:
            raise ValueError(
                f"{name_of(self.source)}: every prompt fell into validation; lower val_fraction"
            )

    def teardown(self, stage: str) -> None:
        """Say what became of a stream's rows."""
        if self._stream is not None and stage == "fit":
            self._stream.say()

    def _reader(self) -> Reader:
        made = type(self)
        chat = ChatTemplate(self.tokenizer, self.template)
        return Reader(
            made.__name__, made.accepts, made.encode, chat, self.columns, self.format,
            self.max_length, self.max_tokens, self.max_rows, self.seed,
        )  # fmt: skip

    @classmethod
    def recognised(cls, columns: list[str], name: str, format: str = "auto") -> Format:
        """The format of a source by its columns; a ValueError where this class cannot read it."""
        return recognise(columns, cls.accepts, name, cls.__name__, format)

    def _loader(self, rows: Dataset | None, shuffle: bool = False) -> StatefulDataLoader | list:
        if rows is None or len(rows) == 0:
            return []
        drawn: Any = rows
        if self.max_tokens is not None:
            costs = column(rows, "tokens").to_numpy()
            partition = (
                fill(costs, self.max_tokens, self.seed)
                if shuffle
                else fill_in_order(costs, self.max_tokens)
            )
            drawn = Batches(rows, partition)
        batch_size = self.batch_size if self.max_tokens is None else None
        return self._drawing(drawn, rows, batch_size, self._sampler(drawn, shuffle))

    def _drawing(
        self, drawn: Any, rows: Dataset, batch_size: int | None = None, sampler: Any = None
    ) -> StatefulDataLoader:
        return StatefulDataLoader(
            drawn,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=partial(collate_rows, collate=self._collate(rows)),
            pin_memory=torch.cuda.is_available(),
        )

    def _streaming(self, rows: Dataset) -> StatefulDataLoader:
        """Of the whole stream; without a Trainer it ends with its source."""
        assert self._opened is not None, "setup has not run"
        source, maker = self._opened
        share = split_dataset_by_node(source, *self._process())
        kinds = frozenset(column(rows, "kind").unique().to_pylist())
        fraction = self.val_fraction if self.val_source is None else 0.0
        cutting = Cutting(kinds, fraction, self.batch_size, self.max_tokens, self.seed)
        length = run_length(self.trainer) if self.trainer is not None else None
        self._stream = TokenStream(name_of(self.source), share, maker, cutting, length)
        return self._drawing(self._stream, rows)

    def _process(self) -> tuple[int, int]:
        """This process's number, and of how many."""
        return getattr(self.trainer, "global_rank", 0), getattr(self.trainer, "world_size", 1)

    def _sampler(self, drawn: Any, shuffle: bool, run: int = 1) -> ResumableSampler:
        rank, processes = self._process()
        # far apart, so that no epoch of one seed is an epoch of the next
        return ResumableSampler(drawn, processes, rank, shuffle, self.seed * 1_000_003, run)

    def _collate(self, rows: Dataset) -> Callable[[Sequence[TokenRow]], Any]:
        return type(self).collate

    def train_dataloader(self) -> Any:
        if is_stream(self.source):
            assert self.train_rows is not None, "setup has not run"
            return self._streaming(self.train_rows)
        return self._loader(self.train_rows, shuffle=True)

    def val_dataloader(self) -> Any:
        return self._loader(self.val_rows)

    def test_dataloader(self) -> Any:
        return self._loader(self.val_rows)

    def predict_dataloader(self) -> Any:
        return self._loader(self._shown())

    def partition(self) -> Sequence[Sequence[int]]:
        """The rows of each batch of an epoch; of a stream, of its first rows."""
        assert self.train_rows is not None, "setup has not run"
        loader = self._loader(self.train_rows, shuffle=True)
        drawn = loader.dataset  # type: ignore[union-attr]
        if isinstance(drawn, Batches):
            return drawn.partition
        order = list(loader.sampler)  # type: ignore[union-attr]
        return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]

    def sample_prompts(self, n: int) -> list[list[int]]:
        """Token ids of the first n different held-out prompts, for tables of samples."""
        found: dict[tuple[int, ...], None] = {}
        for ids in self._shown()["prompt_ids"]:
            found.setdefault(tuple(ids))
            if len(found) == n:
                break
        return [list(ids) for ids in found]

    def sample_rows(self, n: int) -> list[TokenRow]:
        """The first n held-out rows."""
        rows = self._shown()
        return [token_row(rows[i]) for i in range(min(n, len(rows)))]

    def _shown(self) -> Dataset:
        rows = self.val_rows if self.val_rows else self.train_rows
        assert rows is not None, "setup has not run"
        return rows


def collate_rows(rows: list[dict], collate: Callable[[Sequence[TokenRow]], Any]) -> Any:
    """The loader's rows, as token rows, as a batch."""
    return collate([token_row(row) for row in rows])
