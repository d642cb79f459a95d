"""``lightning-rlhf quickstart``: a recipe on the micro-world, from nothing to a report."""

from __future__ import annotations

from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from lightning_rlhf.cli.arguments import call_with
from lightning_rlhf.recipes.recipe import read_recipe
from lightning_rlhf.recipes.run import run
from lightning_rlhf.reporting.results import Results

RECIPE = Path(__file__).parents[1] / "quickstart" / "quickstart.yaml"
SCALED = (  # sizes that `scale` multiplies
    "data.args.demonstrations",
    "data.args.preferences",
    "data.args.lessons",
    "ppo.trainer.max_steps",
    "critique.data.init_args.max_rows",
    "labels.data.init_args.max_rows",
)
JUDGED = ("sft", "dpo", "ppo", "cai", "cai_dpo")


def main(args: list[str]) -> None:
    """Read the arguments of ``quickstart`` and call it."""
    call_with(quickstart, "quickstart", args)


def quickstart(
    seed: int = 0, folder: str = "runs/quickstart", scale: float = 1.0, fresh: bool = False
) -> Results:
    """Train a small model from scratch to follow preferences and principles, and report it.

    A second start resumes where it stopped, or shows the report again.

    Args:
        seed: of the world, the model and the training.
        folder: gets the models, the logs and the report.
        scale: of the length of every stage; below 1 for a quick look, not for the figures.
        fresh: start anew, whatever is in the folder.
    """
    specs: dict[str, Any] = {stage.name: stage.spec for stage in read_recipe(RECIPE).stages}
    sizes = []
    for name in SCALED:
        size: Any = reduce(getitem, name.split("."), specs)
        sizes.append(f"stages.{name}={max(1, int(size * scale))}")
    every = max(1, round(0.25 / scale))  # fewer held-out prompts if training is that short
    sizes += [f"stages.{name}_judged.args.every={every}" for name in JUDGED if every > 1]
    recipe = read_recipe(RECIPE, [f"folder={folder}", f"seed={seed}", *sizes])
    return run(recipe, fresh_from=recipe.stages[0].name if fresh else None)
