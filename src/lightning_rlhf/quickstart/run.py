"""The quickstart: a recipe on the micro-world, from nothing to a report."""

from __future__ import annotations

from pathlib import Path

from lightning_rlhf.evaluation.report import Results
from lightning_rlhf.recipes.recipe import read_recipe
from lightning_rlhf.recipes.run import run

RECIPE = Path(__file__).with_name("quickstart.yaml")
SIZES = {  # what scale multiplies
    "data.args.demonstrations": 5000,
    "data.args.preferences": 9000,
    "data.args.lessons": 2500,
    "ppo.trainer.max_steps": 480,
    "critique.data.init_args.max_rows": 924,  # all there are
    "labels.data.init_args.max_rows": 924,
}
JUDGED = ("sft", "dpo", "ppo", "cai", "cai_dpo")


def quickstart(
    seed: int = 0, folder: str = "runs/quickstart", scale: float = 1.0, fresh: bool = False
) -> Results:
    """Train a small model from scratch to follow preferences and principles; show what changed.

    Killed and begun again it goes on where it stopped; done, it shows its report again.

    Args:
        seed: of the world, the model and the training.
        folder: where models, logs and the report go.
        scale: of every stage's length; below 1 for a quick look, not for the figures.
        fresh: begin anew whatever is there.
    """
    sizes = [f"stages.{name}={max(1, int(size * scale))}" for name, size in SIZES.items()]
    every = max(1, round(0.25 / scale))  # of the held-out prompts, where training is that short
    sizes += [f"stages.{name}_judged.args.every={every}" for name in JUDGED if every > 1]
    recipe = read_recipe(RECIPE, [f"folder={folder}", f"seed={seed}", *sizes])
    return run(recipe, fresh_from=recipe.stages[0].name if fresh else None)
