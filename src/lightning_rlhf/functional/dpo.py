"""Direct preference optimization and its kin: one free function per loss.

Every loss maps ``(pairs, beta)`` to one value per pair; the batch loss is their mean. Extra options
are keyword arguments. ``docs/methods/dpo.md`` names the paper of each and where we differ from TRL.

Notation, as in the docstrings below: ``S`` sum of a completion's token log-probs, ``L`` its length
in tokens, ``D = S - S_ref`` the log-ratio, ``u`` its divergence (``u = D`` for reverse KL), suffix
``c`` chosen and ``r`` rejected, ``d = u_c - u_r``, ``b`` beta, ``ls`` log-sigmoid, ``e`` label
smoothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.masking import segment_lengths, segment_sum

MAX_EXPONENT = 80.0  # exp(80) is near the largest fp32
Divergence = Callable[[Tensor], Tensor]


# ---- divergences: log-ratio D -> u (f-DPO, arXiv 2309.16240) ----


def reverse_kl(log_ratio: Tensor) -> Tensor:
    """``u = D``: the DPO paper's choice."""
    return log_ratio


def forward_kl(log_ratio: Tensor) -> Tensor:
    """``u = 1 - exp(-D)``."""
    return 1 - (-log_ratio).clamp(max=MAX_EXPONENT).exp()


def jensen_shannon(log_ratio: Tensor) -> Tensor:
    """``u = log 2 + ls(D)``."""
    return math.log(2) + F.logsigmoid(log_ratio)


class AlphaDivergence:
    """``u = (exp((a - 1) D) - 1) / (a - 1)``; ``a = 1`` is its limit, reverse KL."""

    def __init__(self, alpha: float = 0.5):
        self.alpha = alpha

    def __call__(self, log_ratio: Tensor) -> Tensor:
        k = self.alpha - 1
        if k == 0:
            return log_ratio
        return torch.expm1((k * log_ratio).clamp(max=MAX_EXPONENT)) / k


class PairLogprobs(NamedTuple):
    """What a pair loss may look at: log-probs of P pairs, summed over the completion's tokens."""

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
        """The same pairs with the sides exchanged: what a wrong label would have said."""
        return self._replace(
            chosen=self.rejected,
            rejected=self.chosen,
            ref_chosen=self.ref_rejected,
            ref_rejected=self.ref_chosen,
            chosen_length=self.rejected_length,
            rejected_length=self.chosen_length,
        )


PairLoss = Callable[..., Tensor]  # (PairLogprobs, beta, **options) -> (P,)
L = TypeVar("L", bound=PairLoss)


def reference_free(loss: L) -> L:
    """Mark a loss that never looks at the reference: its module then computes none."""
    loss.reference_free = True  # type: ignore[attr-defined]
    return loss


def across_pairs(loss: L) -> L:
    """Mark a loss whose value for one pair depends on the rest of the batch."""
    loss.across_pairs = True  # type: ignore[attr-defined]
    return loss


# ---- losses ----


def dpo_loss(pairs: PairLogprobs, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """``-(1-e) ls(b d) - e ls(-b d)``: DPO (arXiv 2305.18290, Eq. 7), cDPO where e > 0."""
    x = beta * pairs.delta
    return -(1 - label_smoothing) * F.logsigmoid(x) - label_smoothing * F.logsigmoid(-x)


def hinge_loss(pairs: PairLogprobs, beta: float) -> Tensor:
    """``relu(1 - b d)``: SLiC (arXiv 2305.10425) on the DPO reward."""
    return F.relu(1 - beta * pairs.delta)


def ipo_loss(pairs: PairLogprobs, beta: float) -> Tensor:
    """``(u_c/L_c - u_r/L_r - 1/(2b))^2``: IPO (arXiv 2310.12036, Eq. 17), averaged over tokens."""
    x = pairs.u_chosen / pairs.chosen_length - pairs.u_rejected / pairs.rejected_length
    return (x - 1 / (2 * beta)) ** 2


def exo_pair_loss(pairs: PairLogprobs, beta: float, label_smoothing: float = 1e-3) -> Tensor:
    """``s(bd)(ls(bd) - log(1-e)) + s(-bd)(ls(-bd) - log e)``: EXO (arXiv 2402.00856, Eq. 16)."""
    if not 0 < label_smoothing < 1:
        raise ValueError(f"exo_pair_loss needs label_smoothing in (0, 1), got {label_smoothing}")
    x = beta * pairs.delta
    won = x.sigmoid() * (F.logsigmoid(x) - math.log(1 - label_smoothing))
    lost = (-x).sigmoid() * (F.logsigmoid(-x) - math.log(label_smoothing))
    return won + lost


def nca_pair_loss(pairs: PairLogprobs, beta: float) -> Tensor:
    """``-ls(b D_c) - (ls(-b D_c) + ls(-b D_r)) / 2``: NCA (arXiv 2402.05369)."""
    chosen, rejected = beta * pairs.ratio_chosen, beta * pairs.ratio_rejected
    return -F.logsigmoid(chosen) - 0.5 * (F.logsigmoid(-chosen) + F.logsigmoid(-rejected))


def robust_loss(pairs: PairLogprobs, beta: float, label_smoothing: float = 0.1) -> Tensor:
    """``[-(1-e) ls(bd) + e ls(-bd)] / (1-2e)``: unbiased under flip rate e (arXiv 2403.00409)."""
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"robust_loss needs label_smoothing in [0, 0.5), got {label_smoothing}")
    x, e = beta * pairs.delta, label_smoothing
    return (-(1 - e) * F.logsigmoid(x) + e * F.logsigmoid(-x)) / (1 - 2 * e)


