"""Gradients taken before the backward, so that two graphs need not wait for it together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def backward_early(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The same number with the same gradients, its graph dropped already.

    A sum of losses that share no graph keeps every one's until the backward. Taken here, one's
    gradients (of adapters: small) wait in its place, and are scaled by whatever the backward
    brings, so that accumulation, clipping and DDP see nothing of it.

    Args:
        loss: scalar; its graph is used up.
        parameters: leaves that want a gradient; those it does not depend on are left alone.
    """
    if not loss.requires_grad:
        return loss
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    used = [(p, g) for p, g in zip(parameters, found, strict=True) if g is not None]
    known: Tensor = _Known.apply(loss.detach(), *(p for p, _ in used), *(g for _, g in used))
    return known


class _Known(torch.autograd.Function):
    """A number whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *both: Tensor) -> Tensor:
        ctx.save_for_backward(*both[len(both) // 2 :])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        gradients = ctx.saved_tensors
        return None, *(g * upstream for g in gradients), *(None for _ in gradients)
