"""Free memory of a device."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from lightning_rlhf.planning.plan import CUDA_CONTEXT, GIB

MEMINFO = Path("/proc/meminfo")


def free_memory(device: torch.device) -> float:
    """Bytes that a run may use on a device; practically unlimited where the system does not say.

    On a GPU the query itself creates the context, which a plan counts too.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0]) + CUDA_CONTEXT
    match = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text() if MEMINFO.exists() else "")
    return float(match[1]) * 1024 if match else 1e6 * GIB
