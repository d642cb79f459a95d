"""SFT beside TRL, its own packing on and off.

python benchmarks/sft_vs_trl.py [--reps 5] [--device cuda] [--short true] [--write true]
"""

from __future__ import annotations

from versus.harness import Work, command, ragged, sizes

TINY, SMALL = ragged(4, 1, 96), ragged(4, 1, 96, seed=1)
WORKS = [
    Work(f"tiny, ragged: {sizes(TINY)}", "sft", "tiny", TINY),
    Work(f"small, ragged: {sizes(SMALL)}", "sft", "small", SMALL),
    Work("small, ragged, checkpointing", "sft", "small", SMALL, checkpointing=True),
]

if __name__ == "__main__":
    command(
        "sft_vs_trl", WORKS, in_short=2, peers=["shipped", "compact", "packed", "packed compact"]
    )
