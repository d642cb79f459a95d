"""Write the report of a run: a picture, a page, the figures as JSON; print them as tables."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from lightning_rlhf.reporting.palette import BADGES, DARK, LIGHT
from lightning_rlhf.reporting.picture import draw_png
from lightning_rlhf.reporting.results import Answers, Results, format_figure, words
from lightning_rlhf.text.display import PrintableConsole, printable
from lightning_rlhf.text.writing import replacing

TILES = 4  # shares at the top of the page


class Report(NamedTuple):
    """The files of a report."""

    png: Path
    html: Path


def draw(results: Results, path: str | Path) -> Path:
    """Draw bars per stage for every share, then a panel per training curve, as one PNG."""
    _write(Path(path), draw_png(results, LIGHT, narrow=False, title=results.title))
    return Path(path)


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


def write_report(results: Results, folder: str | Path) -> Report:
    """Write `report.png`, `report.html` (one file, nothing else needed) and `results.json`.

    Each replaces the one of an earlier start only when it is whole.
    """
    report = Report(draw(results, Path(folder) / "report.png"), Path(folder) / "report.html")
    page = printable(render_page(results))
    _write(report.html, page.encode("utf-8", "replace"))  # surrogates
    items = results._asdict().items()
    fields = {k: [row._asdict() for row in v] if isinstance(v, list) else v for k, v in items}
    text = json.dumps(fields, indent=1, default=float)
    _write(Path(folder) / "results.json", text.encode())
    return report


def render_page(results: Results) -> str:
    """Render the page; every text in it is escaped."""
    loader = FileSystemLoader(Path(__file__).parent)
    page = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    ).get_template("page.html.j2")  # fmt: skip
    return page.render(
        results=results,
        light=LIGHT._asdict(),
        dark=DARK._asdict(),
        colors=results.colors(),
        tiles=[_tile(results, metric) for metric in results.headlines()[:TILES]],
        pictures=_pictures(results),
        answers=[_answer_cells(answers, results.answering()) for answers in results.answers],
    )


def _tile(results: Results, metric: str) -> dict[str, Any]:
    """A share in the first stage that has it and in the last."""
    having = [stage for stage in results.stages if metric in stage.metrics]
    ends = having[:1] + having[1:][-1:]
    shares = [format_figure(stage.metrics[metric], True) for stage in ends]
    return {"name": words(metric), "shares": shares, "stages": [stage.name for stage in ends]}


def _pictures(results: Results) -> dict[str, str]:
    """The picture as base64, for each kind of screen."""
    kinds = {
        "dark_narrow": (DARK, True),
        "dark": (DARK, False),
        "narrow": (LIGHT, True),
        "light": (LIGHT, False),
    }
    return {
        name: b64encode(draw_png(results, theme, narrow)).decode()
        for name, (theme, narrow) in kinds.items()
    }


def _answer_cells(answers: Answers, stages: list[str]) -> dict[str, Any]:
    cells = [
        (name, badge(answers.scores.get(name)), answers.by_stage.get(name, "–")) for name in stages
    ]
    return {"prompt": answers.prompt, "cells": cells}


def badge(score: float | None) -> tuple[str, str, str]:
    """The text of a score, its ink and its paper; three empty strings if there is no score."""
    if score is None:
        return "", "", ""
    return f" {score:.0%} ", *BADGES[(score >= 0.5) + (score >= 0.8)]


def print_results(results: Results, console: Console | None = None) -> None:
    """Print the stages as a table, then the answers of the first and the last stage."""
    names = [Column(Text(printable(stage.name)), justify="right") for stage in results.stages]
    stages = Table("", *names, title=Text(printable(results.title)))
    for metric, *figures in results.rows():
        stages.add_row(Text(metric), *figures)
    ends = list(dict.fromkeys(results.answering()[:1] + results.answering()[-1:]))
    table = Table("prompt", *(Column(Text(printable(name))) for name in ends), show_lines=True)
    for answers in results.answers:
        cells = [Text(printable(answers.prompt))]
        for name in ends:
            score, ink, paper = badge(answers.scores.get(name))
            text = " " * bool(score) + printable(answers.by_stage.get(name, "–"))
            cells.append(Text.assemble((score, f"{ink} on {paper}"), text, overflow="fold"))
        table.add_row(*cells)
    (console or PrintableConsole()).print(stages, *[table] * bool(ends))
