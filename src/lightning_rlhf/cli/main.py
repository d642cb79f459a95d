"""Floor 4. The command line: LightningCLI's verbs, and a few beside them."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from jsonargparse import auto_cli
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.cli import LightningCLI
from rich.console import Console

from lightning_rlhf.cli.chat import chat
from lightning_rlhf.cli.inspect import data_of, inspect, look_of, rows_option
from lightning_rlhf.cli.judge_eval import evaluate_judge, trace
from lightning_rlhf.cli.plan import report, split_arguments
from lightning_rlhf.cli.quickstart import quickstart
from lightning_rlhf.cli.run import run_recipe
from lightning_rlhf.constitution.demonstrations import write_demonstrations
from lightning_rlhf.parsing.mistakes import MISTAKES, sentence, written_for_users
from lightning_rlhf.parsing.parser import AlignmentCLI, cli_options

VERBS: dict[str, Callable[..., Any]] = {
    "chat": chat,
    "quickstart": quickstart,
    "judge-eval": evaluate_judge,
    "demonstrate": write_demonstrations,
    "trace": trace,
}
HELP = """\
lightning-rlhf: preference optimization for PyTorch Lightning

  fit         train:     lightning-rlhf fit --config configs/dpo.yaml
  validate    measure a checkpoint on the held-out part
  test        the same, once
  predict     write completions or scores as rows
  plan        will it fit? a step's memory, before anything is loaded: plan --config X --gpu 12
  inspect     what is masked? rows as the model sees them: inspect --config X, or inspect FILE
  run         a recipe, stage by stage, resumable: lightning-rlhf run configs/rlhf.yaml
  demonstrate rows of self-critique behind the gates, as rows to imitate
  judge-eval  is a judge any good? judge-eval PAIRS MODEL, before it labels anything
  trace       the story of one training row: trace ID runs/constitutional
  chat        talk to a trained role, its reference beside it
  quickstart  every method on a toy world: six minutes on a CPU core

`lightning-rlhf VERB --help` says more. Any method swaps in by its class: --model RewardModule.
"""


def main(args: list[str] | None = None) -> None:
    """Entry point. A mistake of the user's is one sentence; a fault of ours is a traceback."""
    args = sys.argv[1:] if args is None else args
    quiet()
    if not args or args[0] in ("-h", "--help"):
        print(HELP)
        return
    try:
        if args[0] == "plan":
            _plan(args[1:])
        elif args[0] == "inspect":
            _inspect(args[1:])
        elif args[0] == "run":
            run_recipe(args[1:])
        elif args[0] in VERBS:
            auto_cli(VERBS[args[0]], args=args[1:], as_positional=True, exit_on_error=False)
        else:
            AlignmentCLI(LightningModule, LightningDataModule, **cli_options(), args=args)
    except argparse.ArgumentError as error:
        verbs = {**dict.fromkeys([*LightningCLI.subcommands(), "plan", "inspect", "run"]), **VERBS}
        _stop(error, sentence(str(error), args, verbs))
    except MISTAKES as error:
        _stop(error, written_for_users(error))


def _stop(error: BaseException, said: object) -> None:
    """Leave with one sentence; with the traceback where there is none, or one is wanted."""
    if said is None or os.environ.get("LIGHTNING_RLHF_TRACEBACK"):
        raise error
    print(f"error: {said}", file=sys.stderr)
    sys.exit(2)


def _described(args: list[str]) -> AlignmentCLI:
    """The module and data that the configs of ``fit`` describe, nothing loaded, on no GPU."""
    here = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.logger=false"]
    options = {**cli_options(), "save_config_callback": None, "run": False}
    return AlignmentCLI(LightningModule, LightningDataModule, **options, args=args + here)


def _inspect(args: list[str]) -> None:
    """The data of a run, by the configs of ``fit``, or of one file; no weights are read."""
    rows, args = rows_option(args)
    console, updates = Console(), 0
    if any(arg.startswith(("--config", "-c", "--data", "--model")) for arg in args):
        cli = _described(args)
        found = (getattr(part, "tokenizer", None) for part in cli.model.modules())
        data, tokenizer = cli.datamodule, next((t for t in found if t is not None), None)
        updates = getattr(cli.model, "updates_per_rollout", 0)
        if tokenizer is None:
            raise ValueError(f"{type(cli.model).__name__} has no tokenizer to inspect data with")
    else:
        data = data_of(look_of(args), console)
        tokenizer = data.tokenizer
    sys.exit(0 if inspect(data, tokenizer, rows, console, updates) else 1)


def _plan(args: list[str]) -> None:
    """The same configs as ``fit``; neither data nor weights are read, and no GPU is needed."""
    asked, args = split_arguments(args)
    cli = _described(args)
    precision = str(cli.config.trainer.precision or "32-true")
    accumulates = (cli.config.trainer.accumulate_grad_batches or 1) > 1
    fits = report(cli.model, cli.datamodule, precision, accumulates, asked, Console())
    sys.exit(0 if fits else 1)


def quiet() -> None:
    """Silence what no user of ours can act on, and advertisements."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage()
    )
    for message in (
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*'set_vital' is deprecated.*",
        ".*args parameter is intended to run from within Python.*",
        ".*does not have many workers.*",
        ".*num_workers.*bottleneck.*",
        ".*`IterableDataset` has `__len__` defined.*",  # a stream's is the run's
    ):
        warnings.filterwarnings("ignore", message=message)
