"""Direct preference optimization and its kin."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.batches import PreferenceBatch
from lightning_rlhf.functional.dpo import (
    PairLogprobs,
    PairLoss,
    completion_sums,
    dpo_loss,
    loss_name,
    preference_loss,
    reverse_kl,
    wpo_weight,
)
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.masking import segment_lengths
from lightning_rlhf.models.backbone import POLICY, REFERENCE, Backbone
from lightning_rlhf.models.digest import weights_digest
from lightning_rlhf.models.logprob_cache import LogprobCache
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.training.optim import OptimizerOptions, Unpack


@dataclass(frozen=True)
class Term:
    """One summand of a mix of losses, or a loss with options.

    Attributes:
        loss: a pair loss of ``lightning_rlhf.functional.dpo``, or your own.
        weight: its share.
        options: further arguments of the loss, e.g. ``{"label_smoothing": 0.1}``.
    """

    loss: Callable[[PairLogprobs, float], Any]
    weight: float = 1.0
    options: dict[str, float] = field(default_factory=dict)

    def bound(self) -> PairLoss:
        """The loss with its options.

        Raises:
            ValueError: an option the loss does not have.
        """
        known = [p for p in inspect.signature(self.loss).parameters if p not in ("pairs", "beta")]
        if wrong := sorted(set(self.options) - set(known)):
            raise ValueError(f"{loss_name(self.loss)} has no option {wrong[0]!r}; it has {known}")
        return partial(self.loss, **self.options) if self.options else self.loss


# Losses and divergences return tensors. They are typed Any in constructors, because jsonargparse
# takes a class there for one whose subclasses are wanted, and then refuses callable classes.


class DPOModule(AlignmentModule):
    """Train the policy on preferences, held to the reference: no reward model, no sampling.

    The reference is the policy as this module found it: the frozen SFT adapter, or the bare base.

    Args:
        backbone: the base and its roles.
        loss: a pair loss by its name, or a list of ``Term`` for a weighted mix.
        beta: strength of the pull to the reference.
        divergence: of the log-ratio, ``reverse_kl`` or another of ``functional.dpo``.
        ld_alpha: LD-DPO's weight of the longer side's tail; None for 1.
        wpo: weigh pairs by how likely the policy is to say them (WPO).
        reference_cache: a file that keeps reference log-probs, computed once per text; None
            computes them on the fly.
        lr: peak learning rate.
        **optim: ``warmup``, ``optimizer`` and ``lr_scheduler``, see ``AlignmentModule``.
    """

    compares_forwards = True

    def __init__(
        self,
        backbone: Backbone,
        loss: Callable[[PairLogprobs, float], Any] | list[Term] = dpo_loss,
        beta: float = 0.1,
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
        self.needs_reference = not all(
            getattr(term.loss, "reference_free", False) for term in terms
        )
        self._cache: LogprobCache | None = None

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self._cache = None  # the reference may have moved since the last run

    def add_roles(self) -> None:
        if self.needs_reference:
            self.add_policy_and_reference()
        else:
            self.backbone.add_role(POLICY)

    def objective(self, batch: PreferenceBatch) -> Loss:
        tokens = batch.tokens
        # the reference first: its forward is over before the policy's activations are there
        reference = (
            self.reference_logprobs(batch)
            if self.needs_reference
            else torch.zeros(tokens.target_ids.shape, device=tokens.target_ids.device)
        )
        if self.wpo:
            policy, _, expected = self.backbone.statistics(tokens, POLICY)
            weight = wpo_weight(
                policy, expected, tokens.completion_index, batch.chosen, batch.rejected
            )
        else:
            policy, weight = self.backbone.logprobs(tokens, POLICY), None
        pairs = self.pairs(policy, reference, batch)
        return preference_loss(pairs, self.beta, self.terms, batch.label, weight)

    def pairs(self, policy: Tensor, reference: Tensor, batch: PreferenceBatch) -> PairLogprobs:
        """Sum (N,) token log-probs of policy and reference to P pairs."""
        tokens, chosen, rejected = batch.tokens, batch.chosen, batch.rejected
        length = segment_lengths(tokens.completion_index, tokens.completions)
        shared = None
        if self.ld_alpha is not None:
            shared = torch.empty_like(length)
            shared[chosen] = shared[rejected] = torch.minimum(length[chosen], length[rejected])
        alpha = 1.0 if self.ld_alpha is None else self.ld_alpha
        s, s_ref = (
            completion_sums(lp, tokens.completion_index, tokens.completions, shared, alpha)
            for lp in (policy, reference)
        )
        return PairLogprobs(
            s[chosen], s[rejected], s_ref[chosen], s_ref[rejected],
            length[chosen], length[rejected], self.divergence,
        )  # fmt: skip

    @torch.no_grad()
    def reference_logprobs(self, batch: PreferenceBatch) -> Tensor:
        """(N,) token log-probs under the reference: from the cache, else computed and kept."""
        if self.reference_cache is not None:
            kept = self._open_cache().get(batch.digest)
            if kept is not None:
                return kept.to(batch.digest.device)
        tokens = batch.tokens
        logprobs = self.backbone.logprobs(tokens, REFERENCE)
        if self.reference_cache is not None:
            lengths = segment_lengths(tokens.completion_index, tokens.completions)
            self._open_cache().put(batch.digest, logprobs, lengths)
        return logprobs

    def _open_cache(self) -> LogprobCache:
        if self._cache is None:
            assert self.reference_cache is not None
            weights = weights_digest(self.backbone.forward_weights(REFERENCE))
            precision = str(self._trainer.precision) if self._trainer is not None else "32-true"
            self._cache = LogprobCache(self.reference_cache, weights + precision.encode())
        return self._cache

    def batch_weight(self, batch: PreferenceBatch) -> int:
        if not isinstance(batch, PreferenceBatch):
            raise ValueError("DPOModule trains on pairs: rankings train RewardModule")
        return len(batch.chosen)

    @torch.no_grad()
    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Any]]:
        """Implicit rewards ``beta * D`` of pairs, or completions of prompts."""
        if not isinstance(batch, PreferenceBatch):
            return super().predict_step(batch, batch_idx)
        tokens = batch.tokens
        policy = self.backbone.logprobs(tokens, POLICY)
        pairs = self.pairs(policy, self.reference_logprobs(batch), batch)
        return [
            {"reward_chosen": c, "reward_rejected": r}
            for c, r in zip(
                (self.beta * pairs.ratio_chosen).tolist(),
                (self.beta * pairs.ratio_rejected).tolist(),
                strict=True,
            )
        ]
