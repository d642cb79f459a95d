"""DPO beside TRL: seconds, memory and ratios on the same model, rows and loss.

python benchmarks/dpo_vs_trl.py [--reps 5] [--device cuda] [--short true] [--write true]
"""

from __future__ import annotations

from versus.harness import Work, command, equal, ragged, sizes

RAGGED = ragged(4, 2, 64)
WORKS = [
    Work("small, 1:1: 256 + 2 × 256", "dpo", "small", equal(256, 256)),
    Work("small, 4:1: 408 + 2 × 104", "dpo", "small", equal(408, 104)),
    Work(f"tiny, ragged: {sizes(RAGGED)}", "dpo", "tiny", RAGGED),
    Work("tiny, 1:1: 2 × (256 + 2 × 256)", "dpo", "tiny", equal(256, 256, rows=2)),
    Work("small, 1:1, checkpointing", "dpo", "small", equal(256, 256), checkpointing=True),
    Work("small, 4:1, checkpointing", "dpo", "small", equal(408, 104), checkpointing=True),
]

if __name__ == "__main__":
    command("dpo_vs_trl", WORKS, in_short=3, peers=["shipped", "compact"])
