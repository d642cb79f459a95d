"""Entry point of the command line: LightningCLI's verbs, and ours beside them."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_rlhf.cli import (
    build_demonstrations,
    chat,
    inspect,
    judge_eval,
    plan,
    quickstart,
    run,
    trace,
)
from lightning_rlhf.parsing.mistakes import MISTAKES, sentence, written_for_users
from lightning_rlhf.parsing.parser import AlignmentCLI, cli_options
from lightning_rlhf.text.display import PrintableLog, sentence_of
from lightning_rlhf.training.stopping import Stopped, stopped_by_signals

PRINTABLE = PrintableLog()


class Verb(NamedTuple):
    """A verb of the command line."""

    main: Callable[[list[str]], int | None]  # takes its arguments, returns the exit status
    summary: str


def lightning(args: list[str]) -> int | None:
    """Run a verb of LightningCLI; the verb is the first argument."""
    AlignmentCLI(LightningModule, LightningDataModule, **cli_options(), args=args)
    return None


LIGHTNING = {
    "fit": "train: lightning-rlhf fit --config configs/dpo.yaml",
    "validate": "measure a checkpoint on the held-out part",
    "test": "the same, once",
    "predict": "write completions or scores as rows",
}
VERBS = {
    "plan": Verb(plan.main, "memory of a step, nothing is loaded: plan --config X --gpu 12"),
    "inspect": Verb(inspect.main, "rows as the model sees them: inspect --config X, or a FILE"),
    "run": Verb(run.main, "a recipe, stage by stage, resumable: run configs/rlhf.yaml"),
    "build-demonstrations": Verb(
        build_demonstrations.main, "revisions that pass the gates, as rows to train on"
    ),
    "judge-eval": Verb(judge_eval.main, "measure a judge on human labels: judge-eval PAIRS MODEL"),
    "trace": Verb(trace.main, "the story of one training row: trace ID runs/constitutional"),
    "chat": Verb(chat.main, "talk to a trained role beside its reference"),
    "quickstart": Verb(quickstart.main, "every method on a toy world: six minutes on a CPU core"),
}


def main(args: list[str] | None = None) -> None:
    """Run a verb. A user's mistake is one sentence; a fault of this package is a traceback."""
    args = sys.argv[1:] if args is None else args
    quiet()
    if not args or args[0] in ("-h", "--help"):
        print(help_text())
        return
    try:
        with stopped_by_signals():
            verb = VERBS.get(args[0])
            status = lightning(args) if verb is None else verb.main(args[1:])
    except Stopped as stopped:
        rank_zero_only(print)(f"\n{how_to_go_on(stopped, args)}", file=sys.stderr)
        sys.exit(stopped.code)
    except SIGTERMException:  # of several processes, which Lightning ends
        sys.exit(128 + signal.SIGTERM)
    except argparse.ArgumentError as error:
        _stop(error, sentence(str(error), args, dict.fromkeys([*LIGHTNING, *VERBS])))
    except MISTAKES as error:
        _stop(error, written_for_users(error))
    if status is not None:
        sys.exit(status)


def help_text() -> str:
    """Every verb with its summary."""
    summaries = {**LIGHTNING, **{name: verb.summary for name, verb in VERBS.items()}}
    width = max(map(len, summaries))
    verbs = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in summaries.items())
    return f"""\
lightning-rlhf: preference optimization for PyTorch Lightning

{verbs}

`lightning-rlhf VERB --help` says more. Any method swaps in by its class: --model RewardModule.
"""


def _stop(error: BaseException, reason: object) -> NoReturn:
    """Exit with one sentence; with the traceback if there is none, or the user wants it."""
    if reason is None or os.environ.get("LIGHTNING_RLHF_TRACEBACK"):
        raise error
    print(f"error: {sentence_of(reason)}", file=sys.stderr)
    sys.exit(2)


def how_to_go_on(stopped: Stopped, args: list[str]) -> str:
    """Say what stopped a command, what is left of it, and the command that goes on."""
    verb, rest = args[0], args[1:]
    if verb == "run":
        rest = _without(rest, "--from")  # else its stage would begin anew
    if stopped.checkpoint is not None and verb == "fit":
        rest = [*_without(rest, "--ckpt_path"), "--ckpt_path", str(stopped.checkpoint)]
    found = f"; the checkpoint to go on from is {stopped.checkpoint}" if stopped.checkpoint else ""
    how = "go on with" if stopped.checkpoint or verb in ("run", "predict") else "start again with"
    return f"stopped by {stopped.name}{found}; {how}: {shlex.join(['lightning-rlhf', verb, *rest])}"


def _without(args: list[str], option: str) -> list[str]:
    """Leave an option and its value out."""
    kept, skipped = [], False
    for arg in args:
        if not skipped and not arg.startswith(f"{option}="):
            skipped = arg == option
            kept += [] if skipped else [arg]
        else:
            skipped = False
    return kept


def quiet() -> None:
    """Silence warnings that no user of this package can act on, and advertisements."""
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    logger.addFilter(lambda record: "litlogger" not in record.getMessage())
    logger.addFilter(PRINTABLE)
    for message in (
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*'set_vital' is deprecated.*",
        ".*args parameter is intended to run from within Python.*",
        ".*does not have many workers.*",
        ".*num_workers.*bottleneck.*",
        ".*`IterableDataset` has `__len__` defined.*",  # the length of a stream is that of the run
    ):
        warnings.filterwarnings("ignore", message=message)
