"""``lightning-rlhf run``: a recipe from the command line."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from lightning_rlhf.recipes.prepare import prepare
from lightning_rlhf.recipes.recipe import Recipe, read_recipe
from lightning_rlhf.recipes.run import run
from lightning_rlhf.recipes.state import plan
from lightning_rlhf.text.suggest import did_you_mean

USAGE = "lightning-rlhf run RECIPE [--set stages.sft.trainer.max_steps=5] [--from STAGE] [--dry]"
HELP = f"""\
usage: {USAGE}

A recipe is a YAML of stages, each a module, its data and its Trainer, or a function; see
docs/recipes.md. A second start skips what is done and goes on where it was stopped.

  --set NAME=VALUE  change a value of the recipe; as often as you like
  --from STAGE      run this stage and those behind it again
  --dry             check everything, show what would run, and run nothing
"""
OPTIONS = ("--set", "--from", "--dry", "--help")


def main(args: list[str]) -> None:
    """Run a recipe, or show what would run.

    Raises:
        ValueError: what was typed, what the recipe says, or a stage that failed.
    """
    if not args or {"-h", "--help"} & set(args):
        print(HELP)
        return
    parser = argparse.ArgumentParser("lightning-rlhf run", add_help=False, allow_abbrev=False)
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--from", dest="fresh_from")
    parser.add_argument("--dry", action="store_true")
    asked, rest = parser.parse_known_args(args)
    if rest:
        raise ValueError(
            f"run has no option {rest[0]}: {did_you_mean(rest[0].partition('=')[0], OPTIONS)}"
        )
    if asked.recipe is None:
        raise ValueError(f"which recipe? {USAGE}")
    recipe = read_recipe(asked.recipe, asked.overrides)
    if asked.dry:
        show(recipe, asked.fresh_from, Console())
    else:
        run(recipe, asked.fresh_from)


def show(recipe: Recipe, fresh_from: str | None, console: Console) -> None:
    """The stages, and what a start would do with each."""
    table = Table("stage", "what", "takes from", "leaves", "now", title=str(recipe.file))
    for step in plan(prepare(recipe), fresh_from):
        stage = step.stage
        what = stage.spec.get("call") or str(stage.spec["model"].get("class_path"))
        leaves = ", ".join(stage.outputs)
        now = step.will if step.why == "done" else f"{step.will}: {step.why}"
        table.add_row(stage.name, what.rpartition(".")[2], ", ".join(stage.after), leaves, now)
    console.print(table)
