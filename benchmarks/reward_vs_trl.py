"""A reward model beside TRL: pairs, and a ranking of four as TRL must take it, six pairs.

python benchmarks/reward_vs_trl.py [--reps 5] [--device cuda] [--short true] [--write true]
"""

from __future__ import annotations

from versus.harness import Work, command, equal, ragged, sizes

RAGGED = ragged(4, 2, 64)
WORKS = [
    Work("small, pair 1:1: 256 + 2 × 256", "reward", "small", equal(256, 256)),
    Work("small, pair 4:1: 408 + 2 × 104", "reward", "small", equal(408, 104)),
    Work("small, ranking of 4: 256 + 4 × 128", "reward", "small", equal(256, 128, k=4)),
    Work(f"tiny, ragged pairs: {sizes(RAGGED)}", "reward", "tiny", RAGGED),
    Work("small, pair 1:1, checkpointing", "reward", "small", equal(256, 256), checkpointing=True),
]

if __name__ == "__main__":
    command("reward_vs_trl", WORKS, in_short=3, peers=["shipped"])
