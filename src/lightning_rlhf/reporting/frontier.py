"""What each method pays in KL for what it gains: one picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INK, _MUTED, _LINE, _PAPER = "#16191d", "#59616c", "#e4e7eb", "#ffffff"
_COLOURS = ("#d97706", "#3b82f6", "#0d9488", "#db2777", "#8b5cf6", "#59616c")
_MARKERS = ("o", "s", "^", "D", "v", "P")


class Point(NamedTuple):
    """A method at one moment of its training."""

    method: str
    kl: float  # nats per completion, from the reference
    oracle: float  # what is wanted, measured on held-out prompts
    proxy: float | None = None  # what was trained on


def draw_frontier(points: list[Point], path: str | Path) -> Path:
    """Oracle score against KL for every method, and its proxy reward beside it, as a PNG.

    Args:
        points: in training order; those of one method are joined in that order.
        path: the picture; its folder is made if absent.

    Raises:
        ValueError: there is no point, or one is no number.
    """
    path = Path(path)
    figure = frontier_figure(points)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", facecolor=_PAPER)
    return path


def frontier_figure(points: list[Point]) -> Figure:
    """The picture itself: a panel for the oracle, and one for the proxy where a point has it."""
    if not points:
        raise ValueError("a frontier has at least one point")
    for point in points:
        figures = (point.kl, point.oracle, *([] if point.proxy is None else [point.proxy]))
        if not all(map(math.isfinite, figures)):
            raise ValueError(f"a point of {point.method} is no number: {point}")
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
        text.set(color=_INK, parse_math=False)
    return figure


def _draw(
    axes: Axes, title: str, scored: list[tuple[str, float, float]], methods: list[str]
) -> None:
    for number, method in enumerate(methods):
        mine = [(kl, score) for name, kl, score in scored if name == method]
        if not mine:
            continue
        kls, values = zip(*mine, strict=True)
        axes.plot(
            kls,
            values,
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            label=method,
            zorder=3,
        )
        axes.plot(  # a ring around where it ended
            *mine[-1],
            "o",
            markersize=11,
            mfc="none",
            mec=_COLOURS[number % len(_COLOURS)],
            zorder=3,
        )
    axes.set_title(title, loc="left", size=11, color=_INK, weight="bold")
    axes.set_xlabel("KL from the reference, nats per completion (ring: end of training)")
    axes.xaxis.label.set(size=9, color=_MUTED)
    axes.grid(color=_LINE, linewidth=0.8)
    axes.tick_params(length=0, labelsize=9, labelcolor=_MUTED)
    axes.spines[:].set_visible(False)
