"""What a run of several stages did: one picture, one page, understood in ten seconds."""

import io
import json
import math
import re
from base64 import b64encode
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

_LIGHT = {"paper": "#ffffff", "ink": "#16191d", "muted": "#59616c", "line": "#e4e7eb"}
_DARK = {"paper": "#15181c", "ink": "#eceff3", "muted": "#a0a9b5", "line": "#2d333b"}
_COLOURS = ("#7a8699", "#d97706", "#3b82f6", "#0d9488", "#db2777", "#8b5cf6")  # on either paper
_BADGES = ("#9b1c1c", "#fde8e8"), ("#7a4a05", "#fdf3d3"), ("#14603a", "#dcf5e6")  # ink, paper
_TITLE: dict[str, Any] = {"weight": "bold", "parse_math": False}
_NO_SHARE = re.compile(  # by its name, such as a KL of 0.1; a "reward accuracy" is one
    r"^(?!.*\b(share|accuracy|fraction|score|win rate)\b)"
    r".*\b(kl|loss|nll|perplexity|entropy|margins?|length|tokens|rewards?|lr)\b"
)
_CSS = """
* { box-sizing: border-box; margin: 0; overflow-wrap: anywhere; color-scheme: light dark }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1112px; margin: auto; padding: 32px 16px; display: flex; flex-direction: column }
h2 { margin: 40px 0 12px; font-size: 18px } p, dt, th, small, span { color: var(--muted) }
dl, dl div { display: flex; flex-wrap: wrap; gap: 2px 8px } dl, small, th, b { font-size: 13px }
dl { margin: 8px 0 28px; column-gap: 24px } picture { margin-top: 28px }
section { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 10px }
section div { border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px }
strong { display: block; font-size: 23px; white-space: nowrap } span { font-weight: 400 }
table { width: 100%; border-collapse: collapse } .answers { table-layout: fixed }
th, td { vertical-align: top; text-align: left; white-space: pre-wrap; padding: 9px 16px 9px 0 }
th, td, .answers tr { border-bottom: 1px solid var(--line) } td small, b:empty { display: none }
img { width: 100% } .figures tr > * + * { text-align: right; padding: 9px 0 9px 8px }
.figures td + td { white-space: nowrap; font-variant-numeric: tabular-nums }
i { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px }
b { float: right; margin-left: 8px; border-radius: 99px } @media (max-width: 700px) {
  picture { order: 1 } .answers tr:first-child { display: none } .figures td { font-size: 13px }
  .answers :is(tbody, tr, td, small) { display: block } td:first-child { font-weight: 600 }
  .answers td { border: 0; padding: 4px 0 } .answers tr { padding: 10px 0 }
  .many, .many tbody { display: block } .many tr { display: flex; flex-wrap: wrap }
  .many td { flex: 100% } .many tr > * + * { flex: 1; min-width: 0 } .many th { font-size: 11px } }
"""


class Stage(NamedTuple):
    name: str
    seconds: float
    metrics: dict[str, float]  # shares as 0..1; a stage may lack what another one has


class Answers(NamedTuple):
    prompt: str
    by_stage: dict[str, str]
    scores: dict[str, float]  # 0..1, may be empty


class Curve(NamedTuple):
    stage: str
    metric: str
    steps: list[int]
    values: list[float]


class Results(NamedTuple):
    title: str
    subtitle: str
    stages: list[Stage]
    answers: list[Answers]
    curves: list[Curve]
    facts: dict[str, str]

    def colours(self) -> dict[str, str]:
        return {s.name: _COLOURS[i % len(_COLOURS)] for i, s in enumerate(self.stages)}

    def answering(self) -> list[str]:
        return sorted({n for a in self.answers for n in a.by_stage}, key=list(self.colours()).index)

    def headlines(self) -> list[str]:
        names = dict.fromkeys(name for stage in self.stages for name in stage.metrics)
        held = {n: [s.metrics[n] for s in self.stages if n in s.metrics] for n in names}
        return [name for name, values in held.items() if _is_share(name, values)]

    def rows(self) -> list[list[str]]:
        """The table of figures: a name in words, then what each stage has."""
        shares, names = self.headlines(), dict.fromkeys(n for s in self.stages for n in s.metrics)
        cells = {n: [_number(s.metrics.get(n), n in shares) for s in self.stages] for n in names}
        time = [f"{t:.3g} s" if t < 120 else f"{t / 60:.3g} min" for _, t, _ in self.stages]
        return [*([_words(name), *row] for name, row in cells.items()), ["time", *time]]


