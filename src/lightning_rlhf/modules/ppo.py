"""Proximal policy optimization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_rlhf.batches import TokenBatch, UpdateBatch
from lightning_rlhf.data.collate import with_end_positions
from lightning_rlhf.functional.advantages import gae, masked_normalize, masked_rescale
from lightning_rlhf.functional.early import backward_early
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.ppo import policy_loss, ppo_loss, token_rewards, value_loss
from lightning_rlhf.functional.rollout_statistics import explained_variance
from lightning_rlhf.functional.shaping import Shaping
from lightning_rlhf.models.backbone import POLICY, REFERENCE, Backbone
from lightning_rlhf.models.sampler import RolloutEngine, Sample, Sampling
from lightning_rlhf.modules.online import OnlineModule
from lightning_rlhf.modules.rollout import RoleOutputs, Rollout, row_mask
from lightning_rlhf.modules.update_schedule import UpdateSchedule
from lightning_rlhf.rewards.base import Reward, RoleReward, Score
from lightning_rlhf.training.optim import OptimizerOptions, Unpack

CRITIC = "critic"


@dataclass(frozen=True)
class Value:
    """The critic: what it is asked, and how it learns.

    Attributes:
        gamma: discount of a token.
        lam: of generalised advantage estimation: 0 trusts the critic, 1 the rewards.
        coef: weight of its loss beside the policy's.
        clip: how far a value may move from that of the rollout and gain by it.
        lr: its peak learning rate; None for the policy's.
        warmup_updates: first updates that train the critic alone.
        whiten: advantages to mean 0 and variance 1 over the rollout.
        whiten_rewards: rewards to variance 1 before, their mean left where it is.
        score_at: "end" adds the score to the completion's last token; "after" one place behind it
            where there is room, as the reference implementation does: the end token then sees it
            through ``gamma lam``.
    """

    gamma: float = 1.0
    lam: float = 0.95
    coef: float = 0.1
    clip: float = 0.2
    lr: float | None = None
    warmup_updates: int = 0
    whiten: bool = True
    whiten_rewards: bool = False
    score_at: Literal["end", "after"] = "end"


class PPOModule(OnlineModule):
    """Policy, reference, reward and critic on one base (arXiv 1707.06347, 2203.02155).

    The critic has its own adapter, started from the reward's where that is a role of this backbone:
    separate adapters beat a shared one by 9 points of win rate (arXiv 2309.00754).
    ``critic="head"`` reads values off the policy's own states: one forward and one adapter fewer,
    for small cards.

    Args:
        backbone: the base and its roles.
        reward: the name of a reward role, a function ``(prompts, completions, rows) -> scores``, or
            one or several ``Reward``.
        critic: "adapter" or "head".
        sampling: how completions are drawn.
        shaping: from scores to rewards: KL, penalty, scale.
        value: the critic and the advantages.
        updates: steps to a rollout, and how far they go.
        engine: what samples; None for the backbone itself.
        lr: peak learning rate.
        **optim: ``warmup``, ``optimizer`` and ``lr_scheduler``, see ``AlignmentModule``.
    """

    trained = (POLICY, CRITIC)

    def __init__(
        self,
        backbone: Backbone,
        reward: Score | Reward | list[Reward] | str = "reward",
        critic: Literal["adapter", "head"] = "adapter",
        sampling: Sampling = Sampling(),
        shaping: Shaping = Shaping(),
        value: Value = Value(),
        updates: UpdateSchedule = UpdateSchedule(),
        engine: RolloutEngine | None = None,
        lr: float = 1e-5,
        **optim: Unpack[OptimizerOptions],
    ):
        super().__init__(backbone, reward, sampling, shaping, updates, engine, lr, **optim)
        self.critic = critic
        self.value = value

    def add_roles(self) -> None:
        super().add_roles()
        judge = next((r.role for r in self.rewards if isinstance(r, RoleReward)), None)
        fresh = CRITIC not in self.backbone.heads
        trunk = POLICY if self.critic == "head" else None
        like = judge if trunk is None else None
        self.backbone.add_role(CRITIC, head=True, like=like, trunk=trunk)
        if fresh and like is None and CRITIC not in self.backbone.adapters:
            torch.nn.init.zeros_(self.backbone.head(CRITIC).weight)  # expects nothing yet

    def update_like(self, tokens: TokenBatch) -> UpdateBatch:
        like = super().update_like(tokens)
        blank = like.logprobs
        return like._replace(advantages=blank, critic=tokens, values=blank, returns=blank)

    def learning_rate(self, role: str) -> float:
        return self.value.lr if role == CRITIC and self.value.lr is not None else self.lr

    def score_after_eos(self, samples: list[Sample]) -> list[bool]:
        after, longest = self.value.score_at == "after", self.sampling.max_new_tokens
        return [after and s.finished and len(s.ids) < longest for s in samples]

    def forward_roles(self, tokens: TokenBatch, score_after_eos: list[bool]) -> RoleOutputs:
        critic = with_end_positions(tokens, score_after_eos)
        logprobs, values = self._policy_and_critic(tokens, critic)
        reference = self.backbone.logprobs(tokens, REFERENCE, self.sampling.temperature)
        return RoleOutputs(logprobs, reference, values)

    def _policy_and_critic(self, tokens: TokenBatch, critic: TokenBatch) -> tuple[Tensor, Tensor]:
        temperature = self.sampling.temperature
        if self.critic == "head":
            return self.backbone.logprobs_and_values(tokens, critic, POLICY, CRITIC, temperature)
        logprobs = self.backbone.logprobs(tokens, POLICY, temperature)
        return logprobs, self.backbone.values(critic, CRITIC)

    def compute_advantages(self, rollout: Rollout, kl: Tensor, rewards: Tensor) -> Rollout:
        how = self.value
        assert rollout.values is not None
        assert rollout.value_lengths is not None
        places = torch.tensor(rollout.value_lengths, device=kl.device) - 1
        padded = torch.nn.functional.pad(kl, (0, 1))
        per_token = token_rewards(padded, rewards, places, self.kl_coef)
        if how.whiten_rewards:
            per_token = masked_rescale(per_token, row_mask(rollout.value_lengths, per_token))
        advantages = gae(per_token, rollout.values, how.gamma, how.lam)
        returns = advantages + rollout.values
        counts = row_mask(rollout.lengths, kl)
        mask = row_mask(rollout.value_lengths, returns)
        self.log(
            "value/explained_variance", explained_variance(rollout.values[mask], returns[mask])
        )
        advantages = advantages[:, :-1].masked_fill(~counts, 0.0)
        if how.whiten:
            advantages = masked_normalize(advantages, counts)
        return rollout._replace(advantages=advantages, returns=returns)

    def objective(self, batch: UpdateBatch) -> Loss:
        assert batch.critic is not None
        assert batch.values is not None
        assert batch.returns is not None
        how, bonus = self.updates, batch.returns.new_zeros(())
        if self.critic == "head" and not how.entropy:
            new, values = self._policy_and_critic(batch.tokens, batch.critic)
            value = value_loss(values, batch.values, batch.returns, self.value.clip)
        else:
            values = self.backbone.values(batch.critic, CRITIC)
            value = value_loss(values, batch.values, batch.returns, self.value.clip)
            # the critic's graph goes before the policy's comes
            value = value._replace(value=backward_early(value.value, self._trained_parameters()))
            del values
            new, bonus = self.policy_logprobs(batch.tokens)
        policy = policy_loss(new, batch.logprobs, batch.advantages, how.clip, how.dual_clip)
        loss = ppo_loss(policy, value, self.value.coef)
        if self.training and self._warming_up():
            return loss._replace(value=self.value.coef * value.value)
        return Loss(loss.value - how.entropy * bonus, loss.metrics)

    def _trained_parameters(self) -> list[torch.nn.Parameter]:
        own = [p for role in self.trained for p in self.backbone.role_parameters(role)]
        return list(dict.fromkeys(own))

    def _warming_up(self) -> bool:
        made = (self.rollouts_made - 1) * self.updates_per_rollout + self._update
        return made <= self.value.warmup_updates
