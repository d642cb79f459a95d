"""Report a recipe from the files of its stages: tables, a page, one JSON file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_rlhf.recipes.prepare import PreparedStage
from lightning_rlhf.recipes.recipe import Recipe
from lightning_rlhf.recipes.state import DONE, read, write
from lightning_rlhf.reporting.page import print_results, write_report
from lightning_rlhf.reporting.results import Answers, Curve, ReportColumn, Results


def report(recipe: Recipe, stages: list[PreparedStage], console: Console) -> Results:
    """Write ``recipe.json`` and the report beside the stages, and print the results."""
    done = {stage.name: read(stage, DONE) for stage in stages}
    head = {"title": recipe.title, "file": str(recipe.file), "seed": recipe.seed}
    write(recipe.folder / "recipe.json", {**head, "stages": list(done.values())})
    results = Results(
        title=recipe.title,
        subtitle=recipe.subtitle,
        stages=columns(stages, done),
        answers=side_by_side(stages, done),
        curves=[curve for stage in stages for curve in curves(stage)],
        facts=_facts(done) | {"seed": str(recipe.seed), "time": _time(done)},
    )
    written = write_report(results, recipe.folder)
    print_results(results, console)
    console.print(f"report: {written.html}   stages: {recipe.folder / 'recipe.json'}")
    return results


def columns(stages: list[PreparedStage], done: dict[str, dict[str, Any]]) -> list[ReportColumn]:
    """Make a column of each stage with figures or answers; one ``about`` another adds to its."""
    by_name: dict[str, ReportColumn] = {}
    names = columns_of(stages)
    for stage in stages:
        figures = shown(stage, done[stage.name]["metrics"])
        if names[stage.name] in by_name:
            by_name[names[stage.name]].metrics.update(figures)
        else:
            by_name[stage.name] = ReportColumn(stage.name, done[stage.name]["seconds"], figures)
    answering = {names[stage.name] for stage in stages if done[stage.name]["answers"]}
    return [c for c in by_name.values() if c.metrics or c.name in answering]


def columns_of(stages: list[PreparedStage]) -> dict[str, str]:
    """Name the column of each stage: its own, or that of the stage it is ``about``."""
    names: dict[str, str] = {}
    for stage in stages:  # in their order: a stage is about an earlier one
        about = stage.spec.get("about")
        names[stage.name] = stage.name if about is None else names.get(about, about)
    return names


def shown(stage: PreparedStage, metrics: dict[str, Any]) -> dict[str, float]:
    """Select the figures that ``report`` names; by default all of a call or of a validation."""
    figures = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float)}
    default = ["*"] if stage.stage.verb == "call" else ["val/*", "test/*", "rows"]
    wanted = stage.spec.get("report", default)
    return {k: v for k, v in figures.items() if any(fnmatch(k, pattern) for pattern in wanted)}


def side_by_side(stages: list[PreparedStage], done: dict[str, dict[str, Any]]) -> list[Answers]:
    """Collect the ``answers`` of calls by prompt, under the stage that they are about."""
    rows: dict[str, Answers] = {}
    names = columns_of(stages)
    for stage in stages:
        name = names[stage.name]
        for prompt, answer, score in done[stage.name]["answers"]:
            row = rows.setdefault(prompt, Answers(prompt, {}, {}))
            row.by_stage[name] = answer
            row.scores[name] = score
    return list(rows.values())


def curves(stage: PreparedStage) -> list[Curve]:
    """Read the curves that ``report`` names from the stage's logs; by default that of the loss."""
    logs = sorted(stage.folder.glob("log/version_*/metrics.csv"), key=_version)
    points: dict[str, dict[int, float]] = {}
    for log in logs:  # a resumed stage has several; a later value replaces an earlier one
        for metric, step, value in logged(log):
            points.setdefault(metric, {})[step] = value
    wanted = stage.spec.get("report", [])
    names = [
        n for n, line in points.items() if len(line) > 1 and any(fnmatch(n, w) for w in wanted)
    ]
    names = names or [name for name in ("train/loss",) if len(points.get(name, {})) > 1]
    lines = {name: sorted(points[name].items()) for name in names}
    return [
        Curve(stage.name, name, [s for s, _ in line], [v for _, v in line])
        for name, line in lines.items()
    ]


def logged(log: Path) -> Iterator[tuple[str, int, float]]:
    """Read metric, step and value from a log; a line that a kill left incomplete is skipped."""
    with log.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(line.replace("\0", "") for line in file):
            for metric, value in row.items():
                if isinstance(metric, str) and value and metric not in ("step", "epoch"):
                    with suppress(TypeError, ValueError):
                        yield metric, int(row.get("step") or ""), float(value)


def _time(done: dict[str, dict[str, Any]]) -> str:
    return f"{sum(d['seconds'] for d in done.values()):,.0f} s"


def _version(log: Path) -> int:
    return int(log.parent.name.removeprefix("version_"))


def _facts(done: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Collect the strings that calls returned among their figures."""
    return {k: v for d in done.values() for k, v in d["metrics"].items() if isinstance(v, str)}
