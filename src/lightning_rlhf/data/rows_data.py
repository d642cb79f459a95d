"""Base of the LightningDataModules: read rows once, split them by prompt, draw batches in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data.batching import Batches, fill, fill_in_order
from lightning_rlhf.data.layout import Layout
from lightning_rlhf.data.layouts import recognize
from lightning_rlhf.data.reader import Reader, Reading
from lightning_rlhf.data.sampler import ResumableSampler
from lightning_rlhf.data.sources import Mixture, Source, is_stream, name_of
from lightning_rlhf.data.streaming import Cutting, TokenStream, run_length
from lightning_rlhf.data.template_settings import Template
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.token_table import Encode, Maker, column, held_out, token_row
from lightning_rlhf.data.tokens import TokenRow
from lightning_rlhf.functional.processes import Processes
from lightning_rlhf.text.display import printable


class RowsData(LightningDataModule):
    """Token rows of a source, split by prompt, in a loader that resumes at its position.

    Args:
        source: a .jsonl, .json, .parquet or .csv file (.gz too), a folder of them, a hub id; behind
            a colon a split, a config or config:split. Or a list of rows, a data frame, an object of
            ``datasets``, or a mixture: sources with their weights, 0.5 for half of one's rows, 2
            for each twice. "stream:" before a file, folder or hub id reads its rows during
            training.
        val_source: another source for validation; without one a share of the prompts is held out.
        val_fraction: that share; 0 for no validation.
        batch_size: rows per step.
        max_tokens: tokens per step, instead of ``batch_size``; a prompt is counted once.
        max_length: tokens per row; prompts are cut on the left, completions on the right.
        template: how messages become text, see ``ChatTemplate``.
        columns: source column -> our name, e.g. ``{"question": "prompt"}``.
        format: the layout of the rows, one of ``data.layouts.NAMES``; "auto" detects it from the
            columns.
        max_rows: number of rows to read of a source; None for all.
        seed: of the order of rows.
        tokenizer: None for the one of the module in training.
    """

    encode: Encode  # row -> TokenRow
    accepts: Sequence[set[str]]  # the sets of columns a row may have
    collate: Callable[[Sequence[TokenRow]], Any]

    def __init__(
        self,
        source: Source | Mixture,
        val_source: Source | Mixture | None = None,
        val_fraction: float = 0.05,
        *,
        batch_size: int = 8,
        max_tokens: int | None = None,
        max_length: int = 1024,
        template: Template = "auto",
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
                f"max_length must hold a prompt and an answer: give 2 or more, got {max_length}"
            )
        if max_tokens is not None and max_tokens < 2:
            raise ValueError(f"max_tokens must hold a row: give 2 or more, got {max_tokens}")
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
        self._made_with: PreTrainedTokenizerBase | None = None  # it made the rows
        self._opened: tuple[IterableDataset, Maker] | None = None  # the source, if it is a stream
        self._stream: TokenStream | None = None  # the batches that a fit draws from it
        self.readings: dict[str, Reading] = {}  # of each source, for ``inspect``
        self.train_rows: Dataset | None = None  # of a stream, its first block
        self.val_rows: Dataset | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The given tokenizer, else the one of the module in training or of a part of it.

        Raises:
            ValueError: there is none.
        """
        if self._tokenizer is not None:
            return self._tokenizer
        module = getattr(self.trainer, "lightning_module", None)
        parts = module.modules() if module is not None else []
        tokenizers = (getattr(part, "tokenizer", None) for part in parts)
        tokenizer = next((t for t in tokenizers if t is not None), None)
        tokenizer = tokenizer or self._made_with  # between two fits there is no module
        if tokenizer is None:
            raise ValueError(
                f"{type(self).__name__} needs a tokenizer: give tokenizer=, "
                "or fit a module that has one"
            )
        return tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def prepare_data(self) -> None:
        """Tokenize in one process of each machine; the others find its file."""
        if not is_stream(self.source):
            self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Read, tokenize and split; again only for a module with another tokenizer."""
        if is_stream(self.source) and stage == "fit":
            run_length(self.trainer)  # raises if it has none
        if self._made_with is self.tokenizer:
            return
        reader = self._reader()
        self.readings = reader.readings
        rows = reader.read(self.source)
        self._opened = reader.opened
        if self.val_source is not None:
            self.train_rows, self.val_rows = rows, reader.read(self.val_source)
        else:
            self._split(rows)
        self._made_with = self.tokenizer

    def _split(self, rows: Dataset) -> None:
        """Hold prompts out for validation.

        Raises:
            ValueError: no row is left to train on.
        """
        keys = column(rows, "split_key").to_numpy()
        is_val = held_out(keys, self.val_fraction)
        self.val_rows = rows.select(np.flatnonzero(is_val))
        self.train_rows = rows.select(np.flatnonzero(~is_val))
        name, one = name_of(self.source), len(rows) > 1 and bool(keys.min() == keys.max())
        if len(self.train_rows) == 0:
            fix = "give val_source, or val_fraction=0" if one else "lower val_fraction"
            same = ", since all rows begin with the same user turn" * one
            raise ValueError(f"{name}: every prompt fell into validation{same}; {fix}")
        if one and self.val_fraction > 0:
            rank_zero_info(
                printable(
                    f"{name}: 0 of {len(rows):,} rows are held out, since all begin with the same "
                    "user turn: give val_source to validate"
                )
            )

    def teardown(self, stage: str) -> None:
        """Log the report of a stream."""
        if self._stream is not None and stage == "fit":
            self._stream.log_report()

    def _reader(self) -> Reader:
        return Reader(
            name=type(self).__name__,
            accepts=type(self).accepts,
            encode=type(self).encode,
            chat=ChatTemplate(self.tokenizer, self.template),
            columns=self.columns,
            format=self.format,
            max_length=self.max_length,
            max_tokens=self.max_tokens,
            max_rows=self.max_rows,
            seed=self.seed,
        )

    @classmethod
    def recognize(cls, columns: list[str], name: str, format: str = "auto") -> Layout:
        """Choose the layout of a source by its columns.

        Raises:
            ValueError: this class cannot read it.
        """
        return recognize(columns, cls.accepts, name, reader=cls.__name__, forced=format)

    def _loader(self, rows: Dataset | None, shuffle: bool = False) -> StatefulDataLoader | list:
        if rows is None or len(rows) == 0:
            return []
        items: Any = rows
        if self.max_tokens is not None:
            costs = column(rows, "tokens").to_numpy()
            partition = (
                fill(costs, self.max_tokens, self.seed)
                if shuffle
                else fill_in_order(costs, self.max_tokens)
            )
            items = Batches(rows, partition)
        batch_size = self.batch_size if self.max_tokens is None else None
        return self._loader_of(items, rows, batch_size, self._sampler(items, shuffle))

    def _loader_of(
        self, items: Any, rows: Dataset, batch_size: int | None = None, sampler: Any = None
    ) -> StatefulDataLoader:
        return StatefulDataLoader(
            items,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=partial(collate_rows, collate=self._collate(rows)),
            pin_memory=torch.cuda.is_available(),
        )

    def _streaming(self, rows: Dataset) -> StatefulDataLoader:
        """Make the loader of the whole stream; without a Trainer it ends with its source."""
        assert self._opened is not None, "setup has not run"
        source, maker = self._opened
        rank, processes = self._process()
        share = split_dataset_by_node(source, rank, processes)
        kinds = frozenset(column(rows, "kind").unique().to_pylist())
        fraction = self.val_fraction if self.val_source is None else 0.0
        cutting = Cutting(
            kinds=kinds,
            val_fraction=fraction,
            batch_size=self.batch_size,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )
        length = run_length(self.trainer) if self.trainer is not None else None
        self._stream = TokenStream(
            name_of(self.source),
            share,
            maker,
            cutting=cutting,
            length=length,
            processes=Processes(rank, processes),
        )
        return self._loader_of(self._stream, rows)

    def _process(self) -> tuple[int, int]:
        """This process's rank, and the number of processes."""
        return getattr(self.trainer, "global_rank", 0), getattr(self.trainer, "world_size", 1)

    def _sampler(
        self, items: Any, shuffle: bool, run: int = 1, process: tuple[int, int] | None = None
    ) -> ResumableSampler:
        rank, processes = process or self._process()
        # far apart, so that no epoch of one seed is an epoch of the next
        seed = self.seed * 1_000_003
        return ResumableSampler(items, processes, rank, shuffle=shuffle, seed=seed, run=run)

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
        return self._loader(self._examples())

    def partition(self) -> Sequence[Sequence[int]]:
        """Indices of the rows of each batch of an epoch; of a stream, of its first block."""
        assert self.train_rows is not None, "setup has not run"
        loader = self._loader(self.train_rows, shuffle=True)
        items = loader.dataset  # type: ignore[union-attr]
        if isinstance(items, Batches):
            return items.partition
        order = list(loader.sampler)  # type: ignore[union-attr]
        return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]

    def sample_prompts(self, n: int) -> list[list[int]]:
        """Return the token ids of the first n different held-out prompts, for tables of samples."""
        prompts: dict[tuple[int, ...], None] = {}
        for ids in self._examples()["prompt_ids"]:
            prompts.setdefault(tuple(ids))
            if len(prompts) == n:
                break
        return [list(ids) for ids in prompts]

    def sample_rows(self, n: int) -> list[TokenRow]:
        """Return the first n held-out rows."""
        rows = self._examples()
        return [token_row(rows[i]) for i in range(min(n, len(rows)))]

    def _examples(self) -> Dataset:
        rows = self.val_rows if self.val_rows else self.train_rows
        assert rows is not None, "setup has not run"
        return rows


def collate_rows(rows: list[dict], collate: Callable[[Sequence[TokenRow]], Any]) -> Any:
    """Collate the loader's rows into a batch."""
    return collate([token_row(row) for row in rows])
