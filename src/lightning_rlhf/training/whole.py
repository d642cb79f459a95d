"""The state after the last whole batch, for a checkpoint that is asked for inside the next one."""

from __future__ import annotations

import copy
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from pytorch_lightning.trainer import call


class Whole:
    """Remember where loops, loaders, callbacks and the module were; weights are not copied.

    So the checkpoint of an exception is that of the last whole batch, unless the optimizer has
    begun to change the weights since. Only a run with a callback that saves on exceptions
    remembers, and only in one process: others would wait for the one that fails.

    Args:
        trainer: of the fit.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.remembering = False
        self.stepping = False  # the weights have begun to change
        self._wanted = False
        self._state: dict[str, Any] | None = None

    def begin(self) -> None:
        """Begin a fit."""
        module, callbacks = self.trainer.lightning_module, self.trainer.callbacks  # type: ignore[attr-defined]
        self._wanted = (
            self.trainer.world_size == 1
            and hasattr(module, "progress_state")
            and any(_saves_on_exception(callback) for callback in callbacks)
        )
        self._state, self.stepping = None, False

    def remember(self) -> None:
        """Remember this place, at which nothing is half done."""
        self.stepping = False
        if not self._wanted:
            return
        self.remembering = True
        try:
            loops = self.trainer._checkpoint_connector._get_loops_state_dict()
            callbacks = copy.deepcopy(call._call_callbacks_state_dict(self.trainer))
            module: Any = self.trainer.lightning_module
            self._state = {"loops": loops, "callbacks": callbacks, **module.progress_state()}
        finally:
            self.remembering = False

    def recall(self) -> dict[str, Any] | None:
        """Return the parts of a checkpoint to write instead of those of now; None if none fit."""
        return None if self.stepping else self._state


def _saves_on_exception(callback: Any) -> bool:
    if isinstance(callback, ModelCheckpoint):
        return bool(callback.save_on_exception)
    return isinstance(callback, OnExceptionCheckpoint) or getattr(
        callback, "saves_when_stopped", False
    )
