"""Result of every objective."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Loss(NamedTuple):
    """A scalar to minimize, and metrics to log."""

    value: Tensor  # ()
    metrics: dict[str, Tensor]  # scalars without gradient, by their names in the log
