"""LightningCLI for every module and DataModule, and the settings of its parser."""

from __future__ import annotations

from typing import Any

from jsonargparse import _typehints, _util, set_parsing_settings
from pytorch_lightning.cli import LightningCLI

from lightning_rlhf.callbacks import SaveRoles
from lightning_rlhf.callbacks.memory_guard import MemoryGuard
from lightning_rlhf.callbacks.save_on_stop import SaveOnStop
from lightning_rlhf.functional.pairs import Term
from lightning_rlhf.functional.shaping import Shaping
from lightning_rlhf.models.lora import LoRA
from lightning_rlhf.models.sampler import Sampling
from lightning_rlhf.modules.ppo import Critic
from lightning_rlhf.modules.update_schedule import UpdateSchedule
from lightning_rlhf.parsing.mistakes import of_the_config
from lightning_rlhf.training.checkpoint import check_file
from lightning_rlhf.training.last_checkpoint import last_checkpoint


class AlignmentCLI(LightningCLI):
    """LightningCLI for every module and DataModule, of this package or of yours."""

    def _parse_ckpt_path(self) -> None:
        """Keep the arguments that were typed.

        Lightning would replace them by those of a resumed checkpoint without a message. Values
        that have to agree with a checkpoint (base, rank, roles) are checked as it loads. Values
        that it would override (learning rate, optimizer, patience) are refused.
        """

    def instantiate_classes(self) -> None:
        """Make the module, data and Trainer.

        Raises:
            ValueError: a value of the config has a kind that no constructor was made for.
        """
        try:
            super().instantiate_classes()
        except (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
            reason = of_the_config(error)
            if reason is None:
                raise
            raise ValueError(reason) from error

    def before_fit(self) -> None:
        """Check the checkpoint before anything else is read."""
        if path := self._checkpoint("fit"):
            check_file(path, self.model)

    def before_validate(self) -> None:
        """Check a checkpoint that is only evaluated; it may be of another method."""
        if path := self._checkpoint(self.config.subcommand):
            check_file(path)

    before_test = before_predict = before_validate

    def _checkpoint(self, verb: str) -> str | None:
        """Return the path of the given checkpoint; ``last`` is the run's own last one."""
        path: str | None = self.config[verb].ckpt_path
        if path == "last":
            resumes = verb == "fit"
            path = str(last_checkpoint(self.trainer, self.model, self.datamodule, resumes))
            self.config_init[verb].ckpt_path = path
        return path


class _NestedArg(_util.NestedArg):
    """As in jsonargparse, but null stays null two levels down, where it would become "None"."""

    def __new__(cls, key: str, val: Any) -> _NestedArg:
        return super().__new__(cls, key, "null" if val is None else val)


for where in (_util, _typehints):
    setattr(where, "NestedArg", _NestedArg)  # noqa: B010  (mypy: a type is not assigned to)
# Without this, jsonargparse loses a dataclass when the command line replaces the method.
set_parsing_settings(subclasses_enabled=[LoRA, Term, Sampling, Shaping, UpdateSchedule, Critic])


def cli_options() -> dict[str, Any]:
    """Return the options in which this command line differs from a plain LightningCLI."""
    return {
        "subclass_mode_model": True,
        "subclass_mode_data": True,
        "auto_configure_optimizers": False,  # a module makes its own optimizer
        "seed_everything_default": 0,
        "save_config_kwargs": {"overwrite": True},
        "trainer_defaults": {
            "default_root_dir": "runs",
            "callbacks": [SaveRoles(), MemoryGuard(), SaveOnStop()],
        },
        "parser_kwargs": {
            "prog": "lightning-rlhf",
            "exit_on_error": False,
            **{verb: {"exit_on_error": False} for verb in LightningCLI.subcommands()},
        },
    }
