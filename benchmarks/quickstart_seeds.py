"""Run the quickstart over several seeds of world, model and training, and write its table.

    python benchmarks/quickstart_seeds.py [--seeds 5]

Every figure is from held-out combinations of task and manner, sampled at temperature 1. Writes the
table into benchmarks/README.md and README.md, between the markers.
"""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean

from jsonargparse import auto_cli

from lightning_rlhf.cli.main import quiet
from lightning_rlhf.cli.quickstart import quickstart

ROOT = Path(__file__).parents[1]
POLICIES = {"sft": "SFT", "dpo": "DPO", "ppo": "PPO", "cai": "CAI", "cai_dpo": "CAI + DPO"}
SHOWN = {
    "fully_good": "fully good",
    "oracle_score": "oracle score",
    "harmful_compliance": "harmful compliance",
    "over_refusal": "over-refusal",
    "eos_share": "EOS share",
    "kl": "KL, nats",
    "learnt_reward": "learnt reward",
}
MARKER = "<!-- quickstart table: benchmarks/quickstart_seeds.py -->"


def main(seeds: int = 5) -> None:
    """Run, print and write the table.

    Args:
        seeds: number of seeds, from 0.
    """
    quiet()
    rows = [one(seed) for seed in range(seeds)]
    for path in (ROOT / "README.md", ROOT / "benchmarks" / "README.md"):
        write(path, table(rows))
    print(table(rows))


def one(seed: int) -> dict[str, float]:
    """Run one seed and return its figures."""
    results = quickstart(seed, folder=f"runs/bench/quickstart_{seed}")
    had = {stage.name: stage.metrics for stage in results.stages}
    found = {
        f"{title} {words}": had[name][key]
        for key, words in SHOWN.items()
        for name, title in POLICIES.items()
        if not (key == "kl" and name == "sft")
    }
    return {
        **found,
        "reward accuracy": had["reward"]["reward_accuracy"],
        "seconds": sum(stage.seconds for stage in results.stages),
    }


def table(rows: list[dict[str, float]]) -> str:
    """Format a Markdown table with a column per seed and their mean."""
    columns = [*rows, {name: mean(row[name] for row in rows) for name in rows[0]}]
    heads = [*(f"seed {seed}" for seed in range(len(rows))), "mean"]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name in rows[0]:
        cells = [figure(name, column[name]) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(name: str, value: float) -> str:
    """Format a share in percent, other figures as they are."""
    if name == "seconds":
        return f"{value:.0f}"
    return f"{value:.2f}" if "KL" in name or "learnt" in name else f"{100 * value:.1f} %"


def write(path: Path, new: str) -> None:
    """Replace the table behind the marker."""
    text = path.read_text()
    pattern = re.escape(MARKER) + r"\n+(?:\|.*\n)*\n*"
    path.write_text(re.sub(pattern, lambda _: f"{MARKER}\n\n{new}\n\n", text, count=1))


if __name__ == "__main__":
    auto_cli(main)
