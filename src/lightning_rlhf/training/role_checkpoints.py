"""Modules whose checkpoints hold adapters and heads, and no frozen weight."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

from pytorch_lightning import LightningModule

from lightning_rlhf.functional.processes import Processes
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.training import (
    belonging,
    checkpoint,
    checkpoint_io,
    other_processes,
    resume,
)
from lightning_rlhf.training.finite import refuse_nan
from lightning_rlhf.training.hparams import refuse_imports


class RoleCheckpoints(LightningModule):
    """Save the roles of a backbone and the random state; resume from no other method's checkpoint.

    Args:
        backbone: the base and its roles.
    """

    trained: ClassVar[tuple[str, ...]]  # roles that receive gradients
    makes_rollouts: ClassVar[bool] = False  # trains on what each process has sampled

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone
        # a checkpoint holds no frozen weight; what it must hold is checked by name
        self.strict_loading = False
        self.is_alone = False  # in a trial step, of which other processes make another number
        self._resumed: dict[str, Any] | None = None  # the checkpoint, until optimizers are there

    @property
    def processes(self) -> Processes:
        """This process among those of the run, or alone in what others do not do with it."""
        trainer = self._trainer
        if trainer is None or self.is_alone:
            return Processes()
        return Processes(self.global_rank, trainer.world_size)

    def setup(self, stage: str) -> None:
        self._resumed = None

    def on_save_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        checkpoint.keep_roles(checkpoint_, self._prefix(), self.backbone)
        refuse_nan(self._roles_in(checkpoint_), "the run", "they are not saved")
        if self._trainer is not None:
            checkpoint_[other_processes.KEY] = list(other_processes.step_of(self.trainer))
        checkpoint_[belonging.KEY] = belonging.stamp(self.backbone, self._trainer)
        checkpoint_.update(self.progress_state())
        resume.settle(self._trainer, checkpoint_)

    def progress_state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of a run beside its weights, by the checkpoint's keys."""
        return {}

    def on_load_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        fits = self._trainer is not None and self._trainer.state.fn == "fit"
        name = str((self._trainer and self._trainer.ckpt_path) or "the checkpoint")
        refuse_nan(self._roles_in(checkpoint_), name, "give a checkpoint from before that")
        if fits:
            checkpoint.check_class(checkpoint_.get("hyper_parameters", {}), self, name)
            checkpoint.check_resumable(checkpoint_, name)
            checkpoint.refuse_overridden(checkpoint.in_callbacks(checkpoint_, self.trainer), name)
            other_processes.adapt(checkpoint_, self.trainer, self.makes_rollouts, name)
            self._resumed = checkpoint_
        checkpoint.restore_roles(checkpoint_, self._prefix(), self.backbone, type(self).__name__)
        belonging.check(checkpoint_, self.backbone, name)
        self.backbone.train_roles(*self.trained)

    def on_fit_start(self) -> None:
        """Compare the given settings with those that Lightning is about to restore over them."""
        if self._resumed is not None:
            name = str(self.trainer.ckpt_path or "the checkpoint")
            settings = checkpoint.in_optimizers(self._resumed, self.trainer)
            checkpoint.refuse_overridden(settings, name)
            belonging.tell_differences(self._resumed, self, self.trainer)
            self._resumed = None

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load as Lightning does, weights only, and import nothing that a checkpoint names.

        Without its warning about the frozen weights left out.

        Raises:
            FileNotFoundError, ValueError: the checkpoint is damaged or names what is not imported.
        """
        source = checkpoint_io.source_of(checkpoint_path)
        settings = checkpoint_io.load(source, checkpoint_path).get("hyper_parameters", {})
        refuse_imports(settings, str(checkpoint_path))
        if not isinstance(source, Path):
            source.seek(0)
        kwargs.setdefault("weights_only", True)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Found keys that are in the model state dict but not"
            )
            return super().load_from_checkpoint(source, *args, **kwargs)

    def _roles_in(self, checkpoint_: dict[str, Any]) -> dict[str, Any]:
        prefix, state = self._prefix(), checkpoint_["state_dict"]
        return {key: value for key, value in state.items() if key.startswith(prefix)}

    def _prefix(self) -> str:
        """Prefix of the backbone's names in the state dict of the module that runs."""
        root = self._trainer.lightning_module if self._trainer is not None else self
        return next(f"{name}." for name, m in root.named_modules() if m is self.backbone)
