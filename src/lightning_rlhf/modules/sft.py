"""Supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.data.collate import example_rows, token_batch
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.sft import sft_loss
from lightning_rlhf.models.backbone import POLICY, Backbone
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.training.optim import OptimizerOptions, Unpack


class SFTModule(AlignmentModule):
    """Imitate demonstrations: minimize the negative log-likelihood of tokens under the loss mask.

    Args:
        backbone: the base and its roles.
        lr: peak learning rate.
        **optim: ``warmup``, ``optimizer`` and ``lr_scheduler``, see ``AlignmentModule``.
    """

    row_completions = 1

    def __init__(
        self,
        backbone: Backbone,
        lr: float = 2e-4,
        **optim: Unpack[OptimizerOptions],
    ):
        super().__init__(backbone, lr=lr, **optim)

    def objective(self, batch: TokenBatch) -> Loss:
        return sft_loss(self.backbone.logprobs(batch, POLICY))

    def example_batch(self, groups: Sequence[Sequence[int]]) -> TokenBatch:
        return token_batch(example_rows(groups))

    def batch_weight(self, batch: TokenBatch) -> int:
        return len(batch.target_ids)  # the loss is a mean over tokens
