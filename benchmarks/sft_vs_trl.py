"""SFT beside TRL, its own packing on and off.

python benchmarks/sft_vs_trl.py [--reps 5] [--device cuda] [--short true] [--write true]
"""

from __future__ import annotations

from jsonargparse import auto_cli
from versus.harness import Device, Work, ragged, run, sizes

TINY, SMALL = ragged(4, 1, 96), ragged(4, 1, 96, seed=1)
WORKS = [
    Work(f"tiny, ragged: {sizes(TINY)}", "sft", "tiny", TINY),
    Work(f"small, ragged: {sizes(SMALL)}", "sft", "small", SMALL),
    Work("small, ragged, checkpointing", "sft", "small", SMALL, checkpointing=True),
]


def main(reps: int = 5, device: Device = "cpu", short: bool = False, write: bool = False) -> None:
    """Measure and print.

    Args:
        reps: rounds; medians are printed.
        device: cuda takes CUDA events and the allocator's peak.
        short: the first two works, two rounds.
        write: put the table into benchmarks/README.md.
    """
    works, reps = (WORKS[:2], 2) if short else (WORKS, reps)
    peers = ["shipped", "compact", "packed", "packed compact"]
    run(works, peers, "sft_vs_trl", reps, device, write)


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
