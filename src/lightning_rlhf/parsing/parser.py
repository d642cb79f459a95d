"""Floor 4. LightningCLI over every module and DataModule, and what its parser is taught."""

from __future__ import annotations

from typing import Any

from jsonargparse import _typehints, _util, set_parsing_settings
from pytorch_lightning.cli import LightningCLI

from lightning_rlhf.callbacks import SaveRoles
from lightning_rlhf.callbacks.memory_guard import MemoryGuard
from lightning_rlhf.functional.pairs import Term
from lightning_rlhf.functional.shaping import Shaping
from lightning_rlhf.models.lora import LoRA
from lightning_rlhf.models.sampler import Sampling
from lightning_rlhf.modules.ppo import Critic
from lightning_rlhf.modules.update_schedule import UpdateSchedule
from lightning_rlhf.training.checkpoint import check_file


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
set_parsing_settings(subclasses_enabled=[LoRA, Term, Sampling, Shaping, UpdateSchedule, Critic])


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
