"""The picture of a frontier shows the given points in the given order."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest

from lightning_rlhf.reporting.frontier import Point, draw_frontier, frontier_figure

POINTS = [
    Point("PPO", 0.0, 0.70, 0.1),
    Point("DPO", 0.0, 0.70),
    Point("PPO", 2.0, 0.85, 0.9),
    Point("DPO", 0.9, 0.88),
    Point("PPO", 1.5, 0.92, 1.4),  # back to a smaller KL: joined by training, not by KL
]


def lines(panel: int) -> dict[str, list[tuple[float, float]]]:
    drawn = frontier_figure(POINTS).axes[panel].get_lines()
    named = [line for line in drawn if not str(line.get_label()).startswith("_")]
    return {
        str(line.get_label()): list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in named
    }


def test_its_lines_are_the_points_in_training_order() -> None:
    assert lines(0) == {
        "PPO": [(0.0, 0.70), (2.0, 0.85), (1.5, 0.92)],
        "DPO": [(0.0, 0.70), (0.9, 0.88)],
    }
    assert lines(1) == {"PPO": [(0.0, 0.1), (2.0, 0.9), (1.5, 1.4)]}


def test_a_method_has_one_color_and_the_legend_names_all() -> None:
    figure = frontier_figure(POINTS)
    colors = [
        {line.get_label(): line.get_color() for line in axes.get_lines()} for axes in figure.axes
    ]
    assert colors[0]["PPO"] == colors[1]["PPO"] != colors[0]["DPO"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["PPO", "DPO"]


def test_without_a_proxy_there_is_one_panel() -> None:
    assert len(frontier_figure([p._replace(proxy=None) for p in POINTS]).axes) == 1


def test_it_is_a_png(tmp_path: Path) -> None:
    path = draw_frontier([*POINTS, Point("costs $5 or $6", 1.0, 0.5)], tmp_path / "new" / "x.png")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1760, 672)


def test_a_point_that_is_not_finite_is_named() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        frontier_figure([])
    with pytest.raises(ValueError, match="RLOO is not a number"):
        frontier_figure([Point("RLOO", math.nan, 0.5)])
