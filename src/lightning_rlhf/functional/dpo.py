"""Direct preference optimization and its variants: one free function per loss.

Every loss maps ``(pairs, beta)`` to one value per pair; the batch loss is their mean. Extra options
are keyword arguments. ``docs/methods/dpo.md`` names the paper of each and where we differ from TRL.

Notation, as in the docstrings below: ``S`` sum of a completion's token log-probs, ``L`` its length
in tokens, ``D = S - S_ref`` the log-ratio, ``u`` its divergence (``u = D`` for reverse KL), suffix
``c`` chosen and ``r`` rejected, ``d = u_c - u_r``, ``b`` beta, ``ls`` log-sigmoid, ``e`` label
smoothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_rlhf.functional.divergences import MAX_EXPONENT
from lightning_rlhf.functional.pairs import PairLogprobs, across_pairs, reference_free


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
    """``-S_c / mean(L_c)``: its batch mean is the SFT loss of the chosen sides' tokens."""
    return -pairs.chosen / pairs.chosen_length.float().mean()


def sigmoid_norm_loss(pairs: PairLogprobs, beta: float) -> Tensor:
    """``-ls(b (u_c/L_c - u_r/L_r))``: length-normalized DPO (Tulu 3, arXiv 2411.15124)."""
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
