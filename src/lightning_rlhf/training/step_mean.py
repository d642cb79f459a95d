"""One mean over all batches that a Trainer accumulates for a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.nn import Parameter


class StepMean:
    """Make the gradient of accumulated batches that of one mean over all their things.

    A Trainer averages the batches of a step, whether they hold few things (tokens, rows) or many.
    How many are still to come is not known when a batch is there. So each loss is weighed against
    the step's first batch, and the sum of the gradients is brought to scale before the step.
    """

    def __init__(self) -> None:
        self._first: Tensor | float | None = None  # count of the step's first batch
        self._total: Tensor | float = 0.0

    def weigh(self, loss: Tensor, count: Tensor | float) -> Tensor:
        """Weigh a batch's loss, which is a mean over ``count`` things."""
        if self._first is None:
            self._first = count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
        self._total = self._total + count
        weight = count / self._first
        return loss * (weight.to(loss.dtype) if isinstance(weight, Tensor) else weight)

    def bring_to_scale(self, parameters: Iterable[Parameter], batches: int) -> None:
        """Correct the gradients of a step and forget its batches.

        Args:
            parameters: those with a gradient; without any batch they lose it.
            batches: by how many the Trainer divided, more than there were at an epoch's end.
        """
        first, total = self._first, self._total
        self.reset()
        for parameter in parameters:
            if first is None:
                parameter.grad = None
            elif batches > 1 and parameter.grad is not None:
                parameter.grad.mul_(batches * first / (total if total else 1))

    def reset(self) -> None:
        """Forget batches whose step was never made."""
        self._first, self._total = None, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds of a step that is still accumulated."""
        return {"first": self._first, "total": self._total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a step."""
        self._first, self._total = state["first"], state["total"]
