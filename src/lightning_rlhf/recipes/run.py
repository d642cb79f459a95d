"""Run the stages of a recipe in order; finished stages are skipped."""

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
from lightning_rlhf.recipes.prepare import PreparedStage, naming_stage, prepare
from lightning_rlhf.recipes.recipe import Recipe
from lightning_rlhf.recipes.references import references_in
from lightning_rlhf.recipes.report import report
from lightning_rlhf.recipes.state import Step, begin, finish, forget, from_stage, plan
from lightning_rlhf.reporting.results import Results
from lightning_rlhf.text.display import PrintableConsole
from lightning_rlhf.text.writing import claim
from lightning_rlhf.training.checkpoint import check_file
from lightning_rlhf.training.checkpoint_io import SUFFIX

Metrics = dict[str, Any]


class StageResult(NamedTuple):
    """The result of a stage."""

    metrics: Metrics
    answers: list[Any]  # of (prompt, answer, score), for the report


def run(recipe: Recipe, fresh_from: str | None = None, console: Console | None = None) -> Results:
    """Run a recipe: resume what was stopped, skip what is done.

    Args:
        recipe: from ``read_recipe``.
        fresh_from: run this stage and all after it again.
        console: shows the progress.

    Returns:
        The content of the report.

    Raises:
        ValueError: a stage cannot run, or has failed; finished stages stay done.
    """
    console = console or PrintableConsole(highlight=False)
    stages = prepare(recipe)
    again = from_stage(stages, fresh_from) if fresh_from is not None else []
    lock = claim(recipe.folder / "recipe", "wait for it to end, or give another `folder:`")
    try:
        return _run_stages(recipe, stages, again, console)
    finally:
        lock.release()


def _run_stages(
    recipe: Recipe, stages: list[PreparedStage], again: list[PreparedStage], console: Console
) -> Results:
    forget(again)
    for i, stage in enumerate(stages, 1):
        step = next(s for s in plan(stages) if s.stage.name == stage.name)
        title = f"{i}/{len(stages)} {stage.name}"
        if step.action == "skip":
            console.print(f"{title}: done before, skipped")
            continue
        console.rule(f"{title}: {_title(step)}")
        with naming_stage(stage.stage, recipe.file):
            _check_inputs(stage, stages)
            begin(step)
            start = time.perf_counter()
            result = _run(stage, step.action == "resume")
            seconds = time.perf_counter() - start
            finish(step, seconds, *result)
        console.print(f"{title}: done in {seconds:,.1f} s")
        _free()
    return report(recipe, stages, console)


def _check_inputs(stage: PreparedStage, stages: list[PreparedStage]) -> None:
    """Check that the outputs of earlier stages that this one reads exist."""
    outputs = {before.name: before.outputs for before in stages}
    for name, output in references_in(stage.stage.spec):
        if not Path(path := outputs[name][output]).exists():
            raise ValueError(f"stage {name} did not write {path}: run it again with --from {name}")


def _title(step: Step) -> str:
    what = str(step.stage.spec.get("call", step.stage.stage.verb)).rpartition(".")[2]
    return what if step.reason == "new" else f"{what} ({step.reason})"


def _run(stage: PreparedStage, resumes: bool) -> StageResult:
    if stage.stage.verb == "call":
        return call(stage)
    cli = build(stage.spec, stage.stage.verb, stage.folder, stage.seed)
    if stage.stage.verb == "fit":
        fit(cli, stage, resumes)
    else:
        measure(cli, stage)
    rows = [p for name, p in stage.outputs.items() if name == "rows"]
    return StageResult({**_floats(cli.trainer.callback_metrics), **_counted(rows)}, [])


def fit(cli: AlignmentCLI, stage: PreparedStage, resumes: bool) -> None:
    """Train; a stopped stage resumes from its newest checkpoint."""
    newest = _newest(Path(stage.outputs["checkpoint"]).parent) if resumes else None
    if newest is not None:
        try:
            check_file(newest, cli.model)
        except ValueError as error:
            again = f"or run the stage anew with --from {stage.name}"
            raise ValueError(f"{error}; {again}") from error
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=newest)


def _newest(folder: Path) -> str | None:
    found = [path for path in folder.glob(f"*{SUFFIX}") if path.is_file()]
    return str(max(found, key=lambda path: path.stat().st_mtime_ns)) if found else None


def measure(cli: AlignmentCLI, stage: PreparedStage) -> None:
    """Validate, test or predict; rows go to their file as they are made, not into memory."""
    verb = stage.stage.verb
    path = stage.spec.get("ckpt_path")
    if path is not None:
        check_file(path)
    options = {"return_predictions": False} if verb == "predict" else {}
    getattr(cli.trainer, verb)(cli.model, datamodule=cli.datamodule, ckpt_path=path, **options)


def call(stage: PreparedStage) -> StageResult:
    """Call the stage's function and return its figures, and its ``answers`` if there are any."""
    seed_everything(stage.seed, verbose=False)
    returned = function_of(stage.spec, stage.folder, stage.seed)()
    try:
        figures = json.loads(json.dumps({} if returned is None else returned))
        answers = figures.pop("answers", [])
        [float(value) for value in figures.values() if isinstance(value, int)]
    except (TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{stage.spec['call']} has to return a dict of figures that JSON can hold: {error}"
        ) from error
    if not (isinstance(answers, list) and all(map(_is_answer, answers))):
        raise ValueError(
            f"{stage.spec['call']} returned answers that are not [prompt, answer, score] each, the "
            "score a number from 0 to 1"
        )
    return StageResult(figures, answers)


def _is_answer(row: Any) -> bool:
    if not isinstance(row, list) or len(row) != 3:
        return False
    return isinstance(row[0], str) and isinstance(row[1], str) and isinstance(row[2], int | float)


def _floats(metrics: dict[str, Any]) -> Metrics:
    return {name: float(value) for name, value in metrics.items()}


def _counted(files: list[str]) -> Metrics:
    """Count the rows that a predict stage wrote."""
    if not files or not Path(files[0]).is_file():
        return {}
    with Path(files[0]).open("rb") as rows:
        return {"rows": sum(1 for _ in rows)}


def _free() -> None:
    """Free a stage's model before the next one is built."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
