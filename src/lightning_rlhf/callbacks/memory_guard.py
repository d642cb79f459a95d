"""Refuse a run that cannot fit in memory, in its first seconds."""

from __future__ import annotations

import logging

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import GradientAccumulationScheduler

from lightning_rlhf.callbacks.token_budget import FindTokenBudget
from lightning_rlhf.data.datamodules import PromptData
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.data.token_table import column
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.planning.budget import changes, in_gib, run_of
from lightning_rlhf.planning.memory import free_memory
from lightning_rlhf.planning.plan import Groups, Target

log = logging.getLogger(__name__)


class MemoryGuard(Callback):
    """Plan the largest step of a fit before the model is loaded, and refuse what cannot fit.

    The step is planned on the longest rows of the data together. The command line adds this
    callback. If planning fails, training goes on with a warning.

    Args:
        slack: planned over free memory up to which a run starts; a plan may be wrong by a tenth.
    """

    def __init__(self, slack: float = 1.1):
        self.slack = slack

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Plan the run before anything is loaded.

        Raises:
            ValueError: the run's largest step takes more than there is.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        if stage != "fit" or not isinstance(data, RowsData):
            return
        if not isinstance(pl_module, AlignmentModule) or pl_module.backbone.is_loaded:
            return
        if any(isinstance(c, FindTokenBudget) for c in trainer.callbacks):  # type: ignore[attr-defined]
            return  # it finds the largest step that fits
        device = trainer.strategy.root_device
        target: Target = "cuda" if device.type == "cuda" else "cpu"
        free = free_memory(device)
        accumulates = trainer.accumulate_grad_batches > 1 or any(
            isinstance(c, GradientAccumulationScheduler)
            for c in trainer.callbacks  # type: ignore[attr-defined]
        )
        try:
            run = run_of(pl_module, data, str(trainer.precision), target, accumulates)
            if not isinstance(data, PromptData):  # their completions are still to be sampled
                run = run._replace(groups=longest(data))
            planned = run.plan().peak.total
            if planned <= self.slack * free:
                return
            fixes = [c for c in changes(run, free) if c.fits][:3]
        except Exception as reason:
            log.warning("no plan of this run's memory: %s: %s", type(reason).__name__, reason)
            return
        fix = "; ".join(f"{c.name} ({c.cost})" for c in fixes) or "take a smaller model"
        raise ValueError(
            f"this run would take {in_gib(planned)} GiB in its largest step and {in_gib(free)} are "
            f"free: {fix}; `lightning-rlhf plan` says more, and without MemoryGuard nothing is "
            "refused"
        )


def longest(data: RowsData) -> Groups:
    """Lengths of the longest rows that one step could hold."""
    rows = data.train_rows
    assert rows is not None, "data is set up before callbacks are"
    cost = column(rows, "tokens").to_numpy()
    order = np.argsort(-cost, kind="stable")
    many = data.batch_size
    if data.max_tokens is not None:
        many = int((cost[order].cumsum() <= data.max_tokens).sum())
    taken = order[:many]
    picked = rows.select(taken)
    pairs = zip(picked["prompt_ids"], picked["completion_ids"], strict=True)
    return [(len(prompt), *map(len, completions)) for prompt, completions in pairs]
