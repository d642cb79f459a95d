"""Continue a fit exactly where a checkpoint was written.

Lightning 2.6 saves in the middle of things: a ``ModelCheckpoint`` writes before its batch is logged,
before the validation that follows it, and before its epoch is counted. A resume then guesses from
counters what was left (`fit_loop.py`_, ``update_restart_stage``): it loses the validation and the
step of a ``ReduceLROnPlateau``, and takes one epoch's end for another's. It restores neither random
generators nor accumulated gradients, nor the metrics that callbacks decide on.

Here a checkpoint is written when a batch, its validation or an epoch is whole, and says which.

.. _fit_loop.py: https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.1/src/lightning/pytorch/loops/fit_loop.py
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import (
    Checkpoint,
    GradientAccumulationScheduler,
    Timer,
)
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.loops.fit_loop import RestartStage, _FitLoop
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from torch import Tensor

from lightning_rlhf.functional.processes import Processes
from lightning_rlhf.training import logged
from lightning_rlhf.training.checkpoint import rng_state, set_rng_state
from lightning_rlhf.training.whole import Whole

KEY = "resume"
STEP = "batch"  # after a batch, before the validation that may follow it
BETWEEN = "validation"  # after that, before the next batch
EPOCH = "epoch"  # after an epoch's end, before it is counted
OUTSIDE = "outside"  # no epoch has begun, or the fit has ended
INSIDE = "inside"  # anywhere else
HOOKS = {STEP: "on_train_batch_end", BETWEEN: "on_validation_end", EPOCH: "on_train_epoch_end"}
SAVER = ("_last_global_step_saved", "_defer_save_until_validation")


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
    if isinstance(loop, ExactFitLoop) and loop.place() == INSIDE:
        loop.exact.queue.append(Saving(None, lambda: trainer.save_checkpoint(path)))
    else:
        trainer.save_checkpoint(path)


class Saving(NamedTuple):
    """A checkpoint to be written when a batch, a validation or an epoch is whole."""

    callback: Callback | None
    save: Any  # without arguments


class Exact:
    """The state of a fit that Lightning does not keep.

    Args:
        trainer: of the fit.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.at: str | None = None  # while a checkpoint is being written
        self.queue: list[Saving] = []
        self.saving: list[Callback] = []  # the callback that saves, and those still to save
        self.resumed: dict[str, Any] | None = None  # of a checkpoint, until the fit goes on
        self.whole = Whole(trainer)

    # ---- saving ----

    def wait(self) -> None:
        """Let callbacks that save do so only when what they follow is whole."""
        for callback in self._savers():
            for hook in HOOKS.values():
                if hook not in vars(callback):
                    setattr(callback, hook, _Waiting(self, callback, getattr(callback, hook)))

    def release(self) -> None:
        """Undo ``wait``."""
        for callback in self._savers():
            for hook in HOOKS.values():
                if isinstance(vars(callback).get(hook), _Waiting):
                    delattr(callback, hook)

    def _savers(self) -> list[Checkpoint]:
        return [c for c in self.trainer.callbacks if isinstance(c, Checkpoint)]  # type: ignore[attr-defined]

    def save(self, at: str) -> None:
        """Write the checkpoints that were asked for before this place."""
        queue, self.queue = self.queue, []
        self.at = at
        try:
            for i, saving in enumerate(queue):
                self.saving = [s.callback for s in queue[i:] if s.callback is not None]
                saving.save()
            if not self.trainer.fit_loop._should_accumulate():
                self.whole.remember()
        finally:
            self.at = None

    def state(self, at: str) -> dict[str, Any]:
        """Collect what a checkpoint holds beside Lightning's."""
        trainer, loop = self.trainer, self.trainer.fit_loop
        own = {"rng": rng_state(), "means": logged.means_of(loop.epoch_loop._results)}
        if at == STEP and loop._should_accumulate():
            own["gradients"] = [p.grad for p in _parameters(trainer)]
        state = {
            "at": at,
            "processes": [own] if at == INSIDE else _gathered(trainer, own),
            "metrics": logged.metrics_of(trainer),
            "savers": {c.state_key: self._saver_state(c) for c in self._savers()},
            "unsaved": [c.state_key for c in self.saving[1:]],
            "stops": trainer.should_stop and not _time_is_up(trainer),
            "loaded": [
                loop._last_train_dl_reload_epoch,
                loop.epoch_loop.val_loop._last_val_dl_reload_epoch,
            ],
        }
        return state if self.whole.remembering else compact(state)

    def _saver_state(self, callback: Callback) -> dict[str, Any]:
        state = {name: getattr(callback, name) for name in SAVER if hasattr(callback, name)}
        if state and self.saving[:1] == [callback]:  # it notes this checkpoint only afterwards
            state = dict(zip(SAVER, (self.trainer.global_step, False), strict=True))
        return state

    # ---- resuming ----

    @property
    def in_epoch(self) -> bool:
        """True while a fit is resumed in the middle of an epoch."""
        return self.resumed is not None and self.resumed["at"] in (STEP, BETWEEN)

    def restore_decisions(self) -> None:
        """Restore what callbacks decide on."""
        assert self.resumed is not None
        logged.restore_metrics(self.trainer, self.resumed["metrics"])
        for callback in self._savers():
            for name, value in self.resumed["savers"].get(callback.state_key, {}).items():
                setattr(callback, name, value)
        for callback in self.trainer.callbacks if self.in_epoch else ():  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler):  # as at the epoch's start
                callback.on_train_epoch_start(self.trainer)

    def restore_place(self) -> None:
        """Restore generators, means and gradients, and write the checkpoints still to be written."""
        assert self.resumed is not None
        trainer, loop = self.trainer, self.trainer.fit_loop.epoch_loop
        own = self.resumed["processes"][trainer.global_rank % len(self.resumed["processes"])]
        logged.restore_means(trainer, loop._results, own["means"])
        for parameter, gradient in zip(
            _parameters(trainer), own.get("gradients", ()), strict=False
        ):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        set_rng_state(own["rng"])
        at, left = self.resumed["at"], self.resumed["unsaved"]
        args = (None, None, loop.batch_idx) if at == STEP else ()
        for callback in self._savers():
            if callback.state_key in left:
                getattr(callback, HOOKS[at])(trainer, trainer.lightning_module, *args)
        self.save(at)