def bco_pair_loss(pairs: PairLogprobs, beta: float) -> Tensor:
    """``-ls(b D_c) - ls(-b D_r)``: BCO (arXiv 2404.04656) without its reward shift."""
    return -F.logsigmoid(beta * pairs.ratio_chosen) - F.logsigmoid(-beta * pairs.ratio_rejected)


def sppo_hard_loss(pairs: PairLogprobs, beta: float) -> Tensor:
    """``(D_c - 1/(2b))^2 + (D_r + 1/(2b))^2``: SPPO with hard labels (arXiv 2405.00675)."""
    target = 1 / (2 * beta)
    return (pairs.ratio_chosen - target) ** 2 + (pairs.ratio_rejected + target) ** 2


@across_pairs
def aot_loss(pairs: PairLogprobs, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """cDPO on ``q = sort(S_c - S_r) - sort(Sref_c - Sref_r)``: AOT, paired (arXiv 2406.05882)."""
    policy = (pairs.chosen - pairs.rejected).sort().values
    reference = (pairs.ref_chosen - pairs.ref_rejected).sort().values
    x = beta * (policy - reference)
    return -(1 - label_smoothing) * F.logsigmoid(x) - label_smoothing * F.logsigmoid(-x)


@across_pairs
def aot_unpaired_loss(pairs: PairLogprobs, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """cDPO on ``q = sort(D_c) - sort(D_r)``: AOT, unpaired (arXiv 2406.05882)."""
    x = beta * (pairs.ratio_chosen.sort().values - pairs.ratio_rejected.sort().values)
    return -(1 - label_smoothing) * F.logsigmoid(x) - label_smoothing * F.logsigmoid(-x)


def apo_zero_loss(pairs: PairLogprobs, beta: float) -> Tensor:
    """``1 - s(b D_c) + s(b D_r)``: chosen up, rejected down (APO, arXiv 2408.06266)."""
    return 1 - (beta * pairs.ratio_chosen).sigmoid() + (beta * pairs.ratio_rejected).sigmoid()


def apo_down_loss(pairs: PairLogprobs, beta: float) -> Tensor:
    """``s(b D_c) + 1 - s(b(D_c - D_r))``: both down, rejected more (APO, arXiv 2408.06266)."""
    ratio = pairs.ratio_chosen - pairs.ratio_rejected
    return (beta * pairs.ratio_chosen).sigmoid() + 1 - (beta * ratio).sigmoid()


def discopop_loss(pairs: PairLogprobs, beta: float, tau: float = 0.05) -> Tensor:
    """``(1-m)(-ls x) + m e^-x`` with ``x = b d``, ``m = s(x/tau)``: DiscoPOP (arXiv 2406.08414)."""
    x = beta * pairs.delta
    gate = (x / tau).sigmoid()
    return (1 - gate) * -F.logsigmoid(x) + gate * (-x).clamp(max=MAX_EXPONENT).exp()


@reference_free
@across_pairs
def chosen_nll_loss(pairs: PairLogprobs, beta: float) -> Tensor:
    """``-S_c / mean(L_c)``: its batch mean is the SFT loss of the chosen side, a token a vote."""
    return -pairs.chosen / pairs.chosen_length.float().mean()


def sigmoid_norm_loss(pairs: PairLogprobs, beta: float) -> Tensor:
    """``-ls(b (u_c/L_c - u_r/L_r))``: length-normalised DPO (Tulu 3, arXiv 2411.15124)."""
    x = pairs.u_chosen / pairs.chosen_length - pairs.u_rejected / pairs.rejected_length
    return -F.logsigmoid(beta * x)


@reference_free
def simpo_loss(pairs: PairLogprobs, beta: float, gamma: float = 0.5) -> Tensor:
    """``-ls(b (S_c/L_c - S_r/L_r) - gamma)``: SimPO (arXiv 2405.14734, Eq. 6); beta near 2."""
    x = pairs.chosen / pairs.chosen_length - pairs.rejected / pairs.rejected_length
    return -F.logsigmoid(beta * x - gamma)


@reference_free
def orpo_loss(pairs: PairLogprobs, beta: float) -> Tensor:
    """``-S_c/L_c - b ls(log odds_c - log odds_r)``, odds of the length-averaged probabilities.

    ORPO (arXiv 2403.07691, Eq. 6); its lambda is our beta.
    """
    chosen, rejected = (
        pairs.chosen / pairs.chosen_length,
        pairs.rejected / pairs.rejected_length,
    )
    # log odds = log p - log(1 - p), with 1 - p kept off zero for a certain completion
    log_odds = (chosen - rejected) - (
        torch.log(-torch.expm1(chosen.clamp(max=-1e-6)))
        - torch.log(-torch.expm1(rejected.clamp(max=-1e-6)))
    )
    return -chosen - beta * F.logsigmoid(log_odds)


# ---- from tokens to pairs, from pairs to one loss ----


def completion_sums(
    logprobs: Tensor, sequence: Tensor, sequences: int, shared: Tensor | None, alpha: float
) -> Tensor:
    """Sum token log-probs per completion; LD-DPO (arXiv 2409.06411) weighs a longer side's tail.

    Args:
        logprobs: (N,) of the completions' tokens, in order.
        sequence: (N,) the completion of each token, ascending.
        sequences: C, how many completions.
        shared: (C,) how many leading tokens count in full, the shorter length of the pair; None
            for plain sums.
        alpha: weight of the tokens after them.

    Returns:
        (C,) sums ``S_shared + alpha * S_tail``.
    """
    if shared is None:
        return segment_sum(logprobs, sequence, sequences)
    length = segment_lengths(sequence, sequences)
    start = length.cumsum(0) - length
    place = torch.arange(len(sequence), device=sequence.device) - start[sequence]
    weight = torch.where(place < shared[sequence], 1.0, alpha)
    return segment_sum(logprobs * weight, sequence, sequences)


def wpo_weight(
    logprobs: Tensor, log_sum_sq: Tensor, sequence: Tensor, chosen: Tensor, rejected: Tensor
) -> Tensor:
    """WPO's weight of each pair (arXiv 2406.11827, Eq. 5): how on-policy its two sides are.

    ``exp(mean_t(lp - log sum p^2))`` of both sides multiplied, without gradient.

    Args:
        logprobs: (N,) token log-probs under the policy.
        log_sum_sq: (N,) ``log sum_v p_v^2`` at each token.
        sequence: (N,) the completion of each token.
        chosen, rejected: (P,) the completions of each pair.

    Returns:
        (P,) weights.
    """
    sequences = int(2 * len(chosen))
    length = segment_lengths(sequence, sequences)
    mean = segment_sum((logprobs - log_sum_sq).detach(), sequence, sequences) / length
    return (mean[chosen] + mean[rejected]).exp()


def preference_loss(
    pairs: PairLogprobs,
    beta: float,
    terms: Sequence[tuple[float, PairLoss]],
    label: Tensor | None = None,
    weight: Tensor | None = None,
) -> Loss:
    """Weighted sum of pair losses over a batch, and the metrics every one of them shares.

    Args:
        pairs: P pairs.
        beta: strength of the pull to the reference.
        terms: (weight, loss) of each summand; a mix such as MPO (arXiv 2411.10442) is several.
        label: (P,) probability that "chosen" is the better side, or None for certainty. The value
            is the expectation ``p l(pair) + (1 - p) l(swapped pair)``: cDPO for the sigmoid loss.
        weight: (P,) weight of each pair (WPO), or None.

    Raises:
        ValueError: soft labels or weights with a loss that mixes pairs across the batch.
    """
    total = torch.zeros_like(pairs.chosen)
    for share, loss in terms:
        value = loss(pairs, beta)
        if label is not None:
            if getattr(loss, "across_pairs", False):
                raise ValueError(
                    f"{loss_name(loss)} compares across pairs: it takes no soft labels"
                )
            value = label * value + (1 - label) * loss(pairs.swapped(), beta)
        total = total + share * value
    if weight is not None:
        total = total * weight
    return Loss(total.mean(), reward_metrics(pairs, beta))


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
