"""Autocast by device: whether it is on, and how to leave it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def autocast_enabled(device: torch.device) -> bool:
    """Tell whether autocast is on; on meta, where a memory plan runs, it never is."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off where dtypes are chosen by hand."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
