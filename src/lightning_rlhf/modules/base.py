"""What every method shares: the backbone's life in a Trainer, optimizer, checkpoints, metrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_rlhf.batches import PromptBatch
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.models.backbone import POLICY, REFERENCE, Backbone
from lightning_rlhf.models.generation import generate
from lightning_rlhf.training import checkpoint, guards, hparams
from lightning_rlhf.training.optim import fused_adamw, planned_steps, warmup_cosine


class Table(NamedTuple):
    """Rows to look at."""

    columns: list[str]
    rows: list[list[Any]]


class AlignmentModule(LightningModule):
    """A method of preference optimization on a backbone.

    A subclass says which roles it trains, creates the others in ``add_roles``, and turns a batch
    into a ``Loss`` in ``objective``. Optimization is automatic, so every Trainer flag works.

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
        super().__init__()
        self.backbone = backbone
        self.lr = lr
        self.warmup = warmup
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.strict_loading = (
            False  # a checkpoint carries no frozen weight; ours is checked by name
        )
        self._rng: dict[str, Any] | None = None  # of a checkpoint, until the next batch
        self._resumed: dict[str, Any] | None = None  # the checkpoint, until optimizers are there
        guards.warn_of_other_lightning()

    # ---- to be given by a method ----

    def add_roles(self) -> None:
        """Create the roles this method needs."""
        for name in self.trained:
            self.backbone.add_role(name)

    def add_policy_and_reference(self) -> None:
        """The policy, and its reference: the policy as it was found, or the bare base."""
        found = POLICY in self.backbone.roles  # trained before, or read from a folder
        self.backbone.add_role(POLICY)
        self.backbone.add_role(REFERENCE, trainable=False, like=POLICY if found else None)

    def objective(self, batch: Any) -> Loss:
        """A batch's loss and metrics."""
        raise NotImplementedError

    def learning_rate(self, role: str) -> float:
        """The peak learning rate of a trained role."""
        return self.lr

    def batch_weight(self, batch: Any) -> int:
        """What a batch weighs in an epoch's mean."""
        raise NotImplementedError

    # ---- life in a Trainer ----

    def configure_callbacks(self) -> list[Any]:
        """None; but the first thing a Trainer asks, before a row is read: it is looked at here."""
        guards.check_trainer(self.trainer, self.backbone.quantization)
        return []

    def setup(self, stage: str) -> None:
        guards.check_trainer(self.trainer, self.backbone.quantization)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, RowsData):
            guards.check_window(data, self.backbone.window)
        self._resumed = None
        if not self.hparams:
            self.save_hyperparameters(hparams.describe(self))

    def configure_model(self) -> None:
        """Load the base and create the roles; nothing the second time."""
        trainer = self._trainer
        device = trainer.strategy.root_device if trainer is not None else self.device
        self.backbone.load(device)
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
        if isinstance(scheduler, ReduceLROnPlateau):  # which waits for what a validation measures
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
        return self._step("train", batch)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """As Lightning's; then gradients go, which it would keep through the next forward."""
        super().optimizer_step(*args, **kwargs)
        for role in self.trained:
            for parameter in self.backbone.role_parameters(role):
                parameter.grad = None

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._step("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._step("test", batch)

    def _step(self, stage: str, batch: Any) -> Tensor:
        loss = self.objective(batch)
        training = stage == "train"
        self.log_dict(
            {f"{stage}/{name}": value for name, value in loss.metrics.items()},
            batch_size=self.batch_weight(batch),
            sync_dist=not training,
        )
        self.log(
            f"{stage}/loss",
            loss.value.detach(),
            prog_bar=True,
            batch_size=self.batch_weight(batch),
            sync_dist=not training,
        )
        return loss.value

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Log through whichever module the Trainer runs: this one, or the one that holds it."""
        root = self._trainer.lightning_module if self._trainer is not None else self
        if root is self:
            super().log(*args, **kwargs)
        else:
            root.log(*args, **kwargs)

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Any:
        """As Lightning's, without its list of every frozen weight the checkpoint rightly lacks."""
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Found keys that are in the model state dict but not"
            )
            return super().load_from_checkpoint(*args, **kwargs)

    # ---- checkpoints: adapters and heads, not one frozen weight ----

    def on_save_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        checkpoint.keep_roles(checkpoint_, self._prefix(), self.backbone)
        checkpoint_["rng"] = checkpoint.rng_state()

    def on_load_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        fits = self._trainer is not None and self._trainer.state.fn == "fit"
        if fits:
            name = str(self.trainer.ckpt_path or "the checkpoint")
            checkpoint.check_class(checkpoint_.get("hyper_parameters", {}), self, name)
            checkpoint.refuse_overridden(checkpoint.in_callbacks(checkpoint_, self.trainer), name)
            self._resumed = checkpoint_
        checkpoint.restore_roles(checkpoint_, self._prefix(), self.backbone, type(self).__name__)
        self.backbone.train_roles(*self.trained)
        self._rng = checkpoint_.get("rng")

    def on_fit_start(self) -> None:
        """Compare what was given with what Lightning is about to restore over it."""
        if self._resumed is not None:
            name = str(self.trainer.ckpt_path or "the checkpoint")
            settings = checkpoint.in_optimizers(self._resumed, self.trainer)
            checkpoint.refuse_overridden(settings, name)
            self._resumed = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Put the generators back where the checkpoint had them: loaders drew from them."""
        if self._rng is not None:
            checkpoint.set_rng_state(self._rng)
            self._rng = None

    def _prefix(self) -> str:
        """What the running module's state dict puts before the backbone's names."""
        root = self._trainer.lightning_module if self._trainer is not None else self
        return next(f"{name}." for name, m in root.named_modules() if m is self.backbone)

    # ---- looking at what was learnt ----

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Any]]:
        """Complete prompts as the policy: rows of prompt and completion."""
        if not isinstance(batch, PromptBatch):
            raise ValueError(
                f"{type(self).__name__} completes PromptData, not {type(batch).__name__}"
            )
        prompts = [ids.tolist() for ids in batch.prompt_ids]
        answers = generate(self.backbone, POLICY, prompts)
        return [
            {"prompt": self.decode(p), "completion": self.decode(a.ids), "finished": a.finished}
            for p, a in zip(prompts, answers, strict=True)
        ]

    def sample_table(self, data: RowsData, n: int, max_new_tokens: int) -> Table:
        """Greedy answers to n held-out prompts, as every role that can talk."""
        prompts = data.sample_prompts(n)
        roles = [name for name in self.backbone.roles if name not in self.backbone.heads]
        answers = [
            generate(self.backbone, role, prompts, max_new_tokens, temperature=0.0)
            for role in roles
        ]
        rows = [
            [self.decode(prompt), *(self.decode(a.ids) for a in said)]
            for prompt, *said in zip(prompts, *answers, strict=True)
        ]
        return Table(["prompt", *roles], rows)

    def decode(self, ids: list[int]) -> str:
        """Token ids as text, special tokens left out."""
        text = self.backbone.tokenizer.decode(ids, skip_special_tokens=True)
        assert isinstance(text, str)
        return text
