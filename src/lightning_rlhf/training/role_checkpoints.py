"""Modules whose checkpoints hold adapters and heads, and no frozen weight."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

from pytorch_lightning import LightningModule

from lightning_rlhf.functional.processes import Processes
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.training import checkpoint


class RoleCheckpoints(LightningModule):
    """Save the roles of a backbone and the random state; resume from no other method's checkpoint.

    Args:
        backbone: the base and its roles.
    """

    trained: ClassVar[tuple[str, ...]]  # roles that receive gradients

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone
        # a checkpoint holds no frozen weight; what it must hold is checked by name
        self.strict_loading = False
        self._rng: dict[str, Any] | None = None  # of a checkpoint, until the next batch
        self._resumed: dict[str, Any] | None = None  # the checkpoint, until optimizers are there

    @property
    def processes(self) -> Processes:
        """This process among those of the run."""
        trainer = self._trainer
        return Processes() if trainer is None else Processes(self.global_rank, trainer.world_size)

    def setup(self, stage: str) -> None:
        self._resumed = None

    def on_save_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        checkpoint.keep_roles(checkpoint_, self._prefix(), self.backbone)
        checkpoint_["rng"] = self.processes.gather_states(checkpoint.rng_state())

    def on_load_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        fits = self._trainer is not None and self._trainer.state.fn == "fit"
        if fits:
            name = str(self.trainer.ckpt_path or "the checkpoint")
            checkpoint.check_class(checkpoint_.get("hyper_parameters", {}), self, name)
            checkpoint.refuse_overridden(checkpoint.in_callbacks(checkpoint_, self.trainer), name)
            self._resumed = checkpoint_
        checkpoint.restore_roles(checkpoint_, self._prefix(), self.backbone, type(self).__name__)
        self.backbone.train_roles(*self.trained)
        states = checkpoint_.get("rng")  # of each process; those of a seed are alike
        self._rng = states[self.processes.rank % len(states)] if states else None

    def on_fit_start(self) -> None:
        """Compare the given settings with those that Lightning is about to restore over them."""
        if self._resumed is not None:
            name = str(self.trainer.ckpt_path or "the checkpoint")
            settings = checkpoint.in_optimizers(self._resumed, self.trainer)
            checkpoint.refuse_overridden(settings, name)
            self._resumed = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Restore the random state of a checkpoint, only now: loaders drew from it meanwhile."""
        if self._rng is not None:
            checkpoint.set_rng_state(self._rng)
            self._rng = None

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as Lightning does, without its warning about the frozen weights left out."""
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Found keys that are in the model state dict but not"
            )
            return super().load_from_checkpoint(*args, **kwargs)

    def _prefix(self) -> str:
        """Prefix of the backbone's names in the state dict of the module that runs."""
        root = self._trainer.lightning_module if self._trainer is not None else self
        return next(f"{name}." for name, m in root.named_modules() if m is self.backbone)
