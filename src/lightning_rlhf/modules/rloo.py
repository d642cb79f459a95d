"""REINFORCE leave-one-out."""

from __future__ import annotations

from torch import Tensor

from lightning_rlhf.batches import UpdateBatch
from lightning_rlhf.functional.advantages import rloo_advantages
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.rloo import rloo_loss
from lightning_rlhf.functional.shaping import Shaping
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.sampler import RolloutEngine, Sampling
from lightning_rlhf.modules.online import OnlineModule
from lightning_rlhf.modules.rollout import Rollout
from lightning_rlhf.modules.update_schedule import UpdateSchedule
from lightning_rlhf.rewards.base import Reward, Score
from lightning_rlhf.training.optim import OptimizerOptions, Unpack


class RLOOModule(OnlineModule):
    """A completion is one action, the mean score of its siblings its baseline (arXiv 2402.14740).

    Args:
        backbone: the base and its roles.
        reward: as in ``PPOModule``.
        sampling: how completions are drawn, two or more to a prompt.
        shaping: from scores to rewards; the KL is part of the reward.
        updates: steps to a rollout, and how far they go.
        engine: what samples; None for the backbone itself.
        lr: peak learning rate.
        **optim: ``warmup``, ``optimizer`` and ``lr_scheduler``, see ``AlignmentModule``.
    """

    def __init__(
        self,
        backbone: Backbone,
        reward: Score | Reward | list[Reward] | str = "reward",
        sampling: Sampling = Sampling(samples=4),
        shaping: Shaping = Shaping(),
        updates: UpdateSchedule = UpdateSchedule(epochs=1),
        engine: RolloutEngine | None = None,
        lr: float = 1e-5,
        **optim: Unpack[OptimizerOptions],
    ):
        super().__init__(backbone, reward, sampling, shaping, updates, engine, lr, **optim)
        if sampling.samples < 2:
            raise ValueError("RLOOModule compares siblings: give Sampling(samples=2) or more")

    def compute_advantages(self, rollout: Rollout, kl: Tensor, rewards: Tensor) -> Rollout:
        rewards = rewards - self.kl_coef * kl.sum(1)
        return rollout._replace(advantages=rloo_advantages(rewards, rollout.group))

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
