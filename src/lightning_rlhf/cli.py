"""Floor 4. The command line: LightningCLI's verbs, and a few beside them."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning_fabric
import pytorch_lightning
from jsonargparse import _typehints, _util, auto_cli, set_parsing_settings
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console

from lightning_rlhf.callbacks import SaveRoles
from lightning_rlhf.chat import chat
from lightning_rlhf.inspection import data_of, inspect, look_of, rows_option
from lightning_rlhf.mistakes import sentence
from lightning_rlhf.models.lora import LoRA
from lightning_rlhf.models.rollout import Sampling
from lightning_rlhf.modules.checkpoint import check_file
from lightning_rlhf.modules.dpo import Term
from lightning_rlhf.modules.online import Shaping, Updates
from lightning_rlhf.modules.ppo import Value
from lightning_rlhf.planning.command import report, split_arguments
from lightning_rlhf.planning.guard import MemoryGuard
from lightning_rlhf.quickstart.run import quickstart

OWN = Path(__file__).parent
LIGHTNING = [Path(str(p.__file__)).parent for p in (pytorch_lightning, lightning_fabric)]
MISTAKES = (
    ValueError, FileNotFoundError, ImportError, MisconfigurationException, RuntimeError,
)  # fmt: skip
VERBS: dict[str, Callable[..., Any]] = {"chat": chat, "quickstart": quickstart}
HELP = """\
lightning-rlhf: preference optimization for PyTorch Lightning

  fit         train:     lightning-rlhf fit --config configs/dpo.yaml
  validate    measure a checkpoint on the held-out part
  test        the same, once
  predict     write completions or scores as rows
  plan        will it fit? a step's memory, before anything is loaded: plan --config X --gpu 12
  inspect     what is masked? rows as the model sees them: inspect --config X, or inspect FILE
  chat        talk to a trained role, its reference beside it
  quickstart  SFT, reward model and DPO on a toy world: three minutes on a CPU

`lightning-rlhf VERB --help` says more. Any method swaps in by its class: --model RewardModule.
"""


class AlignmentCLI(LightningCLI):
    """LightningCLI over every module and DataModule, ours or yours."""

    def _parse_ckpt_path(self) -> None:
        """Leave the command line alone.

        Lightning would let a resumed checkpoint's arguments win over those just typed, and say
        nothing. What a checkpoint cannot change (base, rank, roles) is checked as it loads, and
        what it would override (learning rate, optimizer, patience) is refused.
        """

    def before_fit(self) -> None:
        """Look into the checkpoint before anything else is read."""
        if path := self.config.fit.ckpt_path:
            check_file(path, self.model)

    def before_validate(self) -> None:
        """The same for a checkpoint that is only measured, which may be another method's."""
        if path := self.config[self.config.subcommand].ckpt_path:
            check_file(path)

    before_test = before_predict = before_validate


class _NestedArg(_util.NestedArg):
    """jsonargparse's own, but null stays null two levels down, where it would turn into "None"."""

    def __new__(cls, key: str, val: Any) -> _NestedArg:
        return super().__new__(cls, key, "null" if val is None else val)


for where in (_util, _typehints):
    setattr(where, "NestedArg", _NestedArg)  # noqa: B010  (mypy: a type is not assigned to)
# Else jsonargparse cannot carry a dataclass over when a method is swapped on the command line.
set_parsing_settings(subclasses_enabled=[LoRA, Term, Sampling, Shaping, Updates, Value])


def cli_options() -> dict[str, Any]:
    """How our command line differs from a plain LightningCLI."""
    return {
        "subclass_mode_model": True,
        "subclass_mode_data": True,
        "auto_configure_optimizers": False,  # a module takes its optimizer itself
        "seed_everything_default": 0,
        "save_config_kwargs": {"overwrite": True},
        "trainer_defaults": {"default_root_dir": "runs", "callbacks": [SaveRoles(), MemoryGuard()]},
        "parser_kwargs": {
            "prog": "lightning-rlhf",
            "exit_on_error": False,
            **{verb: {"exit_on_error": False} for verb in LightningCLI.subcommands()},
        },
    }


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
        elif args[0] in VERBS:
            auto_cli(VERBS[args[0]], args=args[1:], as_positional=True, exit_on_error=False)
        else:
            AlignmentCLI(LightningModule, LightningDataModule, **cli_options(), args=args)
    except argparse.ArgumentError as error:
        verbs = {**dict.fromkeys([*LightningCLI.subcommands(), "plan"]), **VERBS}
        _stop(error, sentence(str(error), args, verbs))
    except MISTAKES as error:
        _stop(error, _written_for_users(error))


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


def _written_for_users(error: BaseException | None) -> BaseException | None:
    """The error we or Lightning raised, also under those that parsers wrapped around it."""
    while error is not None:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if any(raised_in.is_relative_to(package) for package in (OWN, *LIGHTNING)):
            return error
        if isinstance(error, RuntimeError):
            return None  # torch's faults are nobody's wording
        error = error.__cause__ or error.__context__
    return None


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
