"""Supervised fine-tuning."""

from __future__ import annotations

from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.sft import sft_loss
from lightning_rlhf.models.backbone import POLICY, Backbone
from lightning_rlhf.modules.base import AlignmentModule


class SFTModule(AlignmentModule):
    """Imitate demonstrations: the policy's negative log-likelihood of the tokens that count.

    Args:
        backbone: the base and its roles.
        lr: peak learning rate.
        warmup: share of the run over which the learning rate rises.
        optimizer: ``(params, lr=...)`` to an optimizer; None for fused AdamW.
        lr_scheduler: optimizer to a scheduler; None for a cosine to 0.
    """

    def __init__(
        self,
        backbone: Backbone,
        lr: float = 2e-4,
        warmup: float = 0.1,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ):
        super().__init__(backbone, lr, warmup, optimizer, lr_scheduler)

    def objective(self, batch: TokenBatch) -> Loss:
        return sft_loss(self.backbone.logprobs(batch, POLICY))

    def weight_of(self, batch: TokenBatch) -> int:
        return len(batch.target_ids)  # the loss is a mean over tokens
