"""DPO beside TRL: seconds, memory and ratios on the same model, rows and loss.

python benchmarks/dpo_vs_trl.py [--reps 5] [--device cuda] [--short true] [--write true]
"""

from __future__ import annotations

from jsonargparse import auto_cli
from versus.harness import Device, Work, equal, ragged, run, sizes

RAGGED = ragged(4, 2, 64)
WORKS = [
    Work("small, 1:1: 256 + 2 × 256", "dpo", "small", equal(256, 256)),
    Work("small, 4:1: 408 + 2 × 104", "dpo", "small", equal(408, 104)),
    Work(f"tiny, ragged: {sizes(RAGGED)}", "dpo", "tiny", RAGGED),
    Work("tiny, 1:1: 2 × (256 + 2 × 256)", "dpo", "tiny", equal(256, 256, rows=2)),
    Work("small, 1:1, checkpointing", "dpo", "small", equal(256, 256), checkpointing=True),
    Work("small, 4:1, checkpointing", "dpo", "small", equal(408, 104), checkpointing=True),
]


def main(reps: int = 5, device: Device = "cpu", short: bool = False, write: bool = False) -> None:
    """Measure and print.

    Args:
        reps: rounds; medians are printed.
        device: cuda takes CUDA events and the allocator's peak.
        short: the first three works, two rounds.
        write: put the table into benchmarks/README.md.
    """
    works, reps = (WORKS[:3], 2) if short else (WORKS, reps)
    run(works, ["shipped", "compact"], "dpo_vs_trl", reps, device, write)


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