class Report(NamedTuple):
    png: Path
    html: Path


def draw(results: Results, path: str | Path) -> Path:
    """Bars per stage for every share, then one small panel per training curve, as one PNG."""
    Path(path).write_bytes(_png(results, _LIGHT, narrow=False, title=results.title))
    return Path(path)


def write_report(results: Results, folder: str | Path) -> Report:
    """Write `report.png`, `report.html` (one file, nothing else needed) and `results.json`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    report = Report(draw(results, Path(folder) / "report.png"), Path(folder) / "report.html")
    report.html.write_bytes(_clean(_page(results)).encode("utf-8", "replace"))  # surrogates
    items = results._asdict().items()
    fields = {k: [row._asdict() for row in v] if isinstance(v, list) else v for k, v in items}
    (Path(folder) / "results.json").write_text(json.dumps(fields, indent=1, default=float))
    return report


def print_results(results: Results, console: Console | None = None) -> None:
    """The stages as a table, then every answer before and after, in the terminal."""
    names = [Column(Text(_clean(stage.name)), justify="right") for stage in results.stages]
    stages = Table("", *names, title=Text(_clean(results.title)))
    for metric, *figures in results.rows():
        stages.add_row(Text(metric), *figures)
    ends = list(dict.fromkeys(results.answering()[:1] + results.answering()[-1:]))
    answers = Table("prompt", *(Column(Text(_clean(name))) for name in ends), show_lines=True)
    for answer in results.answers:
        cells = [Text(_clean(answer.prompt))]
        for name in ends:
            badge, ink, paper = _badge(answer.scores.get(name))
            text = " " * bool(badge) + _clean(answer.by_stage.get(name, "–"))
            cells.append(Text.assemble((badge, f"{ink} on {paper}"), text, overflow="fold"))
        answers.add_row(*cells)
    (console or Console()).print(stages, *[answers] * bool(ends))


def _clean(text: str) -> str:
    """Control characters (a model can emit a terminal escape) are shown, not obeyed."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def _words(metric: str) -> str:
    return _clean(re.sub(r"[\s_/]+", " ", metric).strip())


def _is_share(metric: str, values: list[float]) -> bool:
    within = all(0 <= x <= 1 or math.isnan(x) for x in values)
    return within and not _NO_SHARE.search(_words(metric))


def _number(value: float | None, share: bool) -> str:
    if value is None or (share and math.isfinite(value)):
        return "–" if value is None else f"{value:.1%}"
    short = f"{value + 0.0:.3g}"  # + 0.0: no "-0"
    return f"{float(short):,.0f}" if 1e3 <= abs(float(short)) < 1e7 else short


def _badge(score: float | None) -> tuple[str, str, str]:
    if score is None:
        return "", "", ""
    return f" {score:.0%} ", *_BADGES[(score >= 0.5) + (score >= 0.8)]


def _png(results: Results, theme: dict[str, str], narrow: bool, title: str = "") -> bytes:
    """A grid of small panels, so that it reads as well in one column (a phone) as in four."""
    bars, curves = results.headlines(), [curve for curve in results.curves if curve.steps]
    columns = 1 if narrow else min(max(len(bars), len(curves), 2), 4)
    rows = math.ceil(len(bars) / columns), math.ceil(len(curves) / columns)
    heights = [0.8 + 0.24 * len(results.stages)] * rows[0] + [2.2] * rows[1] or [0.1]
    size = (3.9 if narrow else 11.7, sum(heights) + 0.5 * bool(title))
    figure = Figure(size, dpi=160, layout=ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.09))
    figure.suptitle(_clean(title)[:90], x=0.01, ha="left", size=14, color=theme["ink"], **_TITLE)
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for place, name in enumerate(bars):
        _draw_bars(figure.add_subplot(grid[place], frame_on=False), results, name, theme)
    for place, curve in enumerate(curves, rows[0] * columns):
        _draw_curve(figure.add_subplot(grid[place], frame_on=False), results, curve, theme)
    for axes in figure.axes:
        axes.tick_params(length=0, labelsize=8.5, labelcolor=theme["muted"])
        axes.xaxis.label.set(size=8.5, color=theme["muted"])
    figure.savefig(buffer := io.BytesIO(), format="png", facecolor=theme["paper"])  # by Agg
    return buffer.getvalue()


