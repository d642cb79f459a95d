"""The peak of memory use."""

from __future__ import annotations

import math
import sys

import torch


def peak_gib(device: torch.device) -> float:
    """Largest memory this process has held, in GiB: of the GPU, or of the machine without one.

    NaN where the system does not tell (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource  # only on Unix
    except ImportError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 2**10  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
