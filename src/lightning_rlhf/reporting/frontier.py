"""Draw the frontier: the score of each method against its KL from the reference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_rlhf.reporting.palette import LIGHT, SERIES

_COLORS = (*SERIES, LIGHT.muted)
_MARKERS = ("o", "s", "^", "D", "v", "P")


class Point(NamedTuple):
    """The scores of a method at one step of its training."""

    method: str
    kl: float  # nats per completion, from the reference
    oracle: float  # the wanted score, on held-out prompts
    proxy: float | None = None  # the reward that is trained on


def draw_frontier(points: list[Point], path: str | Path) -> Path:
    """Draw the oracle score of every method against KL, and its proxy reward beside it, as a PNG.

    Args:
        points: in training order; those of one method are joined in that order.
        path: the picture; its folder is made if absent.

    Raises:
        ValueError: there is no point, or a figure of one is not finite.
    """
    path = Path(path)
    figure = frontier_figure(points)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", facecolor=LIGHT.paper)
    return path


def frontier_figure(points: list[Point]) -> Figure:
    """Draw a panel for the oracle, and one for the proxy where a point has it."""
    if not points:
        raise ValueError("there is no point to draw: a frontier has at least one point")
    for point in points:
        figures = (point.kl, point.oracle, *([] if point.proxy is None else [point.proxy]))
        if not all(map(math.isfinite, figures)):
            raise ValueError(f"a point of {point.method} is not a number: {point}")
    scores = {"oracle score, held out": [(p.method, p.kl, p.oracle) for p in points]}
    if proxies := [(p.method, p.kl, p.proxy) for p in points if p.proxy is not None]:
        scores["proxy reward, trained on"] = proxies
    methods = list(dict.fromkeys(point.method for point in points))
    figure = Figure((5.2 * len(scores) + 0.6, 4.2), dpi=160, layout="constrained")
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, (title, scored) in zip(panels, scores.items(), strict=True):
        _draw(axes, title, scored, methods)
    handles, names = panels[0].get_legend_handles_labels()
    legend = figure.legend(handles, names, loc="outside lower center", ncols=6, frameon=False)
    for text in legend.get_texts():
        text.set(color=LIGHT.ink, parse_math=False)
    return figure


def _draw(
    axes: Axes, title: str, scored: list[tuple[str, float, float]], methods: list[str]
) -> None:
    for number, method in enumerate(methods):
        points = [(kl, score) for name, kl, score in scored if name == method]
        if not points:
            continue
        kls, values = zip(*points, strict=True)
        color, marker = _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)]
        axes.plot(kls, values, color=color, marker=marker, markersize=5, label=method, zorder=3)
        # a ring around the end of training
        axes.plot(*points[-1], "o", markersize=11, mfc="none", mec=color, zorder=3)
    axes.set_title(title, loc="left", size=11, color=LIGHT.ink, weight="bold")
    axes.set_xlabel("KL from the reference, nats per completion (ring: end of training)")
    axes.xaxis.label.set(size=9, color=LIGHT.muted)
    axes.grid(color=LIGHT.line, linewidth=0.8)
    axes.tick_params(length=0, labelsize=9, labelcolor=LIGHT.muted)
    axes.spines[:].set_visible(False)
