"""The state of a fit that Lightning does not keep in a checkpoint, and when one is written."""

from __future__ import annotations

from typing import Any, NamedTuple

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import Checkpoint, GradientAccumulationScheduler, Timer
from pytorch_lightning.utilities import rank_zero_info
from torch.nn import Parameter

from lightning_rlhf.functional.processes import Processes
from lightning_rlhf.training import logged
from lightning_rlhf.training.checkpoint import rng_state, set_rng_state
from lightning_rlhf.training.whole import Whole

STEP = "batch"  # after a batch, before the validation that may follow it
BETWEEN = "validation"  # after that, before the next batch
EPOCH = "epoch"  # after an epoch's end, before it is counted
OUTSIDE = "outside"  # no epoch has begun, or the fit has ended
INSIDE = "inside"  # anywhere else
HOOKS = {STEP: "on_train_batch_end", BETWEEN: "on_validation_end", EPOCH: "on_train_epoch_end"}
SAVER = (  # what ModelCheckpoint does not restore itself
    "_last_global_step_saved",
    "_defer_save_until_validation",
    "_last_checkpoint_saved",
    "current_score",
)


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
            if "on_exception" not in vars(callback):
                last = _OnException(self, callback, callback.on_exception)
                vars(callback)["on_exception"] = last

    def release(self) -> None:
        """Undo ``wait``."""
        for callback in self._savers():
            for hook in (*HOOKS.values(), "on_exception"):
                if isinstance(vars(callback).get(hook), _Waiting):
                    delattr(callback, hook)

    def _savers(self) -> list[Checkpoint]:
        return [c for c in self.trainer.callbacks if isinstance(c, Checkpoint)]  # type: ignore[attr-defined]

    def place(self) -> str:
        """Tell where in a fit a checkpoint would be written now."""
        if self.at is not None:
            return self.at
        progress = self.trainer.fit_loop.epoch_progress.current
        return OUTSIDE if progress.ready == progress.completed else INSIDE

    def can_save(self) -> bool:
        """True if a checkpoint of now, or of the last whole step, could be resumed."""
        return self.place() != INSIDE or self.whole.recall() is not None

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
        own: dict[str, Any] = {
            "rng": rng_state(),
            "means": logged.means_of(loop.epoch_loop._results),
        }
        if at in (STEP, BETWEEN) and loop._should_accumulate():
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
            state |= {SAVER[0]: self.trainer.global_step, SAVER[1]: False}
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

    def restore_place(self) -> None:
        """Restore generators, means and gradients, and write what was still to be written."""
        assert self.resumed is not None
        trainer, loop = self.trainer, self.trainer.fit_loop.epoch_loop
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler):  # as at the epoch's start
                callback.on_train_epoch_start(trainer)
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


class _OnException(_Waiting):
    """The hook of a callback that saves on an exception: not while the weights change."""

    def __call__(self, trainer: Trainer, *args: Any) -> None:
        if self.exact.can_save():
            self.hook(trainer, *args)
            return
        rank_zero_info("no checkpoint of this moment, which is inside a step: the last one stays")


def compact(state: dict[str, Any]) -> dict[str, Any]:
    """Replace logged tensors by numbers."""
    processes = [{**own, "means": logged.packed(own["means"])} for own in state["processes"]]
    return {**state, "processes": processes, "metrics": logged.packed(state["metrics"])}


def _gathered(trainer: Trainer, own: dict[str, Any]) -> list[dict[str, Any]]:
    return Processes(trainer.global_rank, trainer.world_size).gather_states(own)


def _parameters(trainer: Trainer) -> list[Parameter]:
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return [parameter for group in groups for parameter in group["params"]]


def _time_is_up(trainer: Trainer) -> bool:
    """True where only the clock stops a run: more time lets it go on."""
    timers = [c for c in trainer.callbacks if isinstance(c, Timer)]  # type: ignore[attr-defined]
    return any((left := timer.time_remaining()) is not None and left <= 0 for timer in timers)
