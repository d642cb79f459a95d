"""Parts that both sides of a comparison share: weights by name, and the measurement of one step.

This file imports only torch: each side runs it in an environment of its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STATUS = Path("/proc/self/status")
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "gemm")
ATTENTION = ("scaled_dot_product", "flash")


def fill(named: Iterable[tuple[str, Tensor]]) -> list[Tensor]:
    """Give parameters weights that follow from their names, the same on every side."""
    filled = []
    for name, parameter in named:
        plain = re.sub(r"^base_model\.model\.|\.(default|policy|reward)(?=\.)", "", name)
        generator = torch.Generator().manual_seed(zlib.crc32(plain.encode()))
        with torch.no_grad():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        filled.append(parameter)
    return filled


def autocast(work: dict[str, Any]) -> AbstractContextManager:
    """Return a bf16 context where the base is bf16; adapters are fp32 on every side."""
    if work["dtype"] == "float32":
        return nullcontext()
    return torch.autocast(work["device"], dtype=torch.bfloat16)


def optimizer(
    parameters: list[Tensor], lr: float = 1e-5, eps: float = 1e-8
) -> torch.optim.Optimizer:
    """Make the optimizer, the same on every side."""
    return torch.optim.AdamW(parameters, lr=lr, eps=eps, weight_decay=0.0, fused=True)


def serve(
    step: Callable[[], float | dict[str, float]],
    device: str,
    static: Callable[[], float] | None = None,
) -> None:
    """Answer "step", "static" and "profile" on standard input, a line of JSON each.

    Args:
        step: returns its loss, or figures to report beside the measured ones.
        device: cuda is measured by its own clock.
        static: returns the MiB held between steps.
    """
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints is not an answer
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "static":
            assert static is not None
            figures = {"static": static()}
        else:
            figures = _profiled(step) if line.strip() == "profile" else _measured(step, device)
        print(json.dumps(figures), file=answers, flush=True)


def _measured(step: Callable[[], float | dict[str, float]], device: str) -> dict[str, float]:
    if device == "cuda":
        return _measured_on_cuda(step)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    cpu, wall = os.times(), time.perf_counter()
    result = step()
    seconds, after = time.perf_counter() - wall, os.times()
    return {
        **_figures(result),
        "seconds": after.user + after.system - cpu.user - cpu.system,
        "wall": seconds,
        "peak": mib("VmHWM") - before,
        "top": mib("VmHWM"),
    }


def _measured_on_cuda(step: Callable[[], float | dict[str, float]]) -> dict[str, float]:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    wall = time.perf_counter()
    start.record()
    result = step()
    end.record()
    torch.cuda.synchronize()
    return {
        **_figures(result),
        "seconds": start.elapsed_time(end) / 1000,
        "wall": time.perf_counter() - wall,
        "peak": (torch.cuda.max_memory_allocated() - before) / 2**20,
        "top": torch.cuda.max_memory_allocated() / 2**20,
    }


def _figures(result: float | dict[str, float]) -> dict[str, float]:
    return result if isinstance(result, dict) else {"loss": result}


def mib(field: str) -> float:
    """Return a memory field of this process, as the kernel counts it."""
    found = re.search(field + r":\s+(\d+)", STATUS.read_text())
    assert found is not None
    return int(found[1]) / 1024


def _profiled(step: Callable[[], float | dict[str, float]]) -> dict[str, float]:
    """Return the shares of a step's time in matrix products and in attention."""
    with torch.profiler.profile() as profile:
        step()
    events = [(e.key, max(e.self_cpu_time_total, e.self_device_time_total))
              for e in profile.key_averages()]  # fmt: skip
    total = sum(time for _, time in events)
    attention = sum(time for key, time in events if any(a in key for a in ATTENTION))
    products = sum(time for key, time in events if any(p in key for p in PRODUCTS))
    return {"products": products / total, "attention": attention / total}


def load() -> dict[str, Any]:
    """Read the work named on the command line; use one thread, so that CPU seconds compare."""
    work = json.loads(Path(sys.argv[1]).read_text())
    if work["device"] == "cpu":
        torch.set_num_threads(1)
    return work
