"""Are two processes one? Every method, 1 process x 4 rows beside 2 x 2, over gloo on a CPU.

    python benchmarks/two_processes.py [--write true]

The rows are ragged: one token or a dozen. Eight steps of Adam at a constant peak of 5e-3, LoRA r 4,
fp32. Online methods draw completions by a script: they depend on the prompt, not on the process.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from versus.harness import between

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from bases import write_tiny_base  # noqa: E402
from rank_runs import CASES, SAVED, SAVED_ONLINE, STEPS, fit_all, result  # noqa: E402
from ranks import run_ranks  # noqa: E402

ONLINE = {"ppo", "grpo", "rloo"}
EPS = {"1e-5": 1e-5, "1e-8": 1e-8}  # Adam's
COLUMNS = (
    "method", *(f"weights, eps {eps}" for eps in EPS), "gradients", "between ranks",
    "2 to 2", "1 to 2", "2 to 1", "gathered a step", "gradients, KiB",
)  # fmt: skip


def main(write: bool = False) -> None:
    """Run all cases, and print the table.

    Args:
        write: it into benchmarks/README.md.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = write_tiny_base(folder / "base")
        run_ranks(folder, [(n, fit_all, {"runs": list(runs(n, base))}) for n in (1, 2)], 1500)
        again = [(n, fit_all, {"runs": list(resumed(n, base))}) for n in (1, 2)]
        run_ranks(folder, again, 1500)
        rows = [row(folder, case) for case in CASES]
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    print(table)
    if write:
        readme = ROOT / "benchmarks/README.md"
        readme.write_text(between(readme.read_text(), "two_processes", table))


def runs(processes: int, base: str) -> Iterator[dict[str, Any]]:
    """Every case from its start."""
    for case in CASES:
        for name, eps in EPS.items():
            yield {"name": case, "base": base, "eps": eps, "saves": f"{case}.{processes}.{name}"}


def resumed(now: int, base: str) -> Iterator[dict[str, Any]]:
    """Every case from a checkpoint, of another number of processes where its rows are fixed."""
    for case, about in CASES.items():
        online = about.method in ONLINE
        for before in (1, 2):
            if before == now == 1 or (before != now and online):
                continue
            step = SAVED_ONLINE if online else SAVED
            yield {
                "name": case, "base": base, "saves": f"{case}.{before}.{now}",
                "resume": f"{case}.{before}.1e-5/step={step}.ckpt",
            }  # fmt: skip


def row(folder: Path, case: str) -> tuple[str, ...]:
    """A line of the table."""
    ends = {n: result(folder, f"{case}.{n}.1e-5") for n in (1, 2)}
    gaps = [largest(result(folder, f"{case}.1.{e}"), result(folder, f"{case}.2.{e}")) for e in EPS]
    other = result(folder, f"{case}.2.1e-5", rank=1)
    pairs = zip(ends[1]["gradients"], ends[2]["gradients"], strict=True)
    gradients = max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) for a, b in pairs)
    changes = []
    for before, now in ((2, 2), (1, 2), (2, 1)):
        if before != now and CASES[case].method in ONLINE:
            changes.append("refused")
            continue
        gap = largest(ends[before], result(folder, f"{case}.{before}.{now}"))
        changes.append("same bits" if gap == 0 else f"{gap:.0e}")
    sent = ends[2]["sent"]
    gathered = f"{len(sent) / STEPS:.1f} x {sum(sent) / max(1, len(sent)):.0f} B"
    kib = 4 * len(ends[2]["weights"]) / 2**10
    return (
        case, *(f"{gap:.1e}" for gap in gaps), f"{gradients:.0e}", f"{largest(ends[2], other):.0f}",
        *changes, gathered, f"{kib:.0f}",
    )  # fmt: skip


def largest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest difference of two runs' weights, which must have made all their steps."""
    assert one["steps"] == other["steps"] == STEPS
    difference: torch.Tensor = one["weights"] - other["weights"]
    return float(difference.abs().max())


if __name__ == "__main__":
    auto_cli(main)
