"""Stop a run whose loss, gradients or weights are not finite numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.optim import Optimizer


def refuse_nan(weights: Mapping[str, object], name: str, fix: str) -> None:
    """Refuse weights that are NaN or infinite.

    Args:
        weights: a state dict.
        name: what holds them.
        fix: what to do.

    Raises:
        ValueError: names the first tensor.
    """
    floats = {
        key: value
        for key, value in weights.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not value.is_meta
    }
    if not all_finite(list(floats.values())):
        wrong = next(key for key, value in floats.items() if not all_finite([value]))
        raise ValueError(f"{name} holds NaN or infinite weights, first in {wrong!r}: {fix}")


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Tell whether every entry is a finite number; waits for the device once.

    Norms are finite where all entries are, unless they overflow, so entries are read only then.
    """
    if not tensors:
        return True
    halves = [t for t in tensors if t.dtype in (torch.float16, torch.bfloat16)]
    wider = [t for t in tensors if t.dtype not in (torch.float16, torch.bfloat16)]
    norms = list(torch._foreach_norm(wider)) if wider else []
    norms += torch._foreach_norm(halves, dtype=torch.float32) if halves else []
    device = norms[0].device
    total = torch.stack([norm.to(device, torch.float32) for norm in norms])
    return bool(total.isfinite().all()) or all(bool(t.isfinite().all()) for t in tensors)


def check_step(trainer: Trainer, optimizer: Optimizer, loss: Tensor | None) -> None:
    """Refuse an optimizer step whose gradients or loss are not finite numbers.

    Both are those of all processes, so all stop. Under fp16 its scaler skips such steps by itself.

    Args:
        trainer: of the run.
        optimizer: about to step.
        loss: of the last batch in all processes, detached.

    Raises:
        ValueError: says which of the two; the weights are still those of the step before.
    """
    gradients = [] if getattr(trainer.precision_plugin, "scaler", None) else _gradients(optimizer)
    losses = [loss] if loss is not None else []
    if all_finite([*losses, *gradients]):
        return
    what = (
        f"the loss is {float(losses[0])}" if not all_finite(losses) else "a gradient is not finite"
    )
    raise ValueError(
        f"{what} in step {trainer.global_step + 1}, so the run stops before it: the weights are "
        "still those of the step before, and no role is saved; lower lr, give "
        "trainer.gradient_clip_val, or look at the rows and rewards of this batch"
    )


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return [p.grad for p in parameters if p.grad is not None]
