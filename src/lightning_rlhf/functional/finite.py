"""Tell finite weights from NaN and infinite ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


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
