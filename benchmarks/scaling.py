"""Does cost grow as it should? Our tokens per second at 1, 4 and 16 times the rows, and the length.

    python benchmarks/scaling.py [--write true]

DPO on the 70M model, one thread: rows of 64 + 2 × 64 tokens, more of them or longer ones. Packed
rows should cost the same a token however many there are; long ones more, by attention, which grows
with the square. Writes benchmarks/scaling.svg.
"""

from __future__ import annotations

from statistics import median

import matplotlib
from jsonargparse import auto_cli
from versus.harness import ROOT, Device, Work, between, compare, equal, tokens

FACTORS = (1, 4, 16)


def main(reps: int = 3, device: Device = "cpu", write: bool = False) -> None:
    """Measure, print and plot.

    Args:
        reps: rounds; medians are printed.
        device: where.
        write: put the table into benchmarks/README.md and the plot beside it.
    """
    lines = ["| times | rows: tokens/s | rows: peak MiB | length: tokens/s | length: peak MiB |"]
    lines.append("|---" * 5 + "|")
    speeds: dict[str, list[float]] = {"more rows": [], "longer rows": []}
    for factor in FACTORS:
        figures = []
        for kind, rows in (
            ("more rows", equal(64, 64, rows=factor)),
            ("longer rows", equal(64 * factor, 64 * factor)),
        ):
            (found,) = compare(Work(kind, "dpo", "small", rows), [], reps, device).values()
            speeds[kind].append(tokens(rows) / median(found.seconds))
            figures += [f"{speeds[kind][-1]:.0f}", f"{median(found.peak):.0f}"]
        lines.append(f"| {factor} | " + " | ".join(figures) + " |")
        print(lines[-1], flush=True)
    table = "\n".join(lines)
    if write:
        readme = ROOT / "benchmarks/README.md"
        readme.write_text(between(readme.read_text(), "scaling", table))
        _plot(speeds)


def _plot(speeds: dict[str, list[float]]) -> None:
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "scaling"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for kind, values in speeds.items():
        axes.plot(FACTORS, values, marker="o", label=kind)
    axes.set(xscale="log", xticks=FACTORS, xticklabels=[f"{f}×" for f in FACTORS], ylim=(0, None))
    axes.set(xlabel="times 64 + 2 × 64 tokens", ylabel="tokens per CPU second")
    axes.minorticks_off()
    axes.legend()
    figure.savefig(ROOT / "benchmarks/scaling.svg", metadata={"Date": None})


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
