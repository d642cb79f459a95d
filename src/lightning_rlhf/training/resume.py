"""Continue a fit exactly where a checkpoint was written.

Lightning 2.6 saves in the middle of things: a ``ModelCheckpoint`` writes before its batch is
logged, before the validation that follows it, and before its epoch is counted. A resume then
guesses from counters what was left (`fit_loop.py`_, ``update_restart_stage``): it loses the
validation and the step of a ``ReduceLROnPlateau``, and takes one epoch's end for another's. It
restores neither random generators nor accumulated gradients, nor the metrics on which callbacks
decide.

Here a checkpoint is written when a batch, its validation or an epoch is whole, and says which.

.. _fit_loop.py: https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.1/src/lightning/pytorch/loops/fit_loop.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_fabric.utilities.types import _Stateful
from pytorch_lightning import Trainer
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.loops.fit_loop import RestartStage, _FitLoop
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

from lightning_rlhf.training.resume_state import (
    BETWEEN,
    EPOCH,
    INSIDE,
    STEP,
    Exact,
    Saving,
    compact,
)

KEY = "resume"


def install(trainer: Trainer) -> None:
    """Let a Trainer's fit save and resume so."""
    loop = trainer.fit_loop
    if type(loop) is _FitLoop and type(loop.epoch_loop) is _TrainingEpochLoop:
        loop.__class__ = ExactFitLoop
        loop.epoch_loop.__class__ = ExactEpochLoop
        loop.exact = Exact(trainer)  # type: ignore[attr-defined]


def weights_change(trainer: Trainer) -> None:
    """Note that the optimizer is about to change the weights."""
    if isinstance(trainer.fit_loop, ExactFitLoop):
        trainer.fit_loop.exact.whole.stepping = True


def save_when_whole(trainer: Trainer, path: Any) -> None:
    """Write a checkpoint as soon as the batch in progress is whole."""
    loop = trainer.fit_loop
    if isinstance(loop, ExactFitLoop) and loop.exact.place() == INSIDE:
        loop.exact.queue.append(Saving(None, lambda: trainer.save_checkpoint(path)))
    else:
        trainer.save_checkpoint(path)


def save_last_whole(trainer: Trainer, path: Any) -> bool:
    """Write a checkpoint at once, of the last whole step if it is inside one.

    A callback that calls this has a true ``saves_when_stopped``, so that steps are remembered.

    Returns:
        False if none can be written, because the weights are changing; the file is not touched.
    """
    loop = trainer.fit_loop
    if isinstance(loop, ExactFitLoop) and not loop.exact.can_save():
        return False
    trainer.save_checkpoint(path)
    return True


class ExactFitLoop(_FitLoop):
    """Lightning's loop over epochs, which goes on exactly where a checkpoint was written."""

    exact: Exact

    def on_save_checkpoint(self) -> dict:
        if not self.exact.whole.remembering:
            for logger in self.trainer.loggers:  # a resumed run logs what comes after this
                logger.save()
        return {**super().on_save_checkpoint(), KEY: self.exact.state(self.exact.place())}

    def load_state_dict(self, state_dict: dict, prefix: str = "") -> None:
        """Restore counters, and the place to go on from.

        Raises:
            ValueError: the checkpoint was written inside a step.
        """
        super().load_state_dict(state_dict, prefix)
        _Loop.restarting.fset(self, False)  # type: ignore[attr-defined]
        self._loaded_from_state_dict = self.epoch_loop._loaded_from_state_dict = False
        self._resuming_from_checkpoint = False
        if self.epoch_progress.total.ready == 0:
            return  # nothing was trained
        state = state_dict[f"{prefix}state_dict"].get(KEY)
        name = str(self.trainer.ckpt_path or "the checkpoint")
        check(state, self.trainer.world_size, name)
        self.exact.resumed = state
        if state["at"] == EPOCH:
            self.epoch_progress.increment_completed()
        self._resuming_from_checkpoint = self.exact.in_epoch  # its loader is not started anew
        self.epoch_loop.val_loop._restarting = True  # so that there is no sanity check
        self.trainer.should_stop = state["stops"]

    def _load_combined_loader_states(self) -> None:
        states, self._combined_loader_states_to_load = self._combined_loader_states_to_load, []
        if states and self._combined_loader is not None:
            self._combined_loader._load_state_dicts(states)

    def setup_data(self) -> None:
        """Make the loaders, and go to their places.

        Raises:
            ValueError: a loader cannot be resumed in the middle of an epoch.
        """
        super().setup_data()
        if self.exact.in_epoch and self._combined_loader is not None:
            check_loaders(self._combined_loader.flattened, self.max_batches)

    @property
    def done(self) -> bool:
        return not self.exact.in_epoch and super().done

    @property
    def skip(self) -> bool:
        if self.exact.resumed is not None:
            return self.trainer.limit_train_batches == 0
        return super().skip

    def update_restart_stage(self) -> None:
        super().update_restart_stage()
        if self.exact.in_epoch:
            self._restart_stage = RestartStage.RESTARTED_MID_EPOCH

    def on_run_start(self) -> None:
        resumed, val_loop = self.exact.resumed, self.epoch_loop.val_loop
        self.exact.queue.clear()
        self.exact.wait()
        val_loop._restarting = False
        if resumed is not None:
            self.exact.restore_decisions()
        super().on_run_start()
        self.exact.whole.begin()
        if resumed is None:
            return
        self._last_train_dl_reload_epoch = resumed["loaded"][0]
        val_loop._last_val_dl_reload_epoch = resumed["loaded"][1]
        if not self.exact.in_epoch:
            self._between_epochs()

    def _between_epochs(self) -> None:
        assert self.exact.resumed is not None
        if self.exact.resumed["at"] == EPOCH:
            self._uncounted(self.exact.restore_place)
        else:
            self.exact.restore_place()
        self.exact.resumed = None

    def on_advance_end(self) -> None:
        super().on_advance_end()
        self._uncounted(lambda: self.exact.save(EPOCH))

    def _uncounted(self, work: Callable[[], None]) -> None:
        """Do something while the epoch that has ended does not count yet: names of files tell."""
        progress = self.epoch_progress
        for tracker in (progress.total, progress.current):
            tracker.completed -= 1
        try:
            work()
        finally:
            progress.increment_completed()

    def on_iteration_done(self) -> None:
        super().on_iteration_done()
        self.exact.resumed = None

    def teardown(self) -> None:
        self.exact.release()
        super().teardown()


