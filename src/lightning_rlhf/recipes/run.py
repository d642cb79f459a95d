"""A recipe's stages, one after the other; what is done is not done again."""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import seed_everything
from rich.console import Console

from lightning_rlhf.parsing.parser import AlignmentCLI
from lightning_rlhf.recipes.build import build, function_of
from lightning_rlhf.recipes.prepare import Prepared, named, prepare
from lightning_rlhf.recipes.recipe import Recipe
from lightning_rlhf.recipes.references import taken
from lightning_rlhf.recipes.report import report
from lightning_rlhf.recipes.state import Step, begin, finish, forget, from_stage, plan
from lightning_rlhf.reporting.results import Results
from lightning_rlhf.training.checkpoint import check_file

Metrics = dict[str, Any]


class Made(NamedTuple):
    """What a stage says when it is through."""

    metrics: Metrics
    answers: list[Any]  # prompt, answer, score: shown in the report


def run(recipe: Recipe, fresh_from: str | None = None, console: Console | None = None) -> Results:
    """Run a recipe from where it stands.

    Args:
        recipe: read.
        fresh_from: run this stage and those behind it again.
        console: where to say what happens.

    Returns:
        What the report shows.

    Raises:
        ValueError: a stage cannot run, or has failed; what is done stays done.
    """
    console = console or Console(highlight=False)
    stages = prepare(recipe)
    if fresh_from is not None:
        forget(from_stage(stages, fresh_from))
    for i, stage in enumerate(stages, 1):
        step = next(s for s in plan(stages) if s.stage.name == stage.name)
        title = f"{i}/{len(stages)} {stage.name}"
        if step.will == "skip":
            console.print(f"{title}: done before, skipped")
            continue
        console.rule(f"{title}: {_says(step)}")
        with named(stage.stage, recipe.file):
            _look_for_inputs(stage, stages)
            begin(step)
            start = time.perf_counter()
            made = _run(stage, step.will == "go on")
            seconds = time.perf_counter() - start
            finish(step, seconds, *made)
        console.print(f"{title}: done in {seconds:,.1f} s")
        _free()
    return report(recipe, stages, console)


def _look_for_inputs(stage: Prepared, stages: list[Prepared]) -> None:
    """What earlier stages were to leave for this one is there."""
    outputs = {before.name: before.outputs for before in stages}
    for name, output in taken(stage.stage.spec):
        if not Path(path := outputs[name][output]).exists():
            raise ValueError(f"stage {name} left no {path}: run it again with --from {name}")


def _says(step: Step) -> str:
    what = str(step.stage.spec.get("call", step.stage.stage.verb)).rpartition(".")[2]
    return what if step.why == "new" else f"{what} ({step.why})"


def _run(stage: Prepared, goes_on: bool) -> Made:
    if stage.stage.verb == "call":
        return call(stage)
    cli = build(stage.spec, stage.stage.verb, stage.folder, stage.seed)
    if stage.stage.verb == "fit":
        fit(cli, stage, goes_on)
    else:
        measure(cli, stage)
    rows = [p for name, p in stage.outputs.items() if name == "rows"]
    return Made({**_floats(cli.trainer.callback_metrics), **_counted(rows)}, [])


def fit(cli: AlignmentCLI, stage: Prepared, goes_on: bool) -> None:
    """Train, from the stage's last checkpoint where it was stopped in the middle."""
    last = stage.outputs["checkpoint"]
    found = goes_on and Path(last).is_file()
    if found:
        check_file(last, cli.model)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=last if found else None)


def measure(cli: AlignmentCLI, stage: Prepared) -> None:
    """Validate, test or predict; rows go to their file as they are made, and not into memory."""
    verb = stage.stage.verb
    path = stage.spec.get("ckpt_path")
    if path is not None:
        check_file(path)
    less = {"return_predictions": False} if verb == "predict" else {}
    work = getattr(cli.trainer, verb)
    work(cli.model, datamodule=cli.datamodule, ckpt_path=path, **less)


def call(stage: Prepared) -> Made:
    """Call a function; its figures, and ``answers`` if it shows some."""
    seed_everything(stage.seed, verbose=False)
    made = function_of(stage.spec, stage.folder, stage.seed)()
    made = {} if made is None else made
    try:
        plain = json.loads(json.dumps(made))
        answers = plain.pop("answers", [])
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{stage.spec['call']} is to return a dict of figures that JSON can hold: {error}"
        ) from error
    return Made(plain, answers)


def _floats(metrics: dict[str, Any]) -> Metrics:
    return {name: float(value) for name, value in metrics.items()}


def _counted(files: list[str]) -> Metrics:
    """How many rows a predict stage has left."""
    if not files or not Path(files[0]).is_file():
        return {}
    with Path(files[0]).open("rb") as rows:
        return {"rows": sum(1 for _ in rows)}


def _free() -> None:
    """A stage's model goes before the next one's comes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
