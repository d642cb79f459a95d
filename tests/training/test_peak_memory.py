"""The peak of memory use, also where the system does not tell."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from lightning_rlhf.training.peak_memory import peak_gib

CPU = torch.device("cpu")


def test_the_peak_holds_what_is_in_memory() -> None:
    tensor = torch.ones(2**26)  # a quarter of a GiB
    assert tensor.nbytes / 2**30 < peak_gib(CPU) < 1024


def test_without_the_unix_module_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, which must be able to import the package."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert math.isnan(peak_gib(CPU))
