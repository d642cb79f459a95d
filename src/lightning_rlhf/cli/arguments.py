"""Parse the arguments of a verb: a function's own, or those of ``fit``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, TypeVar

from jsonargparse import auto_cli
from pytorch_lightning import LightningDataModule, LightningModule

from lightning_rlhf.parsing.mistakes import sentence
from lightning_rlhf.parsing.parser import AlignmentCLI, cli_options

T = TypeVar("T")


def call_with(function: Callable[..., T], verb: str, args: list[str]) -> T:
    """Call a function with its parameters read from the command line.

    Raises:
        ValueError: an argument that the function does not have, or of another kind.
    """
    prog = f"lightning-rlhf {verb}"
    try:
        made: T = auto_cli(function, args=args, as_positional=True, exit_on_error=False, prog=prog)
    except argparse.ArgumentError as error:
        raise ValueError(sentence(str(error), [verb, *args], {verb: function})) from error
    return made


def describe_run(args: list[str]) -> AlignmentCLI:
    """Build the module and data that the arguments of ``fit`` describe: unloaded, without a GPU."""
    on_cpu = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.logger=false"]
    options: dict[str, Any] = {**cli_options(), "save_config_callback": None, "run": False}
    return AlignmentCLI(LightningModule, LightningDataModule, **options, args=args + on_cpu)
