"""Stop a run before a step from a loss or gradients that are not finite numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pytorch_lightning import Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_rlhf.functional.finite import all_finite
from lightning_rlhf.functional.memory import is_out_of_memory


class NotFinite(ValueError):
    """The loss or a gradient is NaN or infinite; the weights are still those of the step before."""


def check_step(trainer: Trainer, optimizer: Optimizer, loss: Tensor | None) -> None:
    """Refuse an optimizer step whose gradients or loss are not finite numbers.

    Both are those of all processes, so all stop. Under fp16 its scaler skips such steps by itself.

    Args:
        trainer: of the run.
        optimizer: about to step.
        loss: of the last batch in all processes, detached.

    Raises:
        NotFinite: says which of the two.
    """
    gradients = [] if getattr(trainer.precision_plugin, "scaler", None) else _gradients(optimizer)
    losses = [loss] if loss is not None else []
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


@contextmanager
def explaining_memory(trainer: Trainer) -> Iterator[None]:
    """Name what makes a step smaller where memory runs out in it.

    Raises:
        ValueError: memory has run out.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"memory ran out in step {trainer.global_step + 1}: {smaller(trainer)}"
        ) from error


def smaller(trainer: Trainer) -> str:
    """Name the settings that halve a step's memory."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    tokens, rows = getattr(data, "max_tokens", None), getattr(data, "batch_size", None)
    if tokens is not None:
        fix = f"give data.max_tokens={tokens // 2}"
    elif rows is not None and rows > 1:
        batches = 2 * trainer.accumulate_grad_batches
        fix = (
            f"give data.batch_size={rows // 2} and trainer.accumulate_grad_batches={batches}, "
            "which is the same step in two halves"
        )
    else:
        fix = "give a smaller data.max_length"
    return f"{fix}, or gradient_checkpointing; `lightning-rlhf plan` says what else makes room"
