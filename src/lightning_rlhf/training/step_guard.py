"""Stop a run before a step from a loss or gradients that are not finite numbers."""

from __future__ import annotations

from pytorch_lightning import Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_rlhf.functional.finite import all_finite


class NotFinite(ValueError):
    """The loss or a gradient is NaN or infinite; the weights are still those of the step before."""


def check_step(trainer: Trainer, optimizer: Optimizer, loss: Tensor | None) -> None:
    """Refuse an optimizer step whose gradients or loss are not finite numbers.

    Gradients are those of all processes, so all stop. The loss is of this one, and is left out
    where there are several. Under fp16 its scaler skips such steps by itself.

    Args:
        trainer: of the run.
        optimizer: about to step.
        loss: of the last batch, detached.

    Raises:
        NotFinite: says which of the two.
    """
    gradients = [] if getattr(trainer.precision_plugin, "scaler", None) else _gradients(optimizer)
    losses = [loss] if loss is not None and trainer.world_size == 1 else []
    if all_finite([*losses, *gradients]):
        return
    what = (
        f"the loss is {float(losses[0])}" if not all_finite(losses) else "a gradient is not finite"
    )
    raise NotFinite(
        f"{what} in step {trainer.global_step + 1}, so the run stops before it and saves no "
        "role: lower lr, give trainer.gradient_clip_val, or look at the rows and rewards of this "
        "batch"
    )


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return [p.grad for p in parameters if p.grad is not None]
