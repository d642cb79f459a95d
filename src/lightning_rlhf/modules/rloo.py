"""REINFORCE leave-one-out."""

from __future__ import annotations

from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_rlhf.batches import UpdateBatch
from lightning_rlhf.functional.advantages import rloo_advantages
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.rloo import rloo_loss
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.sampler import CompletionSampler, Sampling
from lightning_rlhf.modules.online import OnlineModule, Shaping, Updates
from lightning_rlhf.modules.rollout import Rollout
from lightning_rlhf.rewards.base import Reward, Score


class RLOOModule(OnlineModule):
    """A completion is one action, the mean score of its siblings its baseline (arXiv 2402.14740).

    Args:
        backbone: the base and its roles.
        reward: as in ``PPOModule``.
        sampling: how completions are drawn, two or more to a prompt.
        shaping: from scores to rewards; the KL is part of the reward.
        updates: steps to a rollout, and how far they go.
        sampler: what samples; None for the backbone itself.
        lr: peak learning rate.
        warmup: share of the run over which the learning rate rises.
        optimizer: ``(params, lr=...)`` to an optimizer; None for fused AdamW, eps 1e-5.
        lr_scheduler: optimizer to a scheduler; None for a cosine to 0.
    """

    def __init__(
        self,
        backbone: Backbone,
        reward: Score | Reward | list[Reward] | str = "reward",
        sampling: Sampling = Sampling(num_samples=4),
        shaping: Shaping = Shaping(),
        updates: Updates = Updates(epochs=1),
        sampler: CompletionSampler | None = None,
        lr: float = 1e-5,
        warmup: float = 0.1,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ):
        super().__init__(
            backbone, reward, sampling, shaping, updates, sampler, lr, warmup, optimizer,
            lr_scheduler,
        )  # fmt: skip
        if sampling.num_samples < 2:
            raise ValueError("RLOOModule compares siblings: give Sampling(num_samples=2) or more")

    def judge(self, rollout: Rollout, kl: Tensor, rewards: Tensor, group: Tensor) -> Rollout:
        rewards = rewards - self.kl_coef * kl.sum(1)
        return rollout._replace(advantages=rloo_advantages(rewards, group))

    def objective(self, batch: UpdateBatch) -> Loss:
        how = self.updates
        new, bonus = self.policy_logprobs(batch.tokens)
        loss = rloo_loss(
            new,
            batch.logprobs,
            batch.advantages,
            batch.tokens.completion_index,
            how.clip,
            how.dual_clip,
        )
        return Loss(loss.value - how.entropy * bonus, loss.metrics)
