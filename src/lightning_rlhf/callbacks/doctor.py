"""Diagnose an online run while it is running."""

from __future__ import annotations

import logging
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from lightning_rlhf.callbacks.diagnoses import DIAGNOSES, KL, NAMES, RATIO, Limits
from lightning_rlhf.callbacks.growing_table import GrowingTable
from lightning_rlhf.callbacks.history import Row
from lightning_rlhf.callbacks.rollout_file import reopen
from lightning_rlhf.callbacks.run_folder import checkpoint_folder, run_folder
from lightning_rlhf.modules.samples import Table
from lightning_rlhf.text.jsonl import append_rows
from lightning_rlhf.training.resume import save_when_whole

ACTIONS = ("warn", "checkpoint", "stop")
DEFAULT = Limits()
HALF = 0.2  # how far a first ratio may be off 1 in 16 or 4 bits
_LOG = logging.getLogger(f"pytorch_lightning.{__name__}")  # Lightning prints its messages


class Doctor(Callback):
    """Examine the figures of each rollout; report an illness once, with what to do about it.

    A finding goes to the log, to ``doctor.jsonl`` beside the run and to every logger that has
    tables or text. An illness is over, and may be found again, after ``window`` rollouts without
    it. The state is part of a checkpoint. In DDP the figures of process 0 decide for all.

    Args:
        action: ``warn`` only logs; ``checkpoint`` also writes one, the first time an illness is
            found; ``stop`` ends the run after the current step.
        window: rollouts in the stretches that are compared; the last ones against the first ones.
        kl_budget: largest KL to the reference, nats per completion; None for no limit.
        watch: a logged figure that the reward does not see, higher is better, such as
            ``val/oracle_score``. If it falls while the score rises, that is reward hacking.
        ratio_tolerance: how far from 1 a first ratio may be; None for 1e-4 if all is fp32, else
            0.2.
        max_clipfrac: share of clipped tokens.
        max_approxkl: KL of updates from the policy that sampled, nats per token.
        length_factor: how many times longer or shorter completions may become.
    """

    def __init__(
        self,
        action: Literal["warn", "checkpoint", "stop"] = "warn",
        *,
        window: int = DEFAULT.window,
        kl_budget: float | None = DEFAULT.kl_budget,
        watch: str | None = DEFAULT.watch,
        ratio_tolerance: float | None = None,
        max_clipfrac: float = DEFAULT.max_clipfrac,
        max_approxkl: float = DEFAULT.max_approxkl,
        length_factor: float = DEFAULT.length_factor,
    ):
        if action not in ACTIONS:
            raise ValueError(f"Doctor's action is {action!r}: use one of {', '.join(ACTIONS)}")
        if window < 2:
            raise ValueError(f"Doctor's window is {window}: give at least 2 rollouts")
        if length_factor <= 1:
            raise ValueError(f"Doctor's length_factor is {length_factor}: give one above 1")
        self.action = action
        self.ratio_tolerance = ratio_tolerance
        self.limits = Limits(
            window=window,
            kl_budget=kl_budget,
            watch=watch,
            max_clipfrac=max_clipfrac,
            max_approxkl=max_approxkl,
            length_factor=length_factor,
        )
        self.history: list[Row] = []
        self.examined = 0  # the last rollout in the history
        self.ill: dict[str, int] = {}  # rollouts since an illness was last seen
        self.saved: list[str] = []  # illnesses with a checkpoint
        self._rollout = 0  # the current one
        self._figures: dict[str, list[float]] = {}  # of its updates so far
        self._file: Path | None = None
        self._before: str | None = None  # the file of the run that is resumed
        self._shown = GrowingTable("doctor")

    # ---- hooks ----

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        tolerance = self.ratio_tolerance
        if tolerance is None:
            tolerance = DEFAULT.ratio_tolerance if _all_fp32(trainer, pl_module) else HALF
        self.limits = self.limits._replace(ratio_tolerance=tolerance)
        self._file = run_folder(trainer).resolve() / "doctor.jsonl"
        if not hasattr(pl_module, "rollouts_made"):
            rank_zero_info(
                f"Doctor: {type(pl_module).__name__} makes no rollouts, so none are examined"
            )
        elif trainer.is_global_zero:
            reopen(self._file, self.examined, Path(self._before) if self._before else None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        made = getattr(pl_module, "rollouts_made", None)
        if made is None:
            return
        closed = self._close() if made != self._rollout else None
        self._rollout = made
        figures = trainer.callback_metrics
        for name in {*NAMES, self.limits.watch or KL} & figures.keys():
            self._figures.setdefault(name, []).append(float(figures[name]))
        if closed is not None:  # last in this hook, because it may write a checkpoint
            self._examine(trainer, closed)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        closed = self._close()
        if closed is not None:
            self._examine(trainer, closed)
        watch = self.limits.watch
        if watch is not None and self.history and not any(watch in row for row in self.history):
            self._say(
                trainer,
                f"Doctor was to watch {watch}, which nobody logged: give the name of a metric",
            )

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": [dict(row) for row in self.history],
            "examined": self.examined,
            "ill": dict(self.ill),
            "saved": list(self.saved),
            "rollout": self._rollout,
            "figures": {name: list(values) for name, values in self._figures.items()},
            "file": str(self._file) if self._file else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        self.history, self.examined = state["history"], state["examined"]
        self.ill, self.saved = state["ill"], state["saved"]
        self._rollout, self._figures = state["rollout"], state["figures"]
        self._before = state["file"]

    # ---- one rollout ----

    def _close(self) -> Row | None:
        """Return the figures of the current rollout as one row, and start the next."""
        row = {name: _of_rollout(name, values) for name, values in self._figures.items()}
        self._figures = {}
        self.examined = self._rollout
        return row or None

    def _examine(self, trainer: Trainer, row: Row) -> None:
        """Compare a rollout with those before it."""
        self.history.append(trainer.strategy.broadcast(row))
        keep = 10 * self.limits.window  # the latest rollouts; and the first two windows
        del self.history[2 * self.limits.window : -keep]
        found = {
            name: sentence
            for name, diagnosis in DIAGNOSES.items()
            if (sentence := diagnosis.find(self.history, self.limits))
        }
        new = [name for name in found if name not in self.ill]
        for name in list(self.ill):
            self.ill[name] += 1
            if name not in found and self.ill[name] >= self.limits.window:
                del self.ill[name]
                self._write(trainer, name, "over", "", "")
        self.ill |= dict.fromkeys(found, 0)
        for name in new:
            advice = DIAGNOSES[name].advice
            self._say(trainer, f"{name}, rollout {self.examined}: {found[name]}. {advice}")
            self._write(trainer, name, "found", found[name], advice)
        for name in new:
            self._act(trainer, name)

    def _act(self, trainer: Trainer, name: str) -> None:
        if self.action == "stop":
            trainer.should_stop = True
            self._say(trainer, f"{name}: the doctor stops the run")
        elif self.action == "checkpoint" and name not in self.saved:
            self.saved.append(name)
            folder = checkpoint_folder(trainer) or run_folder(trainer) / "checkpoints"
            path = folder / f"doctor-{name}-step={trainer.global_step}.ckpt"
            save_when_whole(trainer, path)
            self._say(trainer, f"{name}: a checkpoint is in {path}")

    def _say(self, trainer: Trainer, text: str) -> None:
        if trainer.is_global_zero:
            _LOG.warning(text)

    def _write(self, trainer: Trainer, name: str, event: str, sentence: str, advice: str) -> None:
        if not trainer.is_global_zero or self._file is None:
            return
        entry = {
            "rollout": self.examined,
            "step": trainer.global_step,
            "illness": name,
            "event": event,
            "sentence": sentence,
            "advice": advice,
        }
        append_rows(self._file, [entry])
        table = Table(list(entry), [list(entry.values())])
        self._shown.append(trainer, table, trainer.global_step)


def _of_rollout(name: str, values: list[float]) -> float:
    """Aggregate a figure over the updates of a rollout."""
    if name == RATIO:
        return max(values)
    return fmean(values) if name.startswith(("policy/", "value/")) else values[-1]


def _all_fp32(trainer: Trainer, pl_module: LightningModule) -> bool:
    full = trainer.precision in ("32-true", "64-true")
    return full and all(p.dtype in (torch.float32, torch.float64) for p in pl_module.parameters())
