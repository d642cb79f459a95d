"""LightningDataModules: demonstrations, preferences, prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.batches import PromptBatch, TokenBatch
from lightning_rlhf.data import collate, tokens
from lightning_rlhf.data.batching import Batches, fill, fill_in_order
from lightning_rlhf.data.diagnosis import names_wrong_bytes
from lightning_rlhf.data.recognise import OURS, recognise
from lightning_rlhf.data.rows import Encode, encode_as, held_out, token_row, token_rows
from lightning_rlhf.data.sampler import ResumableSampler
from lightning_rlhf.data.sources import Mixture, Source, load_rows, mixed, name_of, renamed
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.tokens import TokenRow


class RowsData(LightningDataModule):
    """Rows to token rows, split by prompt, in a loader that resumes where it stopped.

    The tokenizer is the one of the module it is fitted with, or given.

    Args:
        source: a .jsonl, .json, .parquet or .csv file (.gz too), a folder of them, a hub id (its
            split behind a colon), a list of rows, or a mixture: sources with their weights, 0.5
            for half of one's rows, 2 for each twice.
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
        self.train_rows: Dataset | None = None
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

    def setup(self, stage: str | None = None) -> None:
        """Read, tokenise and split; again only for a module with another tokenizer."""
        if self._made_with is self.tokenizer:
            return
        self._made_with = self.tokenizer
        rows = self._read(self.source)
        if self.val_source is not None:
            self.train_rows, self.val_rows = rows, self._read(self.val_source)
            return
        is_val = [held_out(opening, self.val_fraction) for opening in rows["opening"]]
        self.val_rows = rows.select([i for i, val in enumerate(is_val) if val])
        self.train_rows = rows.select([i for i, val in enumerate(is_val) if not val])
        if len(self.train_rows) == 0:
            raise ValueError(
                f"{name_of(self.source)}: every prompt fell into validation; lower val_fraction"
            )

    def _read(self, source: Source | Mixture) -> Dataset:
        if not isinstance(source, dict):
            return self._read_one(source)
        return mixed({name: self._read_one(name) for name in source}, source, self.seed)

    @names_wrong_bytes
    def _read_one(self, source: Source) -> Dataset:
        name = name_of(source)
        rows = load_rows(source)
        if self.max_rows is not None:
            rows = rows.select(range(min(self.max_rows, len(rows))))
        rows = renamed(rows, self.columns, name)
        reader = type(self)
        found = recognise(rows.column_names, self.accepts, name, reader.__name__, self.format)
        chat = ChatTemplate(self.tokenizer, self.template)
        encode = partial(encode_as, read=found.read, encode=reader.encode)
        made, report = token_rows(rows, encode, chat, self.max_length)
        layout = "" if found.name == OURS else f"read as {found.name}; "
        rank_zero_info(f"{name}: {layout}{report}")
        if len(made) == 0:
            raise ValueError(f"{name}: no row can be used: {report}")
        if self.max_tokens is not None and (longest := max(made["tokens"])) > self.max_tokens:
            raise ValueError(
                f"{name}: a row takes {longest} tokens and max_tokens is {self.max_tokens}: "
                "raise it, or lower max_length"
            )
        return made

    def _loader(self, rows: Dataset | None, shuffle: bool = False) -> StatefulDataLoader | list:
        if rows is None or len(rows) == 0:
            return []
        drawn: Any = rows
        if self.max_tokens is not None:
            costs = rows["tokens"]
            partition = (
                fill(costs, self.max_tokens, self.seed)
                if shuffle
                else fill_in_order(costs, self.max_tokens)
            )
            drawn = Batches(rows, partition)
        return StatefulDataLoader(
            drawn,
            batch_size=self.batch_size if self.max_tokens is None else None,
            sampler=self._sampler(drawn, shuffle),
            collate_fn=partial(collate_rows, collate=self._collate(rows)),
            pin_memory=torch.cuda.is_available(),
        )

    def _sampler(self, drawn: Any, shuffle: bool) -> ResumableSampler:
        processes = getattr(self.trainer, "world_size", 1)
        rank = getattr(self.trainer, "global_rank", 0)
        # far apart, so that no epoch of one seed is an epoch of the next
        return ResumableSampler(drawn, processes, rank, shuffle, self.seed * 1_000_003)

    def _collate(self, rows: Dataset) -> Callable[[Sequence[TokenRow]], Any]:
        return type(self).collate

    def train_dataloader(self) -> Any:
        return self._loader(self.train_rows, shuffle=True)

    def val_dataloader(self) -> Any:
        return self._loader(self.val_rows)

    def test_dataloader(self) -> Any:
        return self._loader(self.val_rows)

    def predict_dataloader(self) -> Any:
        return self._loader(self._shown())

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


class DemonstrationData(RowsData):
    """Conversations or prompt and completion, to imitate: ``TokenBatch``.

    A preference file will do: its chosen side is imitated.
    """

    encode = staticmethod(tokens.encode_demonstration)
    accepts = ({"messages"}, {"prompt", "completion"}, {"text"}, {"chosen", "rejected"})
    collate: Callable[..., TokenBatch] = staticmethod(collate.token_batch)


class PreferenceData(RowsData):
    """Preferences, in whichever form the rows are.

    Pairs (``PreferenceBatch``), rankings of K (``RankingBatch``), or single completions with a
    label (``FeedbackBatch``).
    """

    encode = staticmethod(tokens.encode_preference)
    accepts = (
        {"prompt", "chosen", "rejected"},
        {"chosen", "rejected"},
        {"prompt", "completions", "ranks"},
        {"prompt", "completions", "ratings"},
        {"prompt", "completions"},
        {"prompt", "completion", "label"},
    )

    def _collate(self, rows: Dataset) -> Callable[[Sequence[TokenRow]], Any]:
        single = {len(ranks) == 1 for ranks in rows["ranks"]}
        if len(single) > 1:
            raise ValueError(
                f"{name_of(self.source)} mixes single completions with pairs: make two files of it"
            )
        if single == {True}:
            return collate.feedback_batch
        pairs = all(ranks == [0, 1] for ranks in rows["ranks"])
        rated = any(ratings is not None for ratings in rows["ratings"])
        return collate.preference_batch if pairs and not rated else collate.ranking_batch


class PromptData(RowsData):
    """Prompts alone, to be completed: ``PromptBatch``."""

    encode = staticmethod(tokens.encode_prompt)
    accepts = ({"prompt"}, {"messages"}, {"text"}, {"chosen"})
    collate: Callable[..., PromptBatch] = staticmethod(collate.prompt_batch)
