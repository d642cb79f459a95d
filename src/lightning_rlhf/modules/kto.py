"""Kahneman-Tversky optimization: preferences from unpaired labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.batches import PreferenceBatch, TokenBatch, UnpairedBatch
from lightning_rlhf.data.collate import example_rows, preference_batch, unpaired_batch
from lightning_rlhf.functional.kto import UnpairedLogprobs, baseline, kto_loss, unpaired_loss
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.masking import segment_sum
from lightning_rlhf.models.backbone import POLICY, REFERENCE, Backbone
from lightning_rlhf.models.layout import mismatched
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.training.optim import OptimizerOptions, Unpack


class KTOModule(AlignmentModule):
    """Train the policy on completions labeled one by one, against a reference.

    It takes single completions with a label (thumbs up or down), and pairs: one good completion
    and one bad one. A step needs rows of two prompts or more, since the baseline is computed from
    mismatched ones.

    Args:
        backbone: the base and its roles.
        loss: ``kto_loss`` or ``apo_zero_unpaired_loss`` of ``functional.kto``, or your own.
        beta: strength of the pull to the reference.
        up_weight: weight of good completions.
        down_weight: weight of bad completions.
        lr: peak learning rate.
        **optim: ``warmup``, ``optimizer`` and ``lr_scheduler``, see ``AlignmentModule``.
    """

    compares_forwards = True

    def __init__(
        self,
        backbone: Backbone,
        loss: Callable[[UnpairedLogprobs, float], Any] = kto_loss,
        beta: float = 0.1,
        *,
        up_weight: float = 1.0,
        down_weight: float = 1.0,
        lr: float = 2e-5,
        **optim: Unpack[OptimizerOptions],
    ):
        super().__init__(backbone, lr=lr, **optim)
        if beta <= 0:
            raise ValueError(f"beta must be above 0, got {beta}")
        self.loss = loss
        self.beta = beta
        self.up_weight = up_weight
        self.down_weight = down_weight
        self.needs_baseline = not getattr(loss, "without_baseline", False)

    def add_roles(self) -> None:
        self.add_policy_and_reference()

    def objective(self, batch: UnpairedBatch | PreferenceBatch) -> Loss:
        tokens = batch.tokens
        label = _labels(batch).to(tokens.input_ids.device)
        z0 = self._baseline(tokens) if self.needs_baseline else label.new_zeros(())
        with torch.no_grad():
            reference = self._sums(tokens, REFERENCE)
        ratio = self._sums(tokens, POLICY) - reference
        return unpaired_loss(
            UnpairedLogprobs(ratio, label, z0),
            self.beta,
            self.loss,
            up_weight=self.up_weight,
            down_weight=self.down_weight,
        )

    @torch.no_grad()
    def _baseline(self, tokens: TokenBatch) -> Tensor:
        """``z0`` of the batches of all processes."""
        other = mismatched(tokens, self.processes)
        ratio = self._sums(other, POLICY) - self._sums(other, REFERENCE)
        return baseline(ratio, self.processes)

    def _sums(self, tokens: TokenBatch, role: str) -> Tensor:
        """(C,) log-probs of whole completions."""
        logprobs = self.backbone.logprobs(tokens, role)
        return segment_sum(logprobs, tokens.completion_index, tokens.completions)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        groups, processes = batch.tokens.groups, self.processes.size
        alone = groups is not None and len(groups) * processes < 2
        if self.needs_baseline and batch_idx == 0 and alone:
            raise ValueError(
                "KTO compares with completions of other prompts: give the data batch_size=2 or "
                "more, or loss=apo_zero_unpaired_loss"
            )
        return super().training_step(batch, batch_idx)

    def example_batch(self, groups: Sequence[Sequence[int]]) -> UnpairedBatch | PreferenceBatch:
        pairs = all(len(group) == 3 for group in groups)
        return (preference_batch if pairs else unpaired_batch)(example_rows(groups))

    def batch_weight(self, batch: UnpairedBatch | PreferenceBatch) -> int:
        if not isinstance(batch, UnpairedBatch | PreferenceBatch):
            raise ValueError("KTOModule trains on labels or pairs: rankings train RewardModule")
        return batch.tokens.completions

    @torch.no_grad()
    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Any]]:
        """Implicit rewards ``beta * D`` of completions, or completions of prompts."""
        if not isinstance(batch, UnpairedBatch | PreferenceBatch):
            return super().predict_step(batch, batch_idx)
        ratio = self._sums(batch.tokens, POLICY) - self._sums(batch.tokens, REFERENCE)
        labels = _labels(batch).tolist()
        return [
            {"reward": r, "label": p}
            for r, p in zip((self.beta * ratio).tolist(), labels, strict=True)
        ]


def _labels(batch: UnpairedBatch | PreferenceBatch) -> Tensor:
    """(C,) probability that a completion is good; the two sides of a pair sum to 1."""
    if isinstance(batch, UnpairedBatch):
        return batch.label
    certain = torch.ones(len(batch.chosen), device=batch.chosen.device)
    better = certain if batch.label is None else batch.label
    label = better.new_empty(batch.tokens.completions)
    label[batch.chosen], label[batch.rejected] = better, 1 - better
    return label
