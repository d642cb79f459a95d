"""LightningDataModules: demonstrations, preferences, prompts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, List, Value
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.batches import PreferenceBatch, PromptBatch, RankingBatch, TokenBatch
from lightning_rlhf.data import collate, tokens
from lightning_rlhf.data.formats import BadRow
from lightning_rlhf.data.sampler import ResumableSampler
from lightning_rlhf.data.sources import Source, load_rows, name_of
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.tokens import Report, TokenRow

TOKEN_ROW = Features(
    {
        "prompt_ids": List(Value("int32")),
        "completion_ids": List(List(Value("int32"))),
        "counts": List(List(Value("bool"))),
        "ranks": List(Value("int32")),
        "ratings": List(Value("float32")),
        "label": Value("float32"),
        "margin": Value("float32"),
        "opening": Value("string"),
        "cut": Value("string"),
        "dropped": Value("string"),  # why the row cannot be used, or ""
    }
)
CODE = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py")))
Encode = Callable[[dict[str, Any], ChatTemplate, int], TokenRow]


def encode_or_drop(
    row: dict[str, Any], encode: Encode, chat: ChatTemplate, max_length: int, code: str
) -> dict:
    """A token row as columns; a row that cannot be used keeps its reason instead.

    ``datasets`` finds rows it made before by the arguments of their maker: ``code`` is among them,
    so that no row outlives the code it came from.
    """
    try:
        return {**encode(row, chat, max_length)._asdict(), "dropped": ""}
    except BadRow as reason:
        return {**dict.fromkeys(TOKEN_ROW), "dropped": str(reason)}


def held_out(opening: str, fraction: float) -> bool:
    """Whether every row that grew from this opening belongs to the validation split.

    By a hash of the prompt, never by row: answers to one prompt on both sides of a split would let
    a model score well by memory. The same prompt falls on the same side in every run.
    """
    value = int.from_bytes(hashlib.blake2b(opening.encode(), digest_size=8).digest(), "big")
    return value < fraction * 2**64


class RowsData(LightningDataModule):
    """Rows to token rows, split by prompt, in a loader that resumes where it stopped.

    The tokenizer is the one of the module it is fitted with, or given.

    Args:
        source: a .jsonl, .json, .parquet or .csv file, a hub id, or a list of rows.
        val_source: another source for validation; without one a share of the prompts is held out.
        val_fraction: that share; 0 for no validation.
        batch_size: rows to a step.
        max_length: tokens to a row; prompts are cut on the left, completions on the right, counted.
        template: how messages become text, see ``ChatTemplate``.
        columns: source column -> our name, e.g. ``{"question": "prompt"}``.
        max_rows: read only so many.
        split: which split of a hub data set.
        num_workers: processes that collate.
        seed: of the order of rows.
        tokenizer: whose tokens; None for the module's.
    """

    encode: Encode  # row -> TokenRow
    accepts: Sequence[set[str]]  # the sets of columns a row may have
    collate: Callable[[Sequence[TokenRow], int], Any]

    def __init__(
        self,
        source: Source,
        val_source: Source | None = None,
        val_fraction: float = 0.05,
        batch_size: int = 8,
        max_length: int = 1024,
        template: str = "auto",
        columns: dict[str, str] | None = None,
        max_rows: int | None = None,
        split: str = "train",
        num_workers: int = 0,
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
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows must be 1 or more, got {max_rows}")
        self.source = source
        self.val_source = val_source
        self.val_fraction = val_fraction
        self.batch_size = batch_size
        self.max_length = max_length
        self.template = template
        self.columns = columns or {}
        self.max_rows = max_rows
        self.split = split
        self.num_workers = num_workers
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

    def _read(self, source: Source) -> Dataset:
        rows = load_rows(source, self.split)
        if self.max_rows is not None:
            rows = rows.select(range(min(self.max_rows, len(rows))))
        rows = self._renamed(rows, source)
        self._require_columns(rows.column_names, source)
        made = rows.map(
            partial(
                encode_or_drop,
                encode=type(self).encode,
                chat=ChatTemplate(self.tokenizer, self.template),
                max_length=self.max_length,
                code=CODE,
            ),
            remove_columns=rows.column_names,
            features=TOKEN_ROW,
            desc="tokenising",
        )
        reasons = made["dropped"]
        kept = made.select([i for i, reason in enumerate(reasons) if not reason])
        report = Report(
            len(rows),
            len(kept),
            Counter(c for c in kept["cut"] if c),
            Counter(r for r in reasons if r),
        )
        rank_zero_info(f"{name_of(source)}: {report}")
        if len(kept) == 0:
            raise ValueError(f"{name_of(source)}: no row can be used: {report}")
        return kept

    def _renamed(self, rows: Dataset, source: Source) -> Dataset:
        names = {k: v for k, v in self.columns.items() if k in rows.column_names}
        for old, new in names.items():
            if new in set(rows.column_names) - set(names):
                raise ValueError(
                    f"{name_of(source)}: columns= calls {old!r} {new!r}, "
                    f"but there is a column {new!r} already; rename that one too"
                )
        return rows.rename_columns(names)

    def _require_columns(self, found: list[str], source: Source) -> None:
        if not any(needed <= set(found) for needed in self.accepts):
            wanted = " or ".join("{" + ", ".join(sorted(s)) + "}" for s in self.accepts)
            raise ValueError(
                f"{name_of(source)} has the columns {{{', '.join(found)}}} "
                f"but {type(self).__name__} needs {wanted}; "
                "columns={'yours': 'ours'} renames them"
            )

    def _loader(self, rows: Dataset | None, shuffle: bool = False) -> StatefulDataLoader | list:
        if rows is None or len(rows) == 0:
            return []
        return StatefulDataLoader(
            rows,
            batch_size=self.batch_size,
            sampler=self._sampler(rows, shuffle),
            collate_fn=partial(
                collate_rows, collate=self._collate(rows), pad_id=self.tokenizer.pad_token_id or 0
            ),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def _sampler(self, rows: Dataset, shuffle: bool) -> ResumableSampler:
        processes = getattr(self.trainer, "world_size", 1)
        rank = getattr(self.trainer, "global_rank", 0)
        # far apart, so that no epoch of one seed is an epoch of the next
        return ResumableSampler(rows, processes, rank, shuffle, self.seed * 1_000_003)

    def _collate(self, rows: Dataset) -> Callable[[Sequence[TokenRow], int], Any]:
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


def token_row(row: dict[str, Any]) -> TokenRow:
    """A loader's row as what it was."""
    return TokenRow(**{name: row[name] for name in TokenRow._fields})


