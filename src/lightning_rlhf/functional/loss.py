"""What every objective returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Loss(NamedTuple):
    """A scalar to minimise, and what to log beside it."""

    value: Tensor  # ()
    metrics: dict[str, Tensor]  # scalars without gradient, by their names in the log
