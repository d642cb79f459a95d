"""``lightning-rlhf plan``: the memory of a run's largest step, before anything is loaded."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_rlhf.cli.arguments import describe_run
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.planning.budget import TIGHT, Run, changes, in_gib, largest, run_of
from lightning_rlhf.planning.plan import GIB, Plan, base_dtype
from lightning_rlhf.text.display import PrintableConsole


class Options(NamedTuple):
    """The options of ``plan`` beside the arguments of ``fit``."""

    gpu: float | None  # GiB of the card; None takes the card of this machine
    completions: int  # of each prompt


def main(args: list[str]) -> int:
    """Print the plan of the run that the arguments of ``fit`` describe; 1 if it does not fit."""
    options, args = split_arguments(args)
    cli = describe_run(args)
    fits = report(
        cli.model,
        cli.datamodule,
        PrintableConsole(),
        precision=str(cli.config.trainer.precision or "32-true"),
        accumulates=(cli.config.trainer.accumulate_grad_batches or 1) > 1,
        options=options,
    )
    return 0 if fits else 1


def split_arguments(args: list[str]) -> tuple[Options, list[str]]:
    """Separate the options of ``plan`` from the arguments of ``fit``."""
    parser = argparse.ArgumentParser(
        "lightning-rlhf plan",
        description="Plan the memory of a step before anything is loaded. All other arguments are "
        "those of fit: lightning-rlhf plan --config configs/dpo.yaml --gpu 12",
    )
    parser.add_argument("--gpu", type=float, help="GiB of the card; the one of this machine if not")
    parser.add_argument("--completions", type=int, default=2, help="of each prompt of a ranking")
    own, rest = parser.parse_known_args(args)
    return Options(**vars(own)), rest


def report(
    module: Any,
    data: Any,
    console: Console,
    *,
    precision: str,
    accumulates: bool,
    options: Options,
) -> bool:
    """Print the plan of a run's largest step; return True if it fits.

    Args:
        module: not loaded.
        data: not set up.
        console: shows the plan.
        precision: of the Trainer.
        accumulates: the Trainer makes a step of several batches.
        options: the card, and the completions of a row.

    Raises:
        ValueError: the module or the data is not of this package: its largest step is unknown.
    """
    if not isinstance(module, AlignmentModule) or not isinstance(data, RowsData):
        raise ValueError(
            f"plan cannot tell the largest step of {type(module).__name__} on "
            f"{type(data).__name__}: use a module and data of this package"
        )
    gpu = options.gpu
    if gpu is None and torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0).total_memory / GIB
    run = run_of(
        module, data, precision, "cuda",
        accumulates=accumulates, completions=options.completions,
    )  # fmt: skip
    planned = run.plan()
    console.print(_table(run, planned))
    if gpu is None:
        console.print("Give --gpu 12 for a verdict on a card of 12 GiB.")
        return True
    return _verdict(run, planned, gpu, console)


def _table(run: Run, planned: Plan) -> Table:
    """Make a table of GiB with a row per kind of memory and a column per phase."""
    backbone = run.module.backbone
    base = backbone.quantization or str(base_dtype(backbone, run.target)).removeprefix("torch.")
    prompt, *completions = run.groups[0]
    row = f"{prompt} + {len(completions)} × {completions[0]}"
    title = f"{type(run.module).__name__}, {backbone.name_or_path} ({base})\n"
    table = Table(title=title + f"{run.rows} × ({row}) tokens: GiB at each phase's peak")
    table.add_column("planned, not measured")
    for phase in planned.phases:
        table.add_column(phase.name, justify="right")
    for kind in dict.fromkeys(kind for phase in planned.phases for kind in phase.kinds):
        table.add_row(kind, *(in_gib(phase.kinds.get(kind, 0)) for phase in planned.phases))
    table.add_section()
    table.add_row("in all", *(in_gib(phase.total) for phase in planned.phases), style="bold")
    return table


def _verdict(run: Run, planned: Plan, gpu: float, console: Console) -> bool:
    memory, peak = gpu * GIB, planned.peak.total
    fits = peak <= memory
    word = "fits" if peak <= TIGHT * memory else "is tight on" if fits else "does not fit"
    console.print(
        Text.assemble("It ", (word, "bold"), f" {gpu:g} GiB: {in_gib(peak)} GiB at its peak.")
    )
    rows, length = largest(run, memory, "rows"), largest(run, memory, "length")
    console.print(
        f"The most that fits: {rows} rows of {run.length} tokens, or {run.rows} of {length}."
    )
    if peak > TIGHT * memory:
        console.print(advice(run, memory))
    return fits


def advice(run: Run, memory: float) -> Table:
    """Make a table of the changes that would make room, each alone."""
    table = Table(title="What would make room, each alone")
    for name in ("change", "its cost", "saves GiB", "then fits"):
        table.add_column(name)
    for change in changes(run, memory):
        yes = "yes" if change.fits else "no"
        table.add_row(change.name, change.cost, in_gib(change.saves), yes)
    return table
