"""Base of every method: its contract, and its life in a Trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_rlhf.batches import PromptBatch
from lightning_rlhf.data.collate import example_rows, preference_batch
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.functional.loss import Loss, across_processes
from lightning_rlhf.models.backbone import POLICY, REFERENCE, Backbone
from lightning_rlhf.models.loading import check_vocabulary
from lightning_rlhf.modules import samples
from lightning_rlhf.modules.samples import Table
from lightning_rlhf.training import checkpoint_io, guards, hparams, resume
from lightning_rlhf.training.finite import check_step
from lightning_rlhf.training.optim import fused_adamw, planned_steps, warmup_cosine
from lightning_rlhf.training.role_checkpoints import RoleCheckpoints
from lightning_rlhf.training.step_mean import StepMean


class AlignmentModule(RoleCheckpoints):
    """A method of preference optimization on a backbone.

    A subclass names the roles it trains, creates the others in ``add_roles``, and turns a batch
    into a ``Loss`` in ``objective``. A method that is not trained on pairs also overrides
    ``example_batch`` and ``row_completions``, from which a run's memory is planned. Optimization is
    automatic, so every Trainer flag works.

    Inside somebody's own LightningModule, call this one's ``configure_model``, ``training_step``,
    ``configure_optimizers``, ``on_save_checkpoint`` and ``on_load_checkpoint`` from theirs.

    Args:
        backbone: the base and its roles; a description until ``configure_model``.
        lr: peak learning rate.
        warmup: share of the run over which the learning rate rises.
        optimizer: ``(params, lr=...)`` to an optimizer; None for fused AdamW without weight decay,
            with the method's ``adam_eps``.
        lr_scheduler: optimizer to a scheduler, stepped after every update (one that waits for a
            plateau: after every epoch, by its ``monitor`` or val/loss); None for a cosine to 0.
    """

    trained: ClassVar[tuple[str, ...]] = (POLICY,)  # roles that receive gradients
    row_completions: ClassVar[int | None] = 2  # of a row it is trained on; None: any number
    compares_forwards: ClassVar[bool] = False  # of one text, so that dropout would be in the result
    adam_eps: ClassVar[float] = 1e-8

    def __init__(
        self,
        backbone: Backbone,
        *,
        lr: float,
        warmup: float = 0.1,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ):
        super().__init__(backbone)
        if self.compares_forwards and backbone.lora is not None and backbone.lora.dropout > 0:
            name = type(self).__name__
            raise ValueError(f"{name} compares two forwards of one text: give LoRA(dropout=0)")
        self.lr = lr
        self.warmup = warmup
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self._step_mean = StepMean()
        self._last_loss: Tensor | None = None
        guards.warn_of_other_lightning()

    # ---- the contract: what a method gives ----

    def add_roles(self) -> None:
        """Create the roles this method needs."""
        for name in self.trained:
            self.backbone.add_role(name)

    def add_policy_and_reference(self) -> None:
        """Create the policy, and its reference: a frozen copy of it, or the bare base."""
        exists = POLICY in self.backbone.roles  # trained before, or read from a folder
        self.backbone.add_role(POLICY)
        self.backbone.add_role(REFERENCE, trainable=False, init_from=POLICY if exists else None)

    def objective(self, batch: Any) -> Loss:
        """Loss and metrics of a batch.

        It must also run on meta tensors, since a run's memory is planned by running it so: token
        batches and floating-point tensors then hold no values, only index tensors do. So no shape
        may depend on values (no boolean indexing, ``nonzero`` or ``.item()``): weigh by a mask
        instead. A metric that needs values can be left out where ``tensor.is_meta``.
        """
        raise NotImplementedError

    def batch_weight(self, batch: Any) -> int:
        """Weight of a batch in an epoch's mean."""
        raise NotImplementedError

    def learning_rate(self, role: str) -> float:
        """Peak learning rate of a trained role."""
        return self.lr

    def example_batch(self, groups: Sequence[Sequence[int]]) -> Any:
        """Batch of rows without content, as ``objective`` takes it: pairs, if not overridden.

        Args:
            groups: tokens of each row, (prompt, completion, completion, ...).
        """
        return preference_batch(example_rows(groups))

    def largest_step(self, data: RowsData, completions: int = 2) -> list[tuple[int, ...]]:
        """Rows of the largest step that settings allow, as in ``example_batch``.

        No row is read: rows are full, and the prompt takes half of each.

        Args:
            data: not set up.
            completions: to a prompt, for a method that takes any number.

        Raises:
            ValueError: more than two for a method that knows only pairs.
        """
        if completions != 2 and self.row_completions is not None:
            raise ValueError(
                f"--completions {completions}: only a RewardModule learns from rankings, not "
                f"{type(self).__name__}; leave it out"
            )
        prompt = data.max_length // 2
        row = (prompt, *[data.max_length - prompt] * (self.row_completions or completions))
        rows = data.batch_size if data.max_tokens is None else max(1, data.max_tokens // sum(row))
        return [row] * rows

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Any]]:
        """Complete prompts as the policy: rows of prompt and completion.

        A method that scores the rows it is trained on overrides this, and calls it for prompts.
        """
        if not isinstance(batch, PromptBatch):
            name, given = type(self).__name__, type(batch).__name__
            raise ValueError(f"{name} completes prompts, not a {given}: give it PromptData")
        return samples.complete(self.backbone, batch, getattr(self, "sampling", None))

    def sample_table(self, data: RowsData, n: int, max_new_tokens: int) -> Table:
        """Greedy completions of n held-out prompts, a column for every role that generates."""
        return samples.greedy_table(self.backbone, data.sample_prompts(n), max_new_tokens)

    # ---- life in a Trainer ----

    def configure_callbacks(self) -> list[Any]:
        """Check the Trainer and add no callback: Lightning calls this hook before data is read."""
        guards.check_trainer(self.trainer, self.backbone.quantization)
        return []

    def setup(self, stage: str) -> None:
        guards.check_trainer(self.trainer, self.backbone.quantization)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, RowsData):
            guards.check_context_length(data, self.backbone.context_length)
        super().setup(stage)
        if not self.hparams:
            self.save_hyperparameters(hparams.describe(self))

    def configure_model(self) -> None:
        """Load the base and create the roles; a second call changes nothing."""
        trainer = self._trainer
        if trainer is not None:
            checkpoint_io.install(trainer)
            resume.install(trainer)
        device = trainer.strategy.root_device if trainer is not None else self.device
        self.backbone.load(device)
        if "tokenizer" in vars(self.backbone):  # the data was tokenized with it
            check_vocabulary(self.backbone.base, self.backbone.tokenizer)
        self.add_roles()
        self.backbone.train_roles(*self.trained)
        self.backbone.train()  # Lightning leaves an eval-mode model in eval mode

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer()
        scheduler = (
            self.lr_scheduler(optimizer)
            if self.lr_scheduler is not None
            else warmup_cosine(optimizer, planned_steps(self.trainer), self.warmup)
        )
        config: dict[str, Any] = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):  # it needs what a validation measures
            config.update(interval="epoch", monitor=getattr(scheduler, "monitor", "val/loss"))
        return {"optimizer": optimizer, "lr_scheduler": config}

    def make_optimizer(self) -> Optimizer:
        """The optimizer, a parameter group for each trained role."""
        groups = [
            {
                "name": role,
                "params": self.backbone.role_parameters(role),
                "lr": self.learning_rate(role),
            }
            for role in self.trained
        ]
        make: Callable[..., Optimizer] = self.optimizer or partial(fused_adamw, eps=self.adam_eps)
        return make(groups, lr=self.lr)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return this process's part of a mean over all processes and all batches of the step."""
        weight = self.batch_weight(batch)
        loss = across_processes(self.objective(batch), weight, self.processes)
        metrics = {f"train/{name}": value for name, value in loss.metrics.items()}
        self.log_dict(metrics, batch_size=weight)
        self.log("train/loss", loss.logged, prog_bar=True, batch_size=weight)
        self._last_loss = loss.logged
        return self.part_of_step(loss.value, loss.weight)

    def part_of_step(self, loss: Tensor, count: Tensor | float) -> Tensor:
        """Weigh a batch's loss among those that the Trainer accumulates for a step.

        Args:
            loss: a mean.
            count: over how many things, in all processes.
        """
        return self._step_mean.weigh(loss, count) if self._is_weighed() else loss

    def no_part_of_step(self) -> Tensor | None:
        """Let a batch add nothing to its step; processes still have to meet in a backward."""
        if self.processes.size == 1:
            return None
        return 0.0 * torch.stack([p.sum() for p in self._trained_parameters()]).sum()

    def _is_weighed(self) -> bool:
        trainer = self._trainer
        if trainer is None or trainer.lightning_module is not self:  # it gets no optimizer's hook
            return False
        return trainer.accumulate_grad_batches > 1 or trainer.world_size > 1

    def _trained_parameters(self) -> list[Parameter]:
        parameters = [p for role in self.trained for p in self.backbone.role_parameters(role)]
        return list(dict.fromkeys(parameters))  # roles may share some

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._evaluate("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Any) -> Tensor:
        loss = self.objective(batch)
        weight: Any = self.batch_weight(batch)
        value, metrics = loss.value.detach(), loss.metrics
        if loss.weights and self.processes.size > 1:  # a process that lacks a metric would not wait
            _, value, metrics, weight = across_processes(loss, weight, self.processes)
        weight = float(weight)  # Lightning rounds an int's mean over processes
        named = {f"{stage}/{name}": value for name, value in metrics.items()}
        self.log_dict(named, batch_size=weight, sync_dist=True)
        self.log(f"{stage}/loss", value, prog_bar=True, batch_size=weight, sync_dist=True)
        return loss.value

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Check a step, and bring its gradients to the scale of one mean before they are clipped.

        Raises:
            ValueError: the loss or the gradients are not finite numbers.
        """
        check_step(self.trainer, optimizer, self._last_loss)
        if self._is_weighed():
            batches = self.trainer.accumulate_grad_batches
            self._step_mean.bring_to_scale(self._trained_parameters(), batches)
        resume.weights_change(self.trainer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then free the gradients, which Lightning would keep through the next forward."""
        super().optimizer_step(*args, **kwargs)
        for parameter in self._trained_parameters():
            parameter.grad = None

    def progress_state(self) -> dict[str, Any]:
        return {**super().progress_state(), "step_mean": self._step_mean.state_dict()}

    def on_load_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint_)
        self._step_mean.load_state_dict(checkpoint_["step_mean"])

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Log through the module that the Trainer runs: this one, or the one that holds it."""
        root = self._trainer.lightning_module if self._trainer is not None else self
        if root is self:
            super().log(*args, **kwargs)
        else:
            root.log(*args, **kwargs)

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, special tokens left out."""
        return samples.decode(self.backbone, ids)