def collate_rows(
    rows: list[dict], collate: Callable[[Sequence[TokenRow], int], Any], pad_id: int
) -> Any:
    """The loader's rows, as token rows, as a batch."""
    return collate([token_row(row) for row in rows], pad_id)


class DemonstrationData(RowsData):
    """Conversations or prompt and completion, to imitate: ``TokenBatch``.

    A preference file will do: its chosen side is imitated.
    """

    encode = staticmethod(tokens.encode_demonstration)
    accepts = ({"messages"}, {"prompt", "completion"}, {"text"}, {"chosen", "rejected"})
    collate: Callable[..., TokenBatch] = staticmethod(collate.token_batch)


class PreferenceData(RowsData):
    """Pairs (``PreferenceBatch``) or rankings of K (``RankingBatch``), whichever the rows are."""

    encode = staticmethod(tokens.encode_preference)
    accepts = (
        {"prompt", "chosen", "rejected"},
        {"chosen", "rejected"},
        {"prompt", "completions", "ranks"},
        {"prompt", "completions", "ratings"},
        {"prompt", "completions"},
    )

    def _collate(
        self, rows: Dataset
    ) -> Callable[[Sequence[TokenRow], int], PreferenceBatch | RankingBatch]:
        pairs = all(ranks == [0, 1] for ranks in rows["ranks"])
        rated = any(ratings is not None for ratings in rows["ratings"])
        return collate.preference_batch if pairs and not rated else collate.ranking_batch


class PromptData(RowsData):
    """Prompts alone, to be completed: ``PromptBatch``."""

    encode = staticmethod(tokens.encode_prompt)
    accepts = ({"prompt"}, {"messages"}, {"text"}, {"chosen"})
    collate: Callable[..., PromptBatch] = staticmethod(collate.prompt_batch)
