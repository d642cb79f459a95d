"""Group-relative policy optimization, and its kin."""

from __future__ import annotations

from typing import Literal

from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_rlhf.batches import UpdateBatch
from lightning_rlhf.functional.advantages import Estimator, grpo_advantages
from lightning_rlhf.functional.grpo import Mean, grpo_loss, token_weights
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.sampler import CompletionSampler, Sampling
from lightning_rlhf.modules.online import OnlineModule, Shaping, Updates
from lightning_rlhf.modules.rollout import Rollout
from lightning_rlhf.rewards.base import Reward, Score


class GRPOModule(OnlineModule):
    """Several answers to a prompt, each compared with its siblings: no critic (arXiv 2402.03300).

    Args:
        backbone: the base and its roles.
        reward: as in ``PPOModule``.
        advantage: ``(scores (C,), group (C,)) -> (C,)``: ``grpo_advantages``,
            ``dr_grpo_advantages`` or ``reinforce_pp_advantages`` of ``functional.advantages``, or
            your own.
        mean: over what the loss is a mean, see ``functional.grpo.token_weights``; Dr. GRPO has
            "length", DAPO "token".
        kl: "loss" adds k3 to the loss, "reward" takes the KL off the score (REINFORCE++).
        sampling: how completions are drawn, two or more to a prompt.
        shaping: from scores to rewards.
        updates: steps to a rollout, and how far they go.
        sampler: what samples; None for the backbone itself.
        lr: peak learning rate.
        optimizer: ``(params, lr=...)`` to an optimizer; None for fused AdamW, eps 1e-5.
        lr_scheduler: optimizer to a scheduler; None for a cosine to 0.
    """

    def __init__(
        self,
        backbone: Backbone,
        reward: Score | Reward | list[Reward] | str = "reward",
        advantage: Estimator = grpo_advantages,
        mean: Mean = "completion",
        kl: Literal["loss", "reward"] = "loss",
        sampling: Sampling = Sampling(num_samples=4),
        shaping: Shaping = Shaping(),
        updates: Updates = Updates(epochs=1),
        sampler: CompletionSampler | None = None,
        lr: float = 1e-5,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ):
        super().__init__(
            backbone, reward, sampling, shaping, updates, sampler, lr, 0.1, optimizer, lr_scheduler
        )
        if sampling.num_samples < 2:
            raise ValueError("GRPOModule compares siblings: give Sampling(num_samples=2) or more")
        self.advantage = advantage
        self.mean = mean
        self.kl = kl

    def judge(self, rollout: Rollout, kl: Tensor, rewards: Tensor, group: Tensor) -> Rollout:
        if self.kl == "reward":
            rewards = rewards - self.kl_coef * kl.sum(1)
        return rollout._replace(advantages=self.advantage(rewards, group))

    def objective(self, batch: UpdateBatch) -> Loss:
        how, tokens = self.updates, batch.tokens
        new, bonus = self.policy_logprobs(tokens)
        weight = token_weights(
            tokens.completion_index, tokens.completions, self.mean, self.sampling.max_new_tokens
        )
        loss = grpo_loss(
            new, batch.logprobs, batch.reference, batch.advantages[tokens.completion_index], weight,
            how.clip, self.kl_coef if self.kl == "loss" else 0.0, how.dual_clip,
        )  # fmt: skip
        return Loss(loss.value - how.entropy * bonus, loss.metrics)
