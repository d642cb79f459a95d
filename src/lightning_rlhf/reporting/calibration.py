"""Plot a judge's calibration."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from lightning_rlhf.evaluation.judge_eval import JudgeReport
from lightning_rlhf.reporting.palette import BLUE, GRAY, LIGHT


def draw_calibration(report: JudgeReport, path: Path) -> None:
    """Plot how often a judge is right against how sure it is; a circle's area is its share."""
    figure = Figure((5.2, 4.4), dpi=160, layout="constrained")
    axes = figure.subplots()
    axes.plot([0.5, 1], [0.5, 1], color=GRAY, linewidth=1, label="calibrated")
    rows = sum(b.rows for b in report.bins)
    for b in report.bins:
        axes.scatter(b.confidence, b.accuracy, s=900 * b.rows / rows, color=BLUE, alpha=0.7)
        axes.annotate(str(b.rows), (b.confidence, b.accuracy), size=8, ha="center", va="center")
    axes.set(xlim=(0.48, 1.02), ylim=(-0.02, 1.02), xlabel="the judge's probability for its choice")
    axes.set_ylabel("share that sided with people")
    axes.grid(color=LIGHT.line, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
