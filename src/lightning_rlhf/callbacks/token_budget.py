"""Find the largest token budget that fits, by real steps on the longest rows before a run."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from lightning_fabric.utilities import move_data_to_device
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.memory import garbage_collection_cuda, is_oom_error

from lightning_rlhf.data.datamodules import PromptData
from lightning_rlhf.data.rows_data import RowsData, collate_rows
from lightning_rlhf.data.sources import is_stream
from lightning_rlhf.data.token_table import column
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.planning.budget import run_of
from lightning_rlhf.planning.memory import free_memory
from lightning_rlhf.training.checkpoint import rng_state, set_rng_state

log = logging.getLogger(__name__)


class FindTokenBudget(Callback):
    """Find the largest ``max_tokens`` that fits before a fit begins, and give it to the data.

    Each budget is tried on the longest rows that fill it: forward, backward and optimizer step,
    twice. On a CPU, which would swap instead of failing, a step is planned first and not run if the
    plan does not fit. Afterwards weights and random generators are restored, so the run is the one
    that the same ``max_tokens`` would have given.

    Args:
        most: the largest budget to try.
        share: of the memory that a step may take.
    """

    def __init__(self, most: int = 32_768, share: float = 0.9):
        if most < 2:
            raise ValueError(f"most is a number of tokens per step: give 2 or more, got {most}")
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {share}")
        self.most = most
        self.share = share
        self.found: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Search, after rows are read and before optimizer and schedule are made.

        Raises:
            ValueError: modules or data of other packages, or the longest row alone does not fit.
        """
        if stage != "fit":
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(pl_module, AlignmentModule) or not isinstance(data, RowsData):
            raise ValueError(
                f"FindTokenBudget knows our own modules and data, not {type(pl_module).__name__} "
                f"on {type(data).__name__}: give max_tokens instead"
            )
        if isinstance(data, PromptData) or is_stream(data.source):
            raise ValueError(
                "FindTokenBudget tries rows that are there before the run, which neither prompts "
                "to be completed nor a stream are: give max_tokens"
            )
        assert data.train_rows is not None, "data is set up before callbacks are"
        trial = Trial(trainer, pl_module, data, rows=data.train_rows, share=self.share)
        longest, most = max(trial.costs), min(self.most, sum(trial.costs))
        if longest > self.most:
            raise ValueError(
                f"a row takes {longest} tokens and FindTokenBudget goes to {self.most}: raise "
                "most, or lower max_length"
            )
        found = largest_that(trial.fits, longest, max(longest, most))
        self.found = int(trainer.strategy.reduce(torch.tensor(found), reduce_op="min"))
        if not self.found:
            raise ValueError(
                f"not even the longest row, of {longest} tokens, fits in a step: lower max_length; "
                "`lightning-rlhf plan` says what else makes room"
            )
        data.max_tokens = self.found
        rank_zero_info(
            f"max_tokens={self.found} found in {len(trial.tried)} trials; the longest row takes "
            f"{longest}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check the budget: a loader's position is valid only among batches of the same size.

        Raises:
            ValueError: the budget found now differs from the checkpoint's.
        """
        if state_dict["found"] != self.found:
            raise ValueError(
                f"the checkpoint is of a run with max_tokens={state_dict['found']}, and "
                f"max_tokens={self.found} is found now: give the first to resume, without "
                "FindTokenBudget"
            )


def largest_that(fits: Callable[[int], bool], least: int, most: int) -> int:
    """The largest budget that fits, to a sixteenth of itself; 0 if even the least does not.

    It doubles until a budget fails, then halves the gap.
    """
    if not fits(least):
        return 0
    low, high = least, None
    while high is None and low < most:
        tried = min(2 * low, most)
        low, high = (tried, None) if fits(tried) else (low, tried)
    while high is not None and high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


class Trial:
    """Steps on the longest rows of a run, after which its state is restored.

    Args:
        trainer: of the run.
        module: loaded here as Lightning would load it.
        data: set up.
        rows: to train on.
        share: of the memory that a step may take.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: AlignmentModule,
        data: RowsData,
        *,
        rows: Dataset,
        share: float,
    ):
        self.trainer, self.module, self.data = trainer, module, data
        self.rows, self.share = rows, share
        self.device = trainer.strategy.root_device
        self.accumulates = trainer.accumulate_grad_batches > 1
        self.tried: list[int] = []
        self.costs: list[int] = column(rows, "tokens").to_pylist()
        self.order = sorted(range(len(rows)), key=lambda row: -self.costs[row])
        self.run = None
        if self.device.type == "cpu" and not module.backbone.is_loaded:
            precision = str(trainer.precision)
            unloaded = copy.deepcopy(module)
            self.run = run_of(unloaded, data, precision, "cpu", self.accumulates)
        self.free = free_memory(self.device)
        strategy, precision_plugin = trainer.strategy, trainer.precision_plugin
        with (
            strategy.tensor_init_context(),
            strategy.model_sharded_context(),
            precision_plugin.module_init_context(),
        ):
            module.configure_model()

    def fits(self, budget: int) -> bool:
        """True if a step of the longest rows in a budget fits."""
        self.tried.append(budget)
        rows = self.rows.select(self._longest(budget))
        if self.run is not None and not self._planned(rows):
            return False
        weights = [(p, p.detach().clone()) for p in self._trained()]
        generators = rng_state()
        self.module.is_alone = True
        try:
            self._steps(rows)
            return self._leaves_room()
        except RuntimeError as error:
            if not is_oom_error(error) and not isinstance(error, torch.OutOfMemoryError):
                raise
            return False
        finally:
            self.module.is_alone = False
            with torch.no_grad():
                for parameter, before in weights:
                    parameter.grad = None
                    parameter.copy_(before)
            set_rng_state(generators)
            garbage_collection_cuda() if self.device.type == "cuda" else None

    def _longest(self, budget: int) -> list[int]:
        """Indices of rows that fill a budget, from the longest down."""
        taken, room, least = [], budget, self.costs[self.order[-1]]
        for row in self.order:
            if room < least:
                break
            if self.costs[row] <= room:
                taken.append(row)
                room -= self.costs[row]
        return taken

    def _planned(self, rows: Dataset) -> bool:
        assert self.run is not None
        pairs = zip(rows["prompt_ids"], rows["completion_ids"], strict=True)
        groups = [(len(prompt), *map(len, completions)) for prompt, completions in pairs]
        try:
            return self.run._replace(groups=groups).plan().peak.total <= self.share * self.free
        except Exception as reason:
            log.warning("no plan of a step's memory: %s: %s", type(reason).__name__, reason)
            return True

    def _steps(self, rows: Dataset) -> None:
        """Make two steps: only the second finds the optimizer's state and waiting gradients."""
        batch = collate_rows([rows[i] for i in range(len(rows))], self.data._collate(self.rows))
        batch = move_data_to_device(batch, self.device)
        optimizer = self.module.make_optimizer()
        for _ in range(2):
            with self.trainer.precision_plugin.train_step_context():
                loss = self.module.objective(batch).value
            loss.backward()
            optimizer.step()
            if not self.accumulates:
                optimizer.zero_grad()

    def _leaves_room(self) -> bool:
        if self.device.type != "cuda":
            return True
        free, total = torch.cuda.mem_get_info(self.device)
        return free >= (1 - self.share) * total

    def _trained(self) -> list[torch.nn.Parameter]:
        return [p for r in self.module.trained for p in self.module.backbone.role_parameters(r)]
