"""Divergences of f-DPO (arXiv 2309.16240): functions of a completion's log-ratio D."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_EXPONENT = 80.0  # exp(80) is near the largest fp32
Divergence = Callable[[Tensor], Tensor]  # log-ratio D -> u


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
