"""From token log-probs to pairs, and from pair losses to the loss of a batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from lightning_rlhf.functional.divergences import Divergence, reverse_kl
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.masking import segment_lengths, segment_sum
from lightning_rlhf.functional.processes import Processes


class PairLogprobs(NamedTuple):
    """Inputs of a pair loss: log-probs of P pairs, summed over the completion's tokens."""

    chosen: Tensor  # (P,) S_c under the policy
    rejected: Tensor  # (P,) S_r
    ref_chosen: Tensor  # (P,) the same under the reference, without gradient
    ref_rejected: Tensor  # (P,)
    chosen_length: Tensor  # (P,) L_c, in tokens
    rejected_length: Tensor  # (P,) L_r
    divergence: Divergence = reverse_kl

    @property
    def ratio_chosen(self) -> Tensor:
        """(P,) ``D_c``."""
        return self.chosen - self.ref_chosen

    @property
    def ratio_rejected(self) -> Tensor:
        """(P,) ``D_r``."""
        return self.rejected - self.ref_rejected

    @property
    def u_chosen(self) -> Tensor:
        """(P,) ``u_c``."""
        return self.divergence(self.ratio_chosen)

    @property
    def u_rejected(self) -> Tensor:
        """(P,) ``u_r``."""
        return self.divergence(self.ratio_rejected)

    @property
    def delta(self) -> Tensor:
        """(P,) ``d = u_c - u_r``."""
        return self.u_chosen - self.u_rejected

    def swapped(self) -> PairLogprobs:
        """The same pairs with the sides exchanged, as a wrong label would have them."""
        return self._replace(
            chosen=self.rejected,
            rejected=self.chosen,
            ref_chosen=self.ref_rejected,
            ref_rejected=self.ref_chosen,
            chosen_length=self.rejected_length,
            rejected_length=self.chosen_length,
        )

    def of(self, processes: Processes) -> PairLogprobs:
        """The pairs of all processes; only this one's keep their gradient."""
        fields = self._asdict()
        divergence = fields.pop("divergence")
        table = torch.stack([field.to(self.chosen.dtype) for field in fields.values()], 1)
        joined = zip(fields, processes.join(table).unbind(1), strict=True)
        return self._replace(divergence=divergence, **dict(joined))


PairLoss = Callable[..., Tensor]  # (PairLogprobs, beta, **options) -> (P,)
L = TypeVar("L", bound=PairLoss)


def reference_free(loss: L) -> L:
    """Mark a loss without a reference term: its module then computes no reference."""
    loss.reference_free = True  # type: ignore[attr-defined]
    return loss


def across_pairs(loss: L) -> L:
    """Mark a loss whose value for one pair depends on the rest of the batch."""
    loss.across_pairs = True  # type: ignore[attr-defined]
    return loss


