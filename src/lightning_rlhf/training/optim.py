"""The default optimizer and schedule, and the options every method has for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from typing_extensions import Unpack as Unpack
else:

    class Unpack:
        """``Any`` at run time: jsonargparse then reads the options from ``AlignmentModule``.

        Of a TypedDict it would know neither defaults nor docs.
        """

        def __class_getitem__(cls, options: Any) -> Any:
            return Any


class OptimizerOptions(TypedDict, total=False):
    """Options that methods hand on to ``AlignmentModule``, for type checks; documented there."""

    warmup: float
    optimizer: OptimizerCallable | None
    lr_scheduler: LRSchedulerCallable | None


def fused_adamw(params: Iterable[Any], lr: float, eps: float = 1e-8) -> Optimizer:
    """Torch's fused AdamW without weight decay, which Lightning can clip under bf16-mixed.

    Fused optimizers declare that they unscale gradients themselves. Lightning then refuses to clip,
    with or without a gradient scaler.
    """
    optimizer = AdamW(params, lr=lr, weight_decay=0.0, eps=eps, fused=True)
    optimizer._step_supports_amp_scaling = False
    return optimizer


def warmup_cosine(optimizer: Optimizer, steps: float, warmup: float) -> LambdaLR:
    """Linear warm-up over a share of the run, then a cosine to 0; constant for an infinite run."""
    rise = max(1.0, warmup * steps) if steps != float("inf") else 100.0

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise if rise > 1 else 1.0
        if steps == float("inf"):
            return 1.0
        progress = min(1.0, (step - rise) / max(1.0, steps - rise))
        return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * progress))))

    return LambdaLR(optimizer, factor)


def planned_steps(trainer: Trainer) -> float:
    """Number of optimizer steps of a fit; infinite where nothing ends it.

    ``estimated_stepping_batches`` builds the train loader before a checkpoint has restored its
    position. Lightning then reuses it, so a resumed epoch would start over. Clearing
    ``_combined_loader`` makes Lightning build it again.
    """
    steps = trainer.estimated_stepping_batches
    trainer.fit_loop._combined_loader = None
    return steps
