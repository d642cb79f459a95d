"""Draw the shares of every stage and the training curves as one PNG."""

import io
import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lightning_rlhf.reporting.palette import Theme
from lightning_rlhf.reporting.results import Curve, Results, format_figure, is_share, words
from lightning_rlhf.text.display import printable

_TITLE: dict[str, Any] = {"weight": "bold", "parse_math": False}


def draw_png(results: Results, theme: Theme, narrow: bool, title: str = "") -> bytes:
    """Draw a grid of small panels: one column on a phone, up to four on a wide screen."""
    bars, curves = results.headlines(), [curve for curve in results.curves if curve.steps]
    columns = 1 if narrow else min(max(len(bars), len(curves), 2), 4)
    rows = math.ceil(len(bars) / columns), math.ceil(len(curves) / columns)
    heights = [0.8 + 0.24 * len(results.stages)] * rows[0] + [2.2] * rows[1] or [0.1]
    size = (3.9 if narrow else 11.7, sum(heights) + 0.5 * bool(title))
    picture = Figure(size, dpi=160, layout=ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.09))
    picture.suptitle(printable(title)[:90], x=0.01, ha="left", size=14, color=theme.ink, **_TITLE)
    grid = picture.add_gridspec(len(heights), columns, height_ratios=heights)
    for cell, name in enumerate(bars):
        _draw_bars(picture.add_subplot(grid[cell], frame_on=False), results, name, theme)
    for cell, curve in enumerate(curves, rows[0] * columns):
        _draw_curve(picture.add_subplot(grid[cell], frame_on=False), results, curve, theme)
    for axes in picture.axes:
        axes.tick_params(length=0, labelsize=8.5, labelcolor=theme.muted)
        axes.xaxis.label.set(size=8.5, color=theme.muted)
    picture.savefig(buffer := io.BytesIO(), format="png", facecolor=theme.paper)  # by Agg
    return buffer.getvalue()


def _draw_bars(axes: Axes, results: Results, metric: str, theme: Theme) -> None:
    for row, stage in enumerate(results.stages):
        value, color = stage.metrics.get(metric), results.colors()[stage.name]
        axes.barh([row, row], [1, value or 0], 0.62, color=[theme.line, color])
        axes.text(1.03, row, format_figure(value, True), va="center", size=9.5, color=theme.ink)
    names = [printable(stage.name)[:18] for stage in results.stages]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="share")
    axes.set_title(words(metric)[:44], loc="left", size=10, color=theme.ink, **_TITLE)


def _draw_curve(axes: Axes, results: Results, curve: Curve, theme: Theme) -> None:
    color, share = results.colors()[curve.stage], is_share(curve.metric, curve.values)
    axes.plot(curve.steps, curve.values, "-o", color=color, markersize=5, markevery=[-1], zorder=3)
    axes.locator_params("x", nbins=4, integer=True)
    axes.grid(color=theme.line, linewidth=0.8)
    axes.set_xlabel(f"step (ends at {format_figure(curve.values[-1], share)})")
    if share:
        axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])
    title = f"{printable(curve.stage)} · {words(curve.metric)}"[:44]
    axes.set_title(title, loc="left", size=10, color=theme.ink, **_TITLE)
