"""The quickstart over several seeds of world, model and training: the README's table.

    python benchmarks/quickstart_seeds.py [--seeds 5]

Every figure from held-out combinations of task and manner, sampled at temperature 1. Writes the
table into benchmarks/README.md and README.md, between the markers.
"""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean

from jsonargparse import auto_cli

from lightning_rlhf.cli import quiet
from lightning_rlhf.quickstart.run import quickstart

ROOT = Path(__file__).parents[1]
MARKER = "<!-- quickstart table: benchmarks/quickstart_seeds.py -->"


def main(seeds: int = 5) -> None:
    """Run, print and write the table.

    Args:
        seeds: how many, from 0.
    """
    quiet()
    rows = [one(seed) for seed in range(seeds)]
    for path in (ROOT / "README.md", ROOT / "benchmarks" / "README.md"):
        write(path, table(rows))
    print(table(rows))


def one(seed: int) -> dict[str, float]:
    """A seed's figures."""
    results = quickstart(seed, folder=f"runs/bench/quickstart_{seed}")
    sft, reward, dpo = (stage.metrics for stage in results.stages)
    return {
        "SFT fully good": sft["fully_good"],
        "DPO fully good": dpo["fully_good"],
        "gain": dpo["fully_good"] - sft["fully_good"],
        "SFT EOS share": sft["eos_share"],
        "DPO EOS share": dpo["eos_share"],
        "SFT oracle score": sft["oracle_score"],
        "DPO oracle score": dpo["oracle_score"],
        "reward accuracy": reward["reward_accuracy"],
        "KL, nats": dpo["kl"],
        "seconds": sum(stage.seconds for stage in results.stages),
    }


def table(rows: list[dict[str, float]]) -> str:
    """Markdown: a row a seed, their mean at the end."""
    rows_named = [(str(seed), row) for seed, row in enumerate(rows)]
    rows_named.append(("mean", {k: mean(row[k] for row in rows) for k in rows[0]}))
    lines = ["| seed | " + " | ".join(rows[0]) + " |", "|---" * (len(rows[0]) + 1) + "|"]
    for name, row in rows_named:
        lines.append(f"| {name} | " + " | ".join(figure(k, v) for k, v in row.items()) + " |")
    return "\n".join(lines)


def figure(name: str, value: float) -> str:
    """Shares in percent, the rest as it is."""
    if name == "seconds":
        return f"{value:.0f}"
    return f"{value:.2f}" if "KL" in name else f"{100 * value:.1f} %"


def write(path: Path, new: str) -> None:
    """Replace the table behind the marker."""
    text = path.read_text()
    pattern = re.escape(MARKER) + r"\n+(?:\|.*\n)*\n*"
    path.write_text(re.sub(pattern, lambda _: f"{MARKER}\n\n{new}\n\n", text, count=1))


if __name__ == "__main__":
    auto_cli(main)
