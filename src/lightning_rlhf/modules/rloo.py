"""REINFORCE leave-one-out."""

from __future__ import annotations

from torch import Tensor

from lightning_rlhf.batches import UpdateBatch
from lightning_rlhf.functional.advantages import rloo_advantages
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.rloo import rloo_loss
from lightning_rlhf.functional.shaping import Shaping
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.sampler import CompletionSampler, Sampling
from lightning_rlhf.modules.online import OnlineModule
from lightning_rlhf.modules.rollout import Rollout
from lightning_rlhf.modules.update_schedule import UpdateSchedule
from lightning_rlhf.rewards.as_rewards import OneReward
from lightning_rlhf.training.optim import OptimizerOptions, Unpack


class RLOOModule(OnlineModule):
    """REINFORCE with the mean score of the prompt's other completions as baseline.

    A completion is one action (arXiv 2402.14740).

    Args:
        backbone: the base and its roles.
        reward: as in ``PPOModule``.
        sampling: how completions are drawn, two or more per prompt.
        shaping: how scores become rewards; the KL is part of the reward.
        updates: number of updates per rollout, and how far they may go.
        sampler: draws the completions; None for the backbone itself.
        lr: peak learning rate.
        **optim: ``warmup``, ``optimizer`` and ``lr_scheduler``, see ``AlignmentModule``.
    """

    def __init__(
        self,
        backbone: Backbone,
        reward: OneReward | list[OneReward] = "reward",
        sampling: Sampling = Sampling(num_samples=4),
        *,
        shaping: Shaping = Shaping(),
        updates: UpdateSchedule = UpdateSchedule(epochs=1),
        sampler: CompletionSampler | None = None,
        lr: float = 1e-5,
        **optim: Unpack[OptimizerOptions],
    ):
        super().__init__(
            backbone, reward,
            sampling=sampling, shaping=shaping, updates=updates, sampler=sampler, lr=lr, **optim,
        )  # fmt: skip
        if sampling.num_samples < 2:
            raise ValueError(
                "RLOOModule compares the completions of a prompt: "
                "give Sampling(num_samples=2) or more"
            )

    def compute_advantages(self, rollout: Rollout, kl: Tensor, rewards: Tensor) -> Rollout:
        rewards = rewards - self.kl_coef * kl.sum(1)
        return rollout._replace(advantages=rloo_advantages(rewards, rollout.group))

    def objective(self, batch: UpdateBatch) -> Loss:
        updates = self.updates
        new, entropy = self.policy_logprobs(batch.tokens)
        loss = rloo_loss(
            new,
            batch.logprobs,
            batch.advantages,
            batch.tokens.completion_index,
            clip=updates.clip,
            dual_clip=updates.dual_clip,
        )
        entropy = entropy * batch.relative_share("tokens", "completions")
        return loss._replace(value=loss.value - updates.entropy * entropy)
