"""What memory there is."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from lightning_rlhf.planning.plan import CUDA_CONTEXT, GIB

MEMINFO = Path("/proc/meminfo")


def free_memory(device: torch.device) -> float:
    """Bytes for a run on a device; where nobody says, as good as endless.

    On a GPU the question itself makes the context, which a plan counts too.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0]) + CUDA_CONTEXT
    found = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text() if MEMINFO.exists() else "")
    return float(found[1]) * 1024 if found else 1e6 * GIB
