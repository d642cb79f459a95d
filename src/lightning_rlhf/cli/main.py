"""Entry point of the command line: LightningCLI's verbs, and ours beside them."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from pytorch_lightning import LightningDataModule, LightningModule

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
        verb = VERBS.get(args[0])
        status = lightning(args) if verb is None else verb.main(args[1:])
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