def _draw_bars(axes: Axes, results: Results, metric: str, theme: dict[str, str]) -> None:
    for row, stage in enumerate(results.stages):
        value, colour = stage.metrics.get(metric), results.colours()[stage.name]
        axes.barh([row, row], [1, value or 0], 0.62, color=[theme["line"], colour])
        axes.text(1.03, row, _number(value, True), va="center", size=9.5, color=theme["ink"])
    names = [_clean(stage.name)[:18] for stage in results.stages]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="share")
    axes.set_title(_words(metric)[:44], loc="left", size=10, color=theme["ink"], **_TITLE)


def _draw_curve(axes: Axes, results: Results, curve: Curve, theme: dict[str, str]) -> None:
    colour, share = results.colours()[curve.stage], _is_share(curve.metric, curve.values)
    axes.plot(curve.steps, curve.values, "-o", color=colour, markersize=5, markevery=[-1], zorder=3)
    axes.locator_params("x", nbins=4, integer=True)
    axes.grid(color=theme["line"], linewidth=0.8)
    axes.set_xlabel(f"step (ends at {_number(curve.values[-1], share)})")
    if share:
        axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])
    title = f"{_clean(curve.stage)} · {_words(curve.metric)}"[:44]
    axes.set_title(title, loc="left", size=10, color=theme["ink"], **_TITLE)


def _row(cells: list[str], tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag} dir=auto>{cell}" for cell in cells)


def _page(results: Results) -> str:
    dots = {n: f"<i style='background:{c}'></i>{escape(n)}" for n, c in results.colours().items()}
    figures, names, tiles = _row(["", *dots.values()], "th"), results.answering(), ""
    figures += "".join(_row([escape(cell) for cell in row]) for row in results.rows())
    for metric in results.headlines()[:4]:
        had = [stage for stage in results.stages if metric in stage.metrics]
        ends = had[:1] + had[1:][-1:]  # where it began and where it ended
        *began, ended = [_number(stage.metrics[metric], True) for stage in ends]
        start = "".join(f"<span>{share} → </span>" for share in began)
        tiles += f"<div>{escape(_words(metric))}<strong>{start}{ended}</strong>"
        tiles += f"<small>{' → '.join(dots[stage.name] for stage in ends)}</small></div>"
    answers = "<h2>The same prompts, before and after</h2><table class=answers>"
    answers += _row(["prompt", *(dots[name] for name in names)], "th")
    for answer in results.answers:
        cells = [escape(answer.prompt)]
        for name in names:
            badge, ink, paper = _badge(answer.scores.get(name))
            text = f"<b style='color:{ink};background:{paper}'>{badge}</b>"
            text += escape(answer.by_stage.get(name, "–"))
            cells.append(f"<small>{dots[name]}</small>{text}")
        answers += _row(cells)
    dark, phone = "(prefers-color-scheme: dark)", "(max-width: 700px)"
    kinds = (_DARK, True), (_DARK, False), (_LIGHT, True), (_LIGHT, False)
    *special, usual = [b64encode(_png(results, *kind)).decode() for kind in kinds]
    sources = zip((f"{dark} and {phone}", dark, phone), special, strict=True)
    light, night = (";".join(f"--{k}:{v}" for k, v in theme.items()) for theme in (_LIGHT, _DARK))
    return f"""<!doctype html><html lang=en><meta charset=utf-8>
<meta name=viewport content="width=device-width"><title>{escape(results.title)}</title>
<style>:root {{ {light} }} @media {dark} {{ :root {{ {night} }} }} {_CSS}</style>
<main><h1>{escape(results.title)}</h1><p>{escape(results.subtitle)}</p>
<dl>{"".join(f"<div><dt>{escape(k)}<dd>{escape(v)}</div>" for k, v in results.facts.items())}</dl>
<section>{tiles}</section><picture>
{"".join(f'<source media="{m}" srcset="data:image/png;base64,{png}">' for m, png in sources)}
<img alt="Shares per stage; training curves" src="data:image/png;base64,{usual}"></picture>
{answers + "</table>" if names else ""}<h2>All figures</h2>
<table class="figures{" many" * (len(dots) > 3)}">{figures}</table>"""