class ExactEpochLoop(_TrainingEpochLoop):
    """Lightning's loop over batches, which goes on exactly where a checkpoint was written."""

    @property
    def exact(self) -> Exact:
        """The state of the whole fit."""
        exact: Exact = self.trainer.fit_loop.exact  # type: ignore[attr-defined]
        return exact

    @property
    def unfinished(self) -> bool:
        """True while the validation after the resumed batch is still to come."""
        resumed = self.exact.resumed
        return resumed is not None and resumed["at"] == STEP

    @property
    def done(self) -> bool:
        return not self.unfinished and super().done

    def reset(self) -> None:
        if not self.exact.in_epoch:
            super().reset()

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        if self.exact.in_epoch:
            batches = self.batch_progress.current.ready
            self.trainer._logger_connector._first_loop_iter = batches == 1 if batches else None
            self.exact.restore_place()

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if self.unfinished:
            self.exact.resumed = None
            return  # what follows may validate
        self.exact.resumed = None
        super().advance(data_fetcher)
        self.exact.save(STEP)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        super().on_advance_end(data_fetcher)
        self.exact.save(BETWEEN)


def check(state: dict[str, Any] | None, processes: int, name: str) -> None:
    """Refuse a checkpoint from which nothing can go on exactly.

    Raises:
        ValueError: it was written inside a step, or does not say where.
    """
    if state is None:
        raise ValueError(
            f"{name} does not say where in the run it was written, so it cannot be resumed: start "
            "anew from its weights (SaveRoles writes them as folders for backbone.adapters)"
        )
    if state["at"] == INSIDE:
        raise ValueError(
            f"{name} was written inside a step, from where no run can go on exactly: resume from "
            "one that ModelCheckpoint wrote; an own callback that saves has to be a "
            "pytorch_lightning.callbacks.Checkpoint, whose turn comes when the batch is whole"
        )
    before = len(state["processes"])
    if before != processes and "gradients" in state["processes"][0]:
        raise ValueError(
            f"{name} holds the gradients that {before} processes had accumulated, and this run has "
            f"{processes}: resume with {before}, or from a checkpoint of a whole step"
        )


def check_loaders(loaders: list[Any], batches: float) -> None:
    """Refuse loaders that cannot go on in the middle of an epoch.

    Raises:
        ValueError: says which, and what to give.
    """
    stateless = next((type(one).__name__ for one in loaders if not isinstance(one, _Stateful)), "")
    if stateless:
        raise ValueError(
            f"the checkpoint is of the middle of an epoch, and the train loader, a {stateless}, "
            "cannot go to its place: give a torchdata.stateful_dataloader.StatefulDataLoader, or "
            "resume from an epoch's end"
        )
    if batches == float("inf"):
        raise ValueError(
            "the checkpoint is of the middle of an epoch, and the train loader has no length, so "
            "that Lightning has read a batch ahead of it: give its data set a __len__, or resume "
            "from an epoch's end"
        )


def settle(trainer: Trainer | None, checkpoint: dict[str, Any]) -> None:
    """Turn a checkpoint that is written inside a step into that of the last whole batch.

    Args:
        trainer: of the module that is saved, if any.
        checkpoint: complete but for this; changed in place.
    """
    loop = getattr(trainer, "fit_loop", None)
    if not isinstance(loop, ExactFitLoop) or loop.exact.place() != INSIDE:
        return
    whole = loop.exact.whole.recall()
    if whole is not None:
        fit = whole["loops"]["fit_loop"]
        own = {**fit["state_dict"], KEY: compact(fit["state_dict"][KEY])}
        loops = {**whole["loops"], "fit_loop": {**fit, "state_dict": own}}
        checkpoint.update({**whole, "loops": loops})
