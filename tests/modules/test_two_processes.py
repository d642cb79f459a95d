"""One process with four rows and two with two make the same steps; ``benchmarks/`` has the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ranks import run_ranks
from two_processes import fit_all, result

METHODS = ["SFT", "reward, rankings", "DPO with NLL", "KTO, labels", "PPO", "GRPO", "RLOO"]

ONLINE = ["PPO", "GRPO", "RLOO"]


@pytest.fixture(scope="module")
def runs(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every method by one process and by two: 4 rows a step, ragged, 8 steps of Adam."""
    folder = tmp_path_factory.mktemp("ranks")

    def whole(processes: int) -> list[dict[str, Any]]:
        return [{"name": m, "base": tiny_base, "saves": f"{m}.{processes}"} for m in METHODS]

    def resumed(by: int, after: int, step: int) -> list[dict[str, Any]]:
        return [
            {
                **run,
                "saves": f"{by} to {after}, {run['name']}",
                "resume": f"{run['saves']}/step={step}.ckpt",
            }
            for run in whole(by)
            if by == after or run["name"] not in ONLINE
        ]

    legs = [
        (1, whole(1)),
        (2, [*whole(2), *resumed(2, 2, 3), *resumed(1, 2, 6)]),
        (1, resumed(2, 1, 6)),
    ]
    run_ranks(folder, [(processes, fit_all, {"runs": runs}) for processes, runs in legs])
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


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_resume_to_the_same_bits(runs: Path, method: str, rank: int) -> None:
    whole, resumed = result(runs, f"{method}.2", rank), result(runs, f"2 to 2, {method}", rank)
    assert torch.equal(whole["weights"], resumed["weights"])
    assert torch.equal(whole["gradients"][3:], resumed["gradients"])
    assert whole.get("shaper") == resumed.get("shaper")


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("method", [m for m in METHODS if m not in ONLINE])
def test_another_number_of_processes_goes_on(
    runs: Path, method: str, before: int, now: int
) -> None:
    whole, resumed = (
        result(runs, f"{method}.{before}"),
        result(runs, f"{before} to {now}, {method}"),
    )
    assert resumed["steps"] == whole["steps"] == 8
    assert largest(whole["weights"] - resumed["weights"]) <= 1e-5
    for alone, shared in zip(whole["gradients"][6:], resumed["gradients"], strict=True):
        assert largest(alone - shared) <= 1e-4 * largest(alone)