class _Waiting:
    """A hook of a callback that saves."""

    def __init__(self, exact: Exact, callback: Callback, hook: Any):
        self.exact, self.callback, self.hook = exact, callback, hook

    def __call__(self, trainer: Trainer, *args: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            self.hook(trainer, *args)
        else:
            saving = Saving(self.callback, lambda: self.hook(trainer, *args))
            self.exact.queue.append(saving)


class ExactFitLoop(_FitLoop):
    """Lightning's loop over epochs, which goes on exactly where a checkpoint was written."""

    exact: Exact

    def place(self) -> str:
        """Tell where in a fit a checkpoint would be written now."""
        if self.exact.at is not None:
            return self.exact.at
        progress = self.epoch_progress.current
        return OUTSIDE if progress.ready == progress.completed else INSIDE

    def on_save_checkpoint(self) -> dict:
        if not self.exact.whole.remembering:
            for logger in self.trainer.loggers:  # a resumed run logs what comes after this
                logger.save()
        return {**super().on_save_checkpoint(), KEY: self.exact.state(self.place())}

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
        check(state, str(self.trainer.ckpt_path or "the checkpoint"))
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

    def _uncounted(self, work: Any) -> None:
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


def check(state: dict[str, Any] | None, name: str) -> None:
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


def settle(trainer: Trainer | None, checkpoint: dict[str, Any]) -> None:
    """Turn a checkpoint that is written inside a step into that of the last whole batch.

    Args:
        trainer: of the module that is saved, if any.
        checkpoint: complete but for this; changed in place.
    """
    loop = getattr(trainer, "fit_loop", None)
    if not isinstance(loop, ExactFitLoop) or loop.place() != INSIDE:
        return
    whole = loop.exact.whole.recall()
    if whole is not None:
        fit = whole["loops"]["fit_loop"]
        own = {**fit["state_dict"], KEY: compact(fit["state_dict"][KEY])}
        loops = {**whole["loops"], "fit_loop": {**fit, "state_dict": own}}
        checkpoint.update({**whole, "loops": loops})


def compact(state: dict[str, Any]) -> dict[str, Any]:
    """Replace logged tensors by numbers."""
    processes = [{**own, "means": logged.packed(own["means"])} for own in state["processes"]]
    return {**state, "processes": processes, "metrics": logged.packed(state["metrics"])}


def _gathered(trainer: Trainer, own: dict[str, Any]) -> list[dict[str, Any]]:
    return Processes(trainer.global_rank, trainer.world_size).gather_states(own)


def _parameters(trainer: Trainer) -> list[Tensor]:
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return [parameter for group in groups for parameter in group["params"]]


def _time_is_up(trainer: Trainer) -> bool:
    """True where only the clock stops a run: more time lets it go on."""
    timers = [c for c in trainer.callbacks if isinstance(c, Timer)]  # type: ignore[attr-defined]
    return any((left := timer.time_remaining()) is not None and left <= 0 for timer in timers)
