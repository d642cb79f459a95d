"""The content of a report: the figures, answers and curves of a run's stages."""

import math
import re
from typing import NamedTuple

from lightning_rlhf.reporting.palette import GRAY, SERIES
from lightning_rlhf.text.display import printable

_COLORS = (GRAY, *SERIES)
_NOT_SHARES = re.compile(  # by the name, such as a KL of 0.1; a "reward accuracy" is a share
    r"^(?!.*\b(share|accuracy|fraction|score|win rate)\b)"
    r".*\b(kl|loss|nll|perplexity|entropy|margins?|length|tokens|rewards?|lr)\b"
)


class ReportColumn(NamedTuple):
    """The figures of one stage."""

    name: str
    seconds: float
    metrics: dict[str, float]  # shares as 0..1; a stage may lack what another one has


class Answers(NamedTuple):
    """The answers of several stages to one prompt."""

    prompt: str
    by_stage: dict[str, str]
    scores: dict[str, float]  # 0..1, may be empty


class Curve(NamedTuple):
    """A metric over the steps of one stage."""

    stage: str
    metric: str
    steps: list[int]
    values: list[float]


class Results(NamedTuple):
    """The content of a report; its fields are those of ``results.json``."""

    title: str
    subtitle: str
    stages: list[ReportColumn]
    answers: list[Answers]
    curves: list[Curve]
    facts: dict[str, str]

    def colors(self) -> dict[str, str]:
        """The color of each stage; a stage may have a curve and no figures."""
        names = dict.fromkeys([s.name for s in self.stages] + [c.stage for c in self.curves])
        return {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(names)}

    def answering(self) -> list[str]:
        """The stages that have answers, in their order."""
        return sorted({n for a in self.answers for n in a.by_stage}, key=list(self.colors()).index)

    def headlines(self) -> list[str]:
        """The metrics that are shares."""
        names = dict.fromkeys(name for stage in self.stages for name in stage.metrics)
        held = {n: [s.metrics[n] for s in self.stages if n in s.metrics] for n in names}
        return [name for name, values in held.items() if is_share(name, values)]

    def rows(self) -> list[list[str]]:
        """The table of figures: a metric in words, then its figure in each stage."""
        shares, names = self.headlines(), dict.fromkeys(n for s in self.stages for n in s.metrics)
        cells = {
            n: [format_figure(s.metrics.get(n), n in shares) for s in self.stages] for n in names
        }
        time = [f"{t:.3g} s" if t < 120 else f"{t / 60:.3g} min" for _, t, _ in self.stages]
        return [*([words(name), *row] for name, row in cells.items()), ["time", *time]]


def words(metric: str) -> str:
    """The name of a metric as words."""
    return printable(re.sub(r"[\s_/]+", " ", metric).strip())


def is_share(metric: str, values: list[float]) -> bool:
    """True if a metric is to be shown as a percentage, by its name and its values."""
    within = all(0 <= x <= 1 or math.isnan(x) for x in values)
    return within and not _NOT_SHARES.search(words(metric))


def format_figure(value: float | None, share: bool) -> str:
    """A value as a percentage or with three digits; a dash if there is none."""
    if value is None or (share and math.isfinite(value)):
        return "–" if value is None else f"{value:.1%}"
    short = f"{value + 0.0:.3g}"  # + 0.0: no "-0"
    return f"{float(short):,.0f}" if 1e3 <= abs(float(short)) < 1e7 else short
