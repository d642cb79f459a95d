"""Group-relative policy optimization and its variants."""

from __future__ import annotations

from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from lightning_rlhf.batches import UpdateBatch
from lightning_rlhf.functional.advantages import Estimator, grpo_advantages
from lightning_rlhf.functional.grpo import LossAggregation, grpo_loss, token_weights
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.shaping import Shaping
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.sampler import CompletionSampler, Sampling
from lightning_rlhf.modules.online import OnlineModule
from lightning_rlhf.modules.rollout import Rollout
from lightning_rlhf.modules.update_schedule import UpdateSchedule
from lightning_rlhf.rewards.as_rewards import OneReward
from lightning_rlhf.training.optim import OptimizerOptions, Unpack


class GRPOModule(OnlineModule):
    """Compare each completion with the others of its prompt; no critic (arXiv 2402.03300).

    Args:
        backbone: the base and its roles.
        reward: as in ``PPOModule``.
        advantage: ``(scores (C,), group (C,)) -> (C,)``: ``grpo_advantages``,
            ``dr_grpo_advantages`` or ``reinforce_pp_advantages`` of ``functional.advantages``, or
            your own.
        loss_aggregation: how token losses are averaged, see ``functional.grpo.token_weights``;
            Dr. GRPO uses "length", DAPO "token".
        kl: "loss" adds k3 to the loss, "reward" subtracts the KL from the score (REINFORCE++).
        sampling: how completions are drawn, two or more per prompt.
        shaping: how scores become rewards.
        updates: number of updates per rollout, and how far they may go.
        sampler: draws the completions; None for the backbone itself.
        lr: peak learning rate.
        **optim: ``warmup``, ``optimizer`` and ``lr_scheduler``, see ``AlignmentModule``.
    """

    def __init__(
        self,
        backbone: Backbone,
        reward: OneReward | list[OneReward] = "reward",
        advantage: Estimator = grpo_advantages,
        *,
        loss_aggregation: LossAggregation = "completion",
        kl: Literal["loss", "reward"] = "loss",
        sampling: Sampling = Sampling(num_samples=4),
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
                "GRPOModule compares the completions of a prompt: "
                "give Sampling(num_samples=2) or more"
            )
        self.advantage = advantage
        self.loss_aggregation = loss_aggregation
        self.kl = kl

    def compute_advantages(self, rollout: Rollout, kl: Tensor, rewards: Tensor) -> Rollout:
        if self.kl == "reward":
            rewards = rewards - self.kl_coef * kl.sum(1)
        return rollout._replace(advantages=self._among_all(self.advantage, rewards, rollout.group))

    def _among_all(self, advantage: Estimator, rewards: Tensor, group: Tensor) -> Tensor:
        """Compute advantages among the completions of all processes; no group is split."""
        parts = self.processes.gather(group)
        firsts = [0, *accumulate(int(part[-1]) + 1 for part in parts)]
        groups = torch.cat([part + first for part, first in zip(parts, firsts, strict=False)])
        return self.processes.own(advantage(self.processes.join(rewards), groups), rewards)

    def objective(self, batch: UpdateBatch) -> Loss:
        tokens, updates = batch.tokens, self.updates
        new, entropy = self.policy_logprobs(tokens)
        weight = token_weights(
            tokens.completion_index,
            tokens.completions,
            self.loss_aggregation,
            self.sampling.max_new_tokens,
        )
        loss = grpo_loss(
            new,
            batch.logprobs,
            batch.reference,
            advantages=batch.advantages[tokens.completion_index],
            weight=weight,
            clip=updates.clip,
            kl_coef=self.kl_coef if self.kl == "loss" else 0.0,
            dual_clip=updates.dual_clip,
        )
        of = "tokens" if self.loss_aggregation == "token" else "completions"
        count = getattr(batch.counts, of)
        entropy = entropy * batch.relative_share("tokens", of)
        return loss._replace(
            value=loss.value - updates.entropy * entropy,
            weight=count,
            weights={**loss.weights, "policy/loss": count, "policy/kl_k3": count},
        )
