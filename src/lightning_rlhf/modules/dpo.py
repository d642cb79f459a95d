"""Direct preference optimization and its variants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.batches import PreferenceBatch
from lightning_rlhf.functional.divergences import reverse_kl
from lightning_rlhf.functional.dpo import dpo_loss
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.pairs import (
    PairLogprobs,
    Term,
    pair_logprobs,
    preference_loss,
    wpo_weight,
)
from lightning_rlhf.models.backbone import POLICY, REFERENCE, Backbone
from lightning_rlhf.models.logprob_cache import CachedReference
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.training.optim import OptimizerOptions, Unpack

# Losses and divergences return tensors. They are typed Any in constructors, because jsonargparse
# takes a class there for one whose subclasses are wanted, and then refuses callable classes.


class DPOModule(AlignmentModule):
    """Train the policy on preferences against a reference: no reward model, no sampling.

    The reference is the policy as it was before training: the frozen SFT adapter, or the bare base.

    Args:
        backbone: the base and its roles.
        loss: a pair loss of ``lightning_rlhf.functional.dpo`` or your own, or a list of ``Term``
            for a weighted mix.
        beta: strength of the pull to the reference.
        divergence: of the log-ratio, one of ``lightning_rlhf.functional.divergences`` or your own.
        ld_alpha: LD-DPO's weight of the tokens by which one side is longer; None for 1.
        wpo: weigh pairs by their likelihood under the policy (WPO).
        reference_cache: file of reference log-probs, computed once per text; None: in every step.
        lr: peak learning rate.
        **optim: ``warmup``, ``optimizer`` and ``lr_scheduler``, see ``AlignmentModule``.
    """

    compares_forwards = True

    def __init__(
        self,
        backbone: Backbone,
        loss: Callable[[PairLogprobs, float], Any] | list[Term] = dpo_loss,
        beta: float = 0.1,
        *,
        divergence: Callable[[Tensor], Any] = reverse_kl,
        ld_alpha: float | None = None,
        wpo: bool = False,
        reference_cache: str | None = None,
        lr: float = 2e-5,
        **optim: Unpack[OptimizerOptions],
    ):
        super().__init__(backbone, lr=lr, **optim)
        if beta <= 0:
            raise ValueError(f"beta must be above 0, got {beta}")
        self.loss = loss
        self.beta = beta
        self.divergence = divergence
        self.ld_alpha = ld_alpha
        self.wpo = wpo
        self.reference_cache = reference_cache
        terms = [Term(loss)] if callable(loss) else loss
        self.terms = [(term.weight, term.bound()) for term in terms]
        self.needs_reference = not all(getattr(t.loss, "reference_free", False) for t in terms)
        self._cached: CachedReference | None = None

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self._cached = None  # the reference may have moved since the last run

    def add_roles(self) -> None:
        if self.needs_reference:
            self.add_policy_and_reference()
        else:
            self.backbone.add_role(POLICY)

    def objective(self, batch: PreferenceBatch) -> Loss:
        tokens = batch.tokens
        # the reference first: its forward is over before the policy's activations are there
        reference = self.reference_logprobs(batch)
        if self.wpo:
            policy, _, log_sum_sq = self.backbone.statistics(tokens, POLICY)
            index = tokens.completion_index
            weight = wpo_weight(policy, log_sum_sq, index, batch.chosen, batch.rejected)
        else:
            policy, weight = self.backbone.logprobs(tokens, POLICY), None
        pairs = self.pairs(policy, reference, batch)
        return preference_loss(
            pairs, self.beta, self.terms, batch.label, weight=weight, processes=self.processes
        )

    def pairs(self, policy: Tensor, reference: Tensor, batch: PreferenceBatch) -> PairLogprobs:
        """Sum (N,) token log-probs of policy and reference to P pairs."""
        return pair_logprobs(
            policy,
            reference,
            batch.tokens.completion_index,
            batch.chosen,
            batch.rejected,
            ld_alpha=self.ld_alpha,
            divergence=self.divergence,
        )

    @torch.no_grad()
    def reference_logprobs(self, batch: PreferenceBatch) -> Tensor:
        """(N,) token log-probs under the reference; 0 for a loss without a reference term."""
        if not self.needs_reference:
            return torch.zeros(batch.tokens.target_ids.shape, device=batch.tokens.target_ids.device)
        if self.reference_cache is None or batch.tokens.target_ids.is_meta:  # of a memory plan
            return self.backbone.logprobs(batch.tokens, REFERENCE)
        if self._cached is None:
            precision = str(self._trainer.precision) if self._trainer is not None else "32-true"
            self._cached = CachedReference(self.backbone, self.reference_cache, precision)
        return self._cached.logprobs(batch.tokens, batch.digest)

    def batch_weight(self, batch: PreferenceBatch) -> int:
        if not isinstance(batch, PreferenceBatch):
            raise ValueError("DPOModule trains on pairs: rankings train RewardModule")
        return len(batch.chosen)

    @torch.no_grad()
    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Any]]:
        """Implicit rewards ``beta * D`` of pairs, or completions of prompts."""
        if not isinstance(batch, PreferenceBatch):
            return super().predict_step(batch, batch_idx)
        policy = self.backbone.logprobs(batch.tokens, POLICY)
        pairs = self.pairs(policy, self.reference_logprobs(batch), batch)
        rewards = self.beta * torch.stack([pairs.ratio_chosen, pairs.ratio_rejected], dim=1)
        return [{"reward_chosen": c, "reward_rejected": r} for c, r in rewards.tolist()]
