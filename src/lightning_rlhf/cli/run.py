"""``lightning-rlhf run``: run a recipe."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from lightning_rlhf.recipes.prepare import prepare
from lightning_rlhf.recipes.recipe import Recipe, read_recipe
from lightning_rlhf.recipes.run import run
from lightning_rlhf.recipes.state import plan
from lightning_rlhf.text.display import PrintableConsole
from lightning_rlhf.text.suggest import did_you_mean

USAGE = "lightning-rlhf run RECIPE [--set stages.sft.trainer.max_steps=5] [--from STAGE] [--dry]"
HELP = f"""\
usage: {USAGE}

A recipe is a YAML of stages, each a module, its data and its Trainer, or a function; see
docs/recipes.md. A second start skips finished stages and resumes where it stopped.

  --set NAME=VALUE  change a value of the recipe; may be repeated
  --from STAGE      run this stage and all after it again
  --dry             check everything and show what would run, but run nothing
"""
OPTIONS = ("--set", "--from", "--dry", "--help")


def main(args: list[str]) -> None:
    """Run a recipe, or show what would run.

    Raises:
        ValueError: an argument or the recipe is wrong, or a stage failed.
    """
    if not args or {"-h", "--help"} & set(args):
        print(HELP)
        return
    parser = argparse.ArgumentParser("lightning-rlhf run", add_help=False, allow_abbrev=False)
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--from", dest="fresh_from")
    parser.add_argument("--dry", action="store_true")
    options, rest = parser.parse_known_args(args)
    if rest:
        raise ValueError(
            f"run has no option {rest[0]}: {did_you_mean(rest[0].partition('=')[0], OPTIONS)}"
        )
    if options.recipe is None:
        raise ValueError(f"there is no recipe: give its file, as {USAGE}")
    recipe = read_recipe(options.recipe, options.overrides)
    if options.dry:
        show(recipe, options.fresh_from, PrintableConsole())
    else:
        run(recipe, options.fresh_from)


def show(recipe: Recipe, fresh_from: str | None, console: Console) -> None:
    """Print the stages, and what a start would do with each."""
    table = Table("stage", "runs", "takes from", "outputs", "now", title=str(recipe.file))
    for step in plan(prepare(recipe), fresh_from):
        stage = step.stage
        runs = stage.spec.get("call") or str(stage.spec["model"].get("class_path"))
        outputs = ", ".join(stage.outputs)
        now = step.action if step.reason == "done" else f"{step.action}: {step.reason}"
        table.add_row(stage.name, runs.rpartition(".")[2], ", ".join(stage.after), outputs, now)
    console.print(table)
