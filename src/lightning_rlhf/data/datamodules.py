"""LightningDataModules: demonstrations, preferences, prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset

from lightning_rlhf.batches import PromptBatch, TokenBatch
from lightning_rlhf.data import collate, tokens
from lightning_rlhf.data.batching import Batches, fill, fill_by_number
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.data.sources import is_stream, name_of
from lightning_rlhf.data.token_table import column
from lightning_rlhf.data.tokens import TokenRow


class DemonstrationData(RowsData):
    """Demonstrations to imitate, conversations or prompt and completion: ``TokenBatch``.

    Of a preference file the chosen side is imitated.
    """

    encode = staticmethod(tokens.encode_demonstration)
    accepts = ({"messages"}, {"prompt", "completion"}, {"text"}, {"chosen", "rejected"})
    collate: Callable[..., TokenBatch] = staticmethod(collate.token_batch)


class PreferenceData(RowsData):
    """Preferences: pairs, rankings or labeled completions.

    They become a ``PreferenceBatch``, a ``RankingBatch`` or an ``UnpairedBatch``.
    """

    encode = staticmethod(tokens.encode_preference)
    accepts = (
        {"prompt", "chosen", "rejected"},
        {"chosen", "rejected"},
        {"prompt", "completions", "ranks"},
        {"prompt", "completions", "ratings"},
        {"prompt", "completions", "order"},
        {"prompt", "completions"},
        {"prompt", "completion", "label"},
        {"messages", "label"},
    )

    def _collate(self, rows: Dataset) -> Callable[[Sequence[TokenRow]], Any]:
        kinds = set(column(rows, "kind").unique().to_pylist())
        if "single" in kinds and len(kinds) > 1:
            raise ValueError(
                f"{name_of(self.source)} mixes single completions with pairs: make two files of it"
            )
        if "single" in kinds:
            return collate.unpaired_batch
        return collate.preference_batch if kinds == {"pair"} else collate.ranking_batch


class PromptData(RowsData):
    """Prompts to complete: ``PromptBatch``.

    A module that learns from its own completions gets each batch once per update of its rollout.
    """

    encode = staticmethod(tokens.encode_prompt)
    accepts = ({"prompt"}, {"messages"}, {"text"}, {"chosen"})
    collate: Callable[..., PromptBatch] = staticmethod(collate.prompt_batch)

    def train_dataloader(self) -> Any:
        module = getattr(self.trainer, "lightning_module", None)
        parts = module.modules() if module is not None else []
        updates = next((n for m in parts if (n := getattr(m, "updates_per_rollout", 0))), 0)
        if not updates:
            return super().train_dataloader()
        refuse_a_stream(self.source)
        rows = self.train_rows
        assert rows is not None, "setup has not run"
        rank, processes = self._process()
        if self.max_tokens is not None:
            partition = fill(column(rows, "tokens").to_numpy(), self.max_tokens, self.seed)
        else:  # a batch of all processes holds the rows that one process would take at once
            shared = len(rows) // processes * processes
            if not shared:
                raise ValueError(
                    f"{name_of(self.source)}: {processes} processes need a prompt each for a "
                    f"rollout, and there are {len(rows)}: give fewer devices, or more prompts"
                )
            size = min(self.batch_size * processes, shared)
            partition = fill_by_number(len(rows), size, self.seed)
            partition = [batch[rank::processes] for batch in partition]
            rank, processes = 0, 1
        items = Batches(rows, [batch for batch in partition for _ in range(updates)])
        sampler = self._sampler(items, True, updates, process=(rank, processes))
        return self._loader_of(items, rows, sampler=sampler)


def refuse_a_stream(source: Any) -> None:
    """Refuse a stream where each batch is drawn once per update of its rollout.

    Raises:
        ValueError: the source is a stream.
    """
    if is_stream(source):
        raise ValueError(
            f"{name_of(source)}: a stream cannot yield its prompts again for each update "
            "of a rollout; give a file, a folder or a hub id without stream:"
        )
