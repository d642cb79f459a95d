"""A reward model beside TRL: pairs, and a ranking of four as TRL must take it, six pairs.

python benchmarks/reward_vs_trl.py [--reps 5] [--device cuda] [--short true] [--write true]
"""

from __future__ import annotations

from jsonargparse import auto_cli
from versus.harness import Device, Work, equal, ragged, run, sizes

RAGGED = ragged(4, 2, 64)
WORKS = [
    Work("small, pair 1:1: 256 + 2 × 256", "reward", "small", equal(256, 256)),
    Work("small, pair 4:1: 408 + 2 × 104", "reward", "small", equal(408, 104)),
    Work("small, ranking of 4: 256 + 4 × 128", "reward", "small", equal(256, 128, k=4)),
    Work(f"tiny, ragged pairs: {sizes(RAGGED)}", "reward", "tiny", RAGGED),
    Work("small, pair 1:1, checkpointing", "reward", "small", equal(256, 256), checkpointing=True),
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
    run(works, ["shipped"], "reward_vs_trl", reps, device, write)


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
