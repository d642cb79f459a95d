"""One process with four rows and two with two make the same steps; ``benchmarks/`` has the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ranks import run_ranks
from two_processes import fit_all, result

METHODS = ["SFT", "reward, rankings", "DPO with NLL", "KTO, labels", "PPO", "GRPO", "RLOO"]


@pytest.fixture(scope="module")
def runs(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every method by one process and by two: 4 rows a step, ragged, 8 steps of Adam."""
    folder = tmp_path_factory.mktemp("ranks")

    def whole(processes: int) -> list[dict[str, Any]]:
        return [{"name": m, "base": tiny_base, "saves": f"{m}.{processes}"} for m in METHODS]

    run_ranks(folder, [(1, fit_all, {"runs": whole(1)}), (2, fit_all, {"runs": whole(2)})])
    return folder


def largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_are_one(runs: Path, method: str) -> None:
    one, two = result(runs, f"{method}.1"), result(runs, f"{method}.2")
    assert one["steps"] == two["steps"] == 8
    for alone, shared in zip(one["gradients"], two["gradients"], strict=True):
        assert largest(alone - shared) <= 1e-4 * largest(alone)
    assert largest(one["weights"] - two["weights"]) <= 1e-5
    for alone, shared in zip(one["logged"], two["logged"], strict=True):
        assert alone.keys() == shared.keys()
        same = {n: v for n, v in alone.items() if not n.startswith(("time/", "memory/"))}
        same.pop("value/clipfrac", None)  # whether a value that has not moved is clipped: rounding
        assert {n: shared[n] for n in same} == pytest.approx(same, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_both_processes_hold_the_same(runs: Path, method: str) -> None:
    first, second = result(runs, f"{method}.2", 0), result(runs, f"{method}.2", 1)
    assert torch.equal(first["weights"], second["weights"])
    assert first.get("shaper") == second.get("shaper")
