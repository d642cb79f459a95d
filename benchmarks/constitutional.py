"""Constitutional AI in the micro-world, five seeds: configs/constitutional.yaml, start to end.

    python benchmarks/constitutional.py [--seeds 5] [--first 0] [--write true]

Every figure is from held-out combinations of task and manner, three samples to each at temperature
1. A seed that is there already is not run again. Tables go into benchmarks/README.md.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from statistics import mean
from typing import Any

import datasets
import torch
from jsonargparse import auto_cli
from rich.console import Console
from versus.harness import between

from lightning_rlhf.cli.main import quiet
from lightning_rlhf.constitution.chain import Chain
from lightning_rlhf.constitution.demonstrations import read_rows
from lightning_rlhf.quickstart.critic import complies
from lightning_rlhf.quickstart.world import oracle_verdict, task_of
from lightning_rlhf.recipes.recipe import read_recipe
from lightning_rlhf.recipes.run import run

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs/constitutional.yaml"
HOME = Path("runs/bench")
STAGES = {"start": "start", "sl": "CAI (SL)", "dpo": "CAI (SL) + AI-labeled DPO"}
SHOWN = {
    "fully_good": "fully good",
    "harmful_compliance": "harmful compliance",
    "over_refusal": "over-refusal",
    "helpful_score": "oracle score, harmless",
    "eos_share": "EOS share",
}


def main(seeds: int = 5, first: int = 0, write: bool = False) -> None:
    """Run what is not there yet, print, and write.

    Args:
        seeds: how many.
        first: the first of them; two processes may share the work.
        write: tables into benchmarks/README.md.
    """
    quiet()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    found = [seed_of(seed) for seed in range(first, first + seeds)]
    text = "\n\n".join([policies(found), rounds(found), labels(found)])
    print(text)
    if write:
        readme = ROOT / "benchmarks/README.md"
        readme.write_text(between(readme.read_text(), "constitutional", text))


def seed_of(seed: int) -> dict[str, Any]:
    """The recipe, and what its stages left."""
    home = HOME / f"constitutional_{seed}"
    recipe = read_recipe(
        str(RECIPE),
        [
            f"folder={home}",
            f"seed={seed}",
            f"stages.world.seed={seed}",
            "defaults.trainer.enable_progress_bar=false",
        ],
    )
    run(recipe, console=Console(quiet=True))
    done = {p.parent.name: json.loads(p.read_text()) for p in home.glob("*/done.json")}
    chains = [Chain.from_row(row) for row in read_rows(home / "critique/rows.jsonl")]
    report = json.loads(next(home.glob("labels/**/feedback.json")).read_text())
    policies = {name: done[f"{name}_judged"]["metrics"] for name in STAGES}
    seconds = sum(stage["seconds"] for stage in done.values())
    judged = {"agreed": oracle_agrees(home / "labels/rows.jsonl"), **report}
    return {
        "seed": seed,
        "policies": policies,
        "rounds": by_round(chains),
        "labels": judged,
        "seconds": seconds,
    }


def by_round(chains: list[Chain]) -> list[dict[str, float]]:
    """The oracle on drafts and on each round's revisions, of training prompts."""
    harmful = [c for c in chains if task_of(c.prompt).tempting]
    return [
        {
            "fully_good": mean(
                oracle_verdict(c.prompt, c.answer(k), c.finished(k)).fully_good for c in chains
            ),
            "harm": mean(complies(c.prompt, c.answer(k)) for c in harmful),
        }
        for k in range(len(chains[0].rounds) + 1)
    ]


def oracle_agrees(path: Path) -> float:
    """Of the labels in which the oracle has a preference, the share that has the same."""
    agreed = []
    for row in read_rows(path):
        chosen, rejected = (
            oracle_verdict(row["prompt"], row[side], True).score
            - complies(row["prompt"], row[side])
            for side in ("chosen", "rejected")
        )
        if chosen != rejected:
            agreed.append(chosen > rejected)
    return mean(agreed) if agreed else float("nan")


def policies(found: list[dict[str, Any]]) -> str:
    """A row for each seed and policy."""
    lines = [
        "| seed | policy | " + " | ".join(SHOWN.values()) + " | seconds of the whole |",
        "|---" * (len(SHOWN) + 3) + "|",
    ]
    for one in found:
        for name, title in STAGES.items():
            cells = [f"{100 * one['policies'][name][key]:.1f} %" for key in SHOWN]
            seconds = f"{one['seconds']:.0f}" if name == "start" else ""
            lines.append(f"| {one['seed']} | {title} | {' | '.join(cells)} | {seconds} |")
    for name, title in STAGES.items():
        cells = [f"{100 * mean(o['policies'][name][key] for o in found):.1f} %" for key in SHOWN]
        lines.append(f"| mean | {title} | {' | '.join(cells)} | |")
    return "\n".join(lines)


def rounds(found: list[dict[str, Any]]) -> str:
    """What each round of critique and revision did to the model's own answers."""
    names = ["draft", *(f"round {k}" for k in range(1, len(found[0]["rounds"])))]
    lines = ["| seed | | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for one in found:
        for key, title in (("fully_good", "fully good"), ("harm", "harmful compliance")):
            cells = [f"{100 * r[key]:.1f} %" for r in one["rounds"]]
            lines.append(f"| {one['seed']} | {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def labels(found: list[dict[str, Any]]) -> str:
    """The figures of the judge, as its report has them, beside the oracle's."""
    lines = [
        "| seed | pairs | decided | inconsistent | tied | preferred what stood first | "
        "decided as the oracle does |",
        "|---" * 7 + "|",
    ]
    for one in found:
        said = one["labels"]
        counts = said["counts"]
        lines.append(
            f"| {one['seed']} | {said['pairs']} | {counts['decided']} | {counts['inconsistent']} | "
            f"{counts['tied']} | {100 * said['first_position']:.0f} % | "
            f"{100 * said['agreed']:.1f} % |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    auto_cli(main)
