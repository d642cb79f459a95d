"""Tell that memory has run out, and give back what torch keeps of it."""

from __future__ import annotations

import gc

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """True for the errors of torch's allocators, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in said or "can't allocate memory" in said
    )


def free_cached_memory() -> None:
    """Give back what torch's allocator keeps, after the error that held it is gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
