"""Write a checkpoint when a run is stopped or fails, and end with the signal's exit status."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lightning_rlhf.callbacks.run_folder import checkpoint_folder, run_folder
from lightning_rlhf.text.display import printable
from lightning_rlhf.text.writing import claim
from lightning_rlhf.training.resume import last_whole
from lightning_rlhf.training.stopping import Stopped, StopRequest

log = logging.getLogger(f"pytorch_lightning.{__name__}")  # Lightning prints its messages
NAME = "stopped"


class SaveOnStop(Callback):
    """On SIGTERM, Ctrl-C and errors in a fit, write a checkpoint of the last whole step.

    A signal lets the step in progress end; after five seconds, or at a second signal, the step is
    left, also in the middle of a reward that hangs. The process ends with status 143 or 130. While
    a fit runs, no other process can write into its folder. The command line adds this callback.
    """

    saves_when_stopped = True  # so that a fit remembers its last whole batch

    def __init__(self) -> None:
        self._request = StopRequest(self._noticed, self._last_resort)
        self._trainer: Trainer | None = None
        self._lock: FileLock | None = None

    # ---- from beginning to end ----

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        if trainer.world_size == 1:  # else Lightning lets all processes end at one place
            self._request.listen()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()
        self._request.grant()  # whatever comes after this run does not begin

    def _end(self) -> None:
        self._request.end()
        self._trainer = None
        if self._lock is not None:
            self._lock.release()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Claim the run's folder."""
        if trainer.is_global_zero and (trainer.loggers or checkpoint_folder(trainer)):
            fix = "start again, for a folder of its own, or give another one"
            self._lock = claim(run_folder(trainer) / "run", fix)

    # ---- places where nothing is half done ----

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._request.grant()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self._request.busy = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._request.busy = False

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        self._request.grant()

    def on_test_batch_start(self, *_: Any, **__: Any) -> None:
        self._request.grant()

    def on_predict_batch_start(self, *_: Any, **__: Any) -> None:
        self._request.grant()

    # ---- the end before the end ----

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        path = self._save(trainer) if trainer.state.fn == "fit" else None
        if isinstance(exception, Stopped):
            exception.checkpoint = path or _saved_before(trainer)
        elif path is not None and trainer.is_global_zero:
            log.info("a checkpoint of the last whole step is in %s", path)
        self._end()

    def _save(self, trainer: Trainer) -> Path | None:
        """Write a checkpoint of the last whole batch, if the weights are still those of it."""
        folder = checkpoint_folder(trainer)
        if folder is None or not last_whole(trainer):
            return None
        path = folder / f"{NAME}-step={trainer.global_step}.ckpt"
        try:
            trainer.save_checkpoint(path)
        except ValueError as reason:  # such as a full disk; the first error is the one to tell
            log.warning("no checkpoint of this moment: %s", reason)
            return None
        return path

    def _noticed(self) -> None:
        """Keep Lightning from ending the run itself, at a place and with a status of its own."""
        if self._trainer is not None:
            self._trainer._signal_connector.received_sigterm = False

    def _last_resort(self) -> None:
        if self._trainer is not None and self._trainer.state.fn == "fit":
            path = self._save(self._trainer)
            if path is not None:
                sys.stderr.write(printable(f"the checkpoint to go on from is {path}") + "\n")


def _saved_before(trainer: Trainer) -> Path | None:
    """Find the newest checkpoint that a fit has written, or has begun from."""
    if trainer.state.fn != "fit":
        return None
    names = [trainer.ckpt_path]
    for callback in trainer.checkpoint_callbacks:
        names += [getattr(callback, n, None) for n in ("last_model_path", "best_model_path")]
    found = [path for name in names if name and (path := Path(str(name))).is_file()]
    return max(found, key=lambda path: path.stat().st_mtime_ns) if found else None
