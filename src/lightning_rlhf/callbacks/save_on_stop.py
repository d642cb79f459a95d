"""Write a checkpoint when a run is stopped or fails, and end with the signal's exit status."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.optim import Optimizer

from lightning_rlhf.callbacks.run_folder import checkpoint_folder, run_folder
from lightning_rlhf.modules.online import OnlineModule
from lightning_rlhf.text.writing import claim
from lightning_rlhf.training.checkpoint import rng_state
from lightning_rlhf.training.step_guard import NotFinite
from lightning_rlhf.training.stopping import Stopped, StopRequest

log = logging.getLogger(f"pytorch_lightning.{__name__}")  # Lightning prints its messages
NAME = "stopped"


class SaveOnStop(Callback):
    """On SIGTERM, Ctrl-C and errors in a fit, write a checkpoint of the last whole step.

    A signal lets the step in progress end; after five seconds, or at a second signal, the step is
    left, also in the middle of a reward that hangs. The process ends with status 143 or 130. While
    a fit runs, no other process can write into its folder. The command line adds this callback.
    """

    def __init__(self) -> None:
        self._request = StopRequest(self._noticed, self._last_resort)
        self._trainer: Trainer | None = None
        self._whole: dict[str, Any] | None = None  # the loops and generators after a whole step
        self._whole_step = -1
        self._batches = 0  # since then
        self._lock: FileLock | None = None

    # ---- from beginning to end ----

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer, self._whole, self._batches = trainer, None, 0
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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remember(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._request.grant()
        self._batches += 1

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self._request.busy = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._request.busy = False
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        self._remember(trainer)

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        self._request.grant()

    def on_test_batch_start(self, *_: Any, **__: Any) -> None:
        self._request.grant()

    def on_predict_batch_start(self, *_: Any, **__: Any) -> None:
        self._request.grant()

    def _remember(self, trainer: Trainer) -> None:
        """Note the place of loops and loaders, and the random state."""
        if trainer.world_size > 1:
            return
        connector = trainer._checkpoint_connector
        self._whole = {"loops": connector._get_loops_state_dict(), "rng": rng_state()}
        self._whole_step, self._batches = trainer.global_step, 0

    # ---- the end before the end ----

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        path = None
        if trainer.state.fn == "fit":
            path = self._save(trainer, pl_module, exception)
        if isinstance(exception, Stopped):
            exception.checkpoint = path or _saved_before(trainer)
        elif path is not None and trainer.is_global_zero:
            log.info(
                "a checkpoint of step %d, the last whole one, is in %s", self._whole_step, path
            )
        self._end()

    def _save(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException | None
    ) -> Path | None:
        """Write a checkpoint of the last whole step, if the weights are still those of it."""
        folder = checkpoint_folder(trainer)
        if folder is None:
            return None
        path = folder / f"{NAME}-step={trainer.global_step}.ckpt"
        if isinstance(exception, SIGTERMException):  # of all processes, between two batches
            trainer.save_checkpoint(path)
            return path
        if (
            self._whole is None
            or trainer.global_step == 0
            or not self._is_whole(trainer, exception)
        ):
            return None
        if isinstance(pl_module, OnlineModule) and self._batches > 1:
            return None  # its updates on a rollout are counted by batch, not by step
        try:
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            trainer.strategy.save_checkpoint(checkpoint | self._whole, path)
        except ValueError as reason:  # such as weights of NaN; the first error is the one to tell
            log.warning("no checkpoint of this moment: %s", reason)
            return None
        return path

    def _is_whole(self, trainer: Trainer, exception: BaseException | None) -> bool:
        stepping = self._request.busy and not isinstance(exception, NotFinite)
        return trainer.global_step == self._whole_step and not stepping

    def _noticed(self) -> None:
        """Keep Lightning from ending the run itself, at a place and with a status of its own."""
        if self._trainer is not None:
            self._trainer._signal_connector.received_sigterm = False

    def _last_resort(self) -> None:
        if self._trainer is not None and self._trainer.state.fn == "fit":
            path = self._save(self._trainer, self._trainer.lightning_module, None)
            print(f"the checkpoint to go on from is {path}" if path else "", file=sys.stderr)


def _saved_before(trainer: Trainer) -> Path | None:
    """Find the newest checkpoint that a fit has written, or has begun from."""
    if trainer.state.fn != "fit":
        return None
    names = [trainer.ckpt_path]
    for callback in trainer.checkpoint_callbacks:
        names += [getattr(callback, n, None) for n in ("last_model_path", "best_model_path")]
    found = [path for name in names if name and (path := Path(str(name))).is_file()]
    return max(found, key=lambda path: path.stat().st_mtime_ns) if found else None
