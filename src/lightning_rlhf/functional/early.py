"""Gradients computed before the backward, so that only one autograd graph is alive at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def backward_early(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Compute a loss's gradients now, and return the same number without its graph.

    A sum of losses that share no graph keeps every graph until the backward. Here the gradients of
    one loss (of adapters: small) replace its graph. The backward scales them by the gradient that
    arrives at the loss, so accumulation, clipping and DDP work unchanged.

    Args:
        loss: scalar; its graph is used up.
        parameters: leaves that need a gradient; those the loss does not depend on are left alone.
    """
    if not loss.requires_grad:
        return loss
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    used = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    known: Tensor = _KnownGradients.apply(
        loss.detach(), *(p for p, _ in used), *(g for _, g in used)
    )
    return known


class _KnownGradients(torch.autograd.Function):
    """A number whose gradients are known: its inputs are the parameters, then their gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs[len(inputs) // 2 :])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        gradients = ctx.saved_tensors
        return None, *(g * upstream for g in gradients), *(None for _ in gradients)