@dataclass(frozen=True)
class Term:
    """One summand of a mix of losses, or a loss with options.

    Attributes:
        loss: a pair loss of ``lightning_rlhf.functional.dpo``, or your own.
        weight: its weight in the sum.
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
            raise ValueError(
                f"{loss_name(self.loss)} has no option {wrong[0]!r}; it has {known}: leave it out"
            )
        return partial(self.loss, **self.options) if self.options else self.loss


def completion_sums(
    logprobs: Tensor,
    completion_index: Tensor,
    completions: int,
    shared: Tensor | None,
    alpha: float,
) -> Tensor:
    """Sum token log-probs per completion; LD-DPO (arXiv 2409.06411) weighs a longer side's tail.

    Args:
        logprobs: (N,) of the completions' tokens, in order.
        completion_index: (N,) the completion of each token, ascending.
        completions: C, the number of completions.
        shared: (C,) number of leading tokens with weight 1, the shorter length of the pair; None
            for plain sums.
        alpha: weight of the tokens after them.

    Returns:
        (C,) sums ``S_shared + alpha * S_tail``.
    """
    if shared is None:
        return segment_sum(logprobs, completion_index, completions)
    length = segment_lengths(completion_index, completions)
    start = (length.cumsum(0) - length)[completion_index]
    position = torch.arange(len(completion_index), device=completion_index.device) - start
    weight = torch.where(position < shared[completion_index], 1.0, alpha)
    return segment_sum(logprobs * weight, completion_index, completions)


def pair_logprobs(
    policy: Tensor,
    reference: Tensor,
    completion_index: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    *,
    ld_alpha: float | None = None,
    divergence: Divergence = reverse_kl,
) -> PairLogprobs:
    """Sum token log-probs of policy and reference to P pairs.

    Args:
        policy: (N,) token log-probs of 2P completions.
        reference: (N,) the same under the reference.
        completion_index: (N,) the completion of each token, ascending.
        chosen: (P,) completions.
        rejected: (P,) completions.
        ld_alpha: weight of the tokens of a side behind the length of the shorter one; None for 1.
        divergence: of the log-ratio.
    """
    completions = 2 * len(chosen)
    length = segment_lengths(completion_index, completions)
    shared = None
    if ld_alpha is not None:
        shared = torch.empty_like(length)
        shared[chosen] = shared[rejected] = torch.minimum(length[chosen], length[rejected])
    alpha = 1.0 if ld_alpha is None else ld_alpha
    own, ref = (
        completion_sums(logprobs, completion_index, completions, shared, alpha)
        for logprobs in (policy, reference)
    )
    return PairLogprobs(
        chosen=own[chosen],
        rejected=own[rejected],
        ref_chosen=ref[chosen],
        ref_rejected=ref[rejected],
        chosen_length=length[chosen],
        rejected_length=length[rejected],
        divergence=divergence,
    )


def wpo_weight(
    logprobs: Tensor, log_sum_sq: Tensor, completion_index: Tensor, chosen: Tensor, rejected: Tensor
) -> Tensor:
    """WPO's weight of each pair (arXiv 2406.11827, Eq. 5): how on-policy its two sides are.

    ``exp(mean_t(lp - log sum p^2))`` of both sides multiplied, without gradient.

    Args:
        logprobs: (N,) token log-probs under the policy.
        log_sum_sq: (N,) ``log sum_v p_v^2`` at each token.
        completion_index: (N,) the completion of each token.
        chosen, rejected: (P,) the completions of each pair.

    Returns:
        (P,) weights.
    """
    completions = 2 * len(chosen)
    length = segment_lengths(completion_index, completions)
    mean = segment_sum((logprobs - log_sum_sq).detach(), completion_index, completions) / length
    return (mean[chosen] + mean[rejected]).exp()


def preference_loss(
    pairs: PairLogprobs,
    beta: float,
    terms: Sequence[tuple[float, PairLoss]],
    label: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    processes: Processes = Processes(),
) -> Loss:
    """Weighted sum of pair losses over a batch, and the metrics common to all.

    Args:
        pairs: P pairs.
        beta: strength of the pull to the reference.
        terms: (weight, loss) of each summand; a mix such as MPO (arXiv 2411.10442) is several.
        label: (P,) probability that "chosen" is the better side, or None for certainty. The value
            is the expectation ``p l(pair) + (1 - p) l(swapped pair)``: cDPO for the sigmoid loss.
        weight: (P,) weight of each pair (WPO), or None.
        processes: a loss that compares across pairs sees those of all of them.

    Raises:
        ValueError: soft labels with a loss that compares across the batch.
    """
    comparing = [loss for _, loss in terms if _compares(loss)]
    if comparing and label is not None:
        raise ValueError(
            f"{loss_name(comparing[0])} compares across pairs: it takes no soft labels"
        )
    own = len(pairs.chosen)
    if comparing and processes.size > 1:
        pairs = pairs.of(processes)
        weight = processes.join(weight) if weight is not None else None
    total = torch.zeros_like(pairs.chosen)
    for share, loss in terms:
        value = loss(pairs, beta)
        if label is not None:
            value = label * value + (1 - label) * loss(pairs.swapped(), beta)
        total = total + share * value
    if weight is not None:
        total = total * weight
    mean = total.mean()
    if len(total) != own:  # a mean over this process's pairs would have had this gradient
        mean = mean.detach() + (mean - mean.detach()) * (len(total) / own)
    return Loss(mean, reward_metrics(pairs, beta))


def _compares(loss: PairLoss) -> bool:
    return getattr(getattr(loss, "func", loss), "across_pairs", False)


def reward_metrics(pairs: PairLogprobs, beta: float) -> dict[str, Tensor]:
    """Implicit rewards ``b D`` whatever the divergence; a tie counts as wrong."""
    with torch.no_grad():
        chosen, rejected = beta * pairs.ratio_chosen, beta * pairs.ratio_rejected
        return {
            "rewards/chosen": chosen.mean(),
            "rewards/rejected": rejected.mean(),
            "rewards/accuracies": (chosen > rejected).float().mean(),
            "rewards/margins": (chosen - rejected).mean(),
            "logps/chosen": pairs.chosen.mean(),
            "logps/rejected": pairs.rejected.mean(),
        }


def loss_name(loss: PairLoss) -> str:
    """The name a person knows a loss by, also behind ``functools.partial``."""
    return getattr(getattr(loss, "func", loss), "__name__", type(loss).__name__)
