"""Fixtures of the modules' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import Runs


@pytest.fixture
def runs(tiny_base: str, tmp_path: Path) -> Runs:
    """Modules, data and Trainers on the tiny base."""
    return Runs(tiny_base, tmp_path)
