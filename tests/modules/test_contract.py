"""Every flag of a Trainer has its effect on every module: the matrix of modules × flags.

Methods are those of ``tests/methods.py``. What is asserted is what a flag is for:
steps taken, files written, the norm of a gradient as the optimizer sees it; not only that it ran.
"""

from __future__ import annotations

import csv
import functools
import json
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.tuner import Tuner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_rlhf import FindTokenBudget, PromptData
from lightning_rlhf.callbacks import SampleTable
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.parsing.parser import AlignmentCLI, cli_options
from methods import METHODS
from runs import Runs
from support import number_pairs

pytestmark = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def runs(light: Runs) -> Runs:
    return light


class Watch(Callback):
    """What happened, as it happened."""

    def __init__(self) -> None:
        self.raw: list[tuple[float, float]] = []  # norm and peak before anything is clipped
        self.norms: list[float] = []  # of all gradients, as the optimizer sees them
        self.peaks: list[float] = []  # the largest entry of them
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.batches: list[list[int]] = []
        self.counts = {"val": 0, "test": 0}
        self.validated: list[tuple[int, float]] = []  # step, what is monitored
        self.monitor = ""
        self.start: list[torch.Tensor] = []  # the trained weights as they were

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        groups = trainer.optimizers[0].param_groups
        self.start = [p.detach().clone() for group in groups for p in group["params"]]
        trainer.optimizers[0].register_step_post_hook(self._after_step)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        self.raw.append(norm_and_peak(optimizer))

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        norm, peak = norm_and_peak(optimizer)
        self.norms.append(norm)
        self.peaks.append(peak)
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, _: int) -> None:
        self.batches.append(flattened(batch))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self.counts["val"] += 1

    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        self.counts["test"] += 1

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        if self.monitor in trainer.callback_metrics:
            found = float(trainer.callback_metrics[self.monitor])
            self.validated.append((trainer.global_step, found))


def norm_and_peak(optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    """Of all gradients together."""
    found = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    flat = torch.cat([g.flatten() for g in found])
    return float(flat.norm()), float(flat.abs().max())


def flattened(batch: Any) -> list[int]:
    """Every number of the integer tensors of a batch, whatever it is made of."""
    if isinstance(batch, torch.Tensor):
        return [] if batch.is_floating_point() else batch.flatten().tolist()
    return [n for part in batch for n in flattened(part)] if isinstance(batch, tuple | list) else []


def fit(
    runs: Runs, method: str, *callbacks: Callback, quantization: Any = None,
    data: dict[str, Any] | None = None, change: Callable[[AlignmentModule], None] | None = None,
    **flags: Any,
) -> tuple[Trainer, Watch]:  # fmt: skip
    module, rows = runs.make(method, quantization, **{"rows": 32, **(data or {})})
    if change is not None:
        change(module)
    watch = Watch()
    watch.monitor = METHODS[method].monitor
    flags = {"num_sanity_val_steps": 0, "limit_val_batches": 1, **flags}
    trainer = runs.trainer(callbacks=[watch, *callbacks], **flags)
    trainer.fit(module, rows)
    return trainer, watch


def files(folder: Path, suffix: str) -> list[str]:
    return sorted(path.name for path in folder.rglob(f"*{suffix}"))


# ---- steps ----


def test_accumulate_grad_batches(runs: Runs, method: str) -> None:
    trainer, watch = fit(runs, method, accumulate_grad_batches=3, limit_train_batches=5)
    assert len(watch.batches) == 5
    assert trainer.global_step == len(watch.norms) == 2  # of three batches, and of the two left


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradient_clip_val(runs: Runs, method: str, algorithm: str) -> None:
    limit = 1e-3
    how = {"gradient_clip_val": limit, "gradient_clip_algorithm": algorithm}
    _, clipped = fit(runs, method, max_steps=2, precision="bf16-mixed", **how)
    if algorithm == "norm":
        assert min(norm for norm, _ in clipped.raw) > limit
        assert max(clipped.norms) == pytest.approx(limit, rel=1e-2)
    else:
        assert min(peak for _, peak in clipped.raw) > limit
        assert max(clipped.peaks) == pytest.approx(limit)
        assert max(clipped.norms) > limit


@pytest.mark.parametrize("quantization", [None, "nf4"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_precision(runs: Runs, method: str, precision: str, quantization: str | None) -> None:
    """Mixed: the objective under autocast, and the weights in fp32."""
    autocast: list[bool] = []

    def listen(module: AlignmentModule) -> None:
        objective = module.objective

        def heard(batch: Any) -> Any:
            autocast.append(torch.is_autocast_enabled("cpu"))
            return objective(batch)

        module.objective = heard  # type: ignore[method-assign]

    trainer, watch = fit(
        runs, method, quantization=quantization, change=listen, precision=precision, max_steps=2
    )
    assert set(autocast) == {precision == "bf16-mixed"}
    assert all(math.isfinite(loss) for loss in watch.losses)
    trained = [p for g in trainer.optimizers[0].param_groups for p in g["params"]]
    assert {p.dtype for p in trained} == {torch.float32}
    assert min(watch.norms) > 0


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_half_precision_is_refused_before_a_row_is_read(
    runs: Runs, method: str, precision: Any
) -> None:
    module, data = runs.make(method)
    with pytest.raises(ValueError, match=f'precision="{precision}".*use precision="bf16-mixed"'):
        runs.trainer(precision=precision).fit(module, data)
    assert data.train_rows is None
    assert not module.backbone.is_loaded


def test_max_steps(runs: Runs, method: str) -> None:
    trainer, watch = fit(runs, method, max_steps=3, max_epochs=-1)
    assert trainer.global_step == len(watch.norms) == 3
    assert watch.rates[-1] < watch.rates[0]  # the cosine knows where it ends


def test_max_time(runs: Runs, method: str) -> None:
    """Without another end the rate stays, since a schedule would not know where it ends."""
    trainer, watch = fit(
        runs, method, max_time=timedelta(milliseconds=150), max_epochs=-1, limit_val_batches=0
    )
    assert trainer.global_step > 0
    assert trainer.should_stop
    assert watch.rates == pytest.approx([5e-3 * (i + 1) / 100 for i in range(len(watch.rates))])


# ---- how much of the data ----


@pytest.mark.parametrize(("interval", "steps"), [(2, [2, 4]), (0.5, [2, 4])])
def test_val_check_interval(runs: Runs, method: str, interval: Any, steps: list[int]) -> None:
    _, watch = fit(runs, method, val_check_interval=interval, limit_train_batches=4)
    assert [step for step, _ in watch.validated] == steps


def test_limit_train_and_val_batches(runs: Runs, method: str) -> None:
    data = {"val_fraction": 0.5, "batch_size": 2}
    _, watch = fit(runs, method, data=data, limit_train_batches=2, limit_val_batches=3)
    assert len(watch.batches) == 2
    assert watch.counts["val"] == 3


def test_limit_test_and_predict_batches(runs: Runs, method: str) -> None:
    module, data = runs.make(method, rows=32, val_fraction=0.5, batch_size=2)
    watch = Watch()
    flags = {"limit_test_batches": 3, "limit_predict_batches": 2}
    trainer = runs.trainer(callbacks=[watch], **flags)
    trainer.test(module, data, verbose=False)
    assert watch.counts["test"] == 3
    assert any(name.startswith("test/") for name in trainer.callback_metrics)
    other = METHODS[method].predicts
    if other is not None:
        data = other(number_pairs(16), val_fraction=0, batch_size=2)
    assert [len(rows) > 0 for rows in trainer.predict(module, data)] == [True, True]


@pytest.mark.parametrize("data", [{}, {"max_tokens": 40}], ids=str)
def test_overfit_batches(runs: Runs, method: str, data: dict[str, Any]) -> None:
    """Lightning swaps the sampler: of a token budget what it draws from must hold batches."""
    trainer, watch = fit(runs, method, data=data, overfit_batches=1, max_epochs=3)
    assert trainer.global_step == 3
    assert watch.batches[0] == watch.batches[1] == watch.batches[2]


def test_fast_dev_run(runs: Runs, method: str) -> None:
    keep = ModelCheckpoint(runs.folder / "kept")
    trainer, watch = fit(
        runs, method, keep, fast_dev_run=2, enable_checkpointing=True, limit_val_batches=None,
        logger=CSVLogger(runs.folder / "logs"),
    )  # fmt: skip
    assert trainer.global_step == watch.counts["val"] == 2
    assert files(runs.folder, ".ckpt") == files(runs.folder, ".csv") == []


# ---- callbacks ----


@pytest.mark.parametrize("bar", ["none", "tqdm", "rich"])
def test_progress_bars(
    runs: Runs, method: str, bar: str, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = [RichProgressBar()] if bar == "rich" else []
    fit(runs, method, *callbacks, enable_progress_bar=bar != "none", max_steps=2)
    said = "".join(capsys.readouterr())
    assert ("Epoch 0" in said) == (bar != "none")
    assert ("train/loss" in said) == (bar != "none")


def test_checkpoints_by_step(runs: Runs, method: str) -> None:
    keep = ModelCheckpoint(
        runs.folder / "kept", "{step}", every_n_train_steps=2, save_top_k=-1, save_last=True
    )
    fit(runs, method, keep, enable_checkpointing=True, limit_train_batches=5)
    assert files(runs.folder / "kept", ".ckpt") == ["last.ckpt", "step=2.ckpt", "step=4.ckpt"]


def test_checkpoints_by_time(runs: Runs, method: str) -> None:
    """An interval shorter than a step saves at each, a long one never."""
    keep = [
        ModelCheckpoint(
            runs.folder / folder, "{step}", train_time_interval=timedelta(seconds=interval),
            save_top_k=-1, save_on_train_epoch_end=False,
        )
        for folder, interval in (("often", 1e-6), ("seldom", 3600.0))
    ]  # fmt: skip
    fit(runs, method, *keep, enable_checkpointing=True, max_steps=3)
    assert [len(files(runs.folder / f, ".ckpt")) for f in ("often", "seldom")] == [3, 0]


def test_checkpoints_by_best(runs: Runs, method: str) -> None:
    monitor = METHODS[method].monitor
    keep = ModelCheckpoint(runs.folder / "kept", "{step}", monitor=monitor, mode="max")
    _, watch = fit(
        runs, method, keep, enable_checkpointing=True, val_check_interval=2, limit_train_batches=6
    )
    step, best = max(watch.validated, key=lambda found: found[1])
    assert files(runs.folder / "kept", ".ckpt") == [f"step={step}.ckpt"]
    assert keep.best_model_score == pytest.approx(best)


def test_early_stopping(runs: Runs, method: str) -> None:
    """Nothing is ever better by so much: the second validation is the last."""
    stop = EarlyStopping(METHODS[method].monitor, min_delta=1e9, patience=1)
    trainer, watch = fit(runs, method, stop, val_check_interval=2, limit_train_batches=6)
    assert [step for step, _ in watch.validated] == [2, 4]
    assert trainer.global_step == 4


def test_learning_rate_monitor(runs: Runs, method: str) -> None:
    logger = CSVLogger(runs.folder / "logs")
    trainer, watch = fit(
        runs, method, LearningRateMonitor("step"), logger=logger, limit_train_batches=4
    )
    (file,) = runs.folder.rglob("metrics.csv")
    rows = list(csv.DictReader(file.open()))
    names = [name for name in rows[0] if name.startswith("lr-")]
    assert len(names) == len(trainer.optimizers[0].param_groups)
    logged = [float(row[names[0]]) for row in rows if row[names[0]]]
    assert logged == pytest.approx(watch.rates)
    assert len(set(logged)) > 1


# ---- optimizers and schedulers, as they are typed ----

CHOICES = {  # flags, and the rate over six steps of three epochs, as a share of lr
    "sgd": (
        ["optimizer=torch.optim.SGD", "optimizer.momentum=0.5"]
        + ["lr_scheduler=torch.optim.lr_scheduler.StepLR"]
        + ["lr_scheduler.step_size=2", "lr_scheduler.gamma=0.5"],
        [1, 1, 0.5, 0.5, 0.25, 0.25],
    ),
    "8 bits": (
        ["optimizer=bitsandbytes.optim.AdamW8bit", "optimizer.betas=[0.8,0.9]"]
        + ["lr_scheduler=torch.optim.lr_scheduler.LinearLR", "lr_scheduler.start_factor=0.5"]
        + ["lr_scheduler.total_iters=2"],
        [0.5, 0.75, 1, 1, 1, 1],
    ),
    "plateau": (  # the second epoch is not better, by so much
        ["optimizer=torch.optim.RMSprop"]
        + ["lr_scheduler=pytorch_lightning.cli.ReduceLROnPlateau"]
        + ["lr_scheduler.monitor=train/loss", "lr_scheduler.mode=max"]
        + ["lr_scheduler.threshold=1e9", "lr_scheduler.patience=0", "lr_scheduler.factor=0.5"],
        [1, 1, 1, 1, 0.5, 0.5],
    ),
}


@functools.cache
def typed(choice: str) -> AlignmentModule:
    """A module as the command line makes it; only its optimizer and scheduler are looked at."""
    args = ["--model=SFTModule", "--model.backbone=lightning_rlhf.Backbone"]
    args += ["--model.backbone.name_or_path=none", "--data=DemonstrationData", "--data.source=none"]
    args += [f"--model.{flag}" for flag in CHOICES[choice][0]]
    args += ["--trainer.accelerator=cpu", "--trainer.logger=false"]
    options = {**cli_options(), "run": False, "save_config_callback": None}
    module = AlignmentCLI(LightningModule, LightningDataModule, **options, args=args).model
    assert isinstance(module, AlignmentModule)
    return module


@pytest.mark.parametrize("choice", CHOICES)
def test_optimizers_and_schedulers_by_class_path(runs: Runs, method: str, choice: str) -> None:
    def choose(module: AlignmentModule) -> None:
        chosen = typed(choice)
        module.optimizer, module.lr_scheduler = chosen.optimizer, chosen.lr_scheduler
        module.lr = 0.01

    trainer, watch = fit(
        runs, method, change=choose, limit_train_batches=2, limit_val_batches=0, max_epochs=3
    )
    (optimizer,) = trainer.optimizers
    assert f".{type(optimizer).__name__}" in CHOICES[choice][0][0]
    assert watch.rates == pytest.approx([0.01 * share for share in CHOICES[choice][1]])
    before = iter(watch.start)
    for group in optimizer.param_groups:
        assert sum(not torch.equal(next(before), p) for p in group["params"])


# ---- loggers ----


def test_csv_logger(runs: Runs, method: str) -> None:
    _, watch = fit(runs, method, logger=CSVLogger(runs.folder / "out"), max_steps=2)
    (file,) = (runs.folder / "out").rglob("metrics.csv")
    rows = [row for row in csv.DictReader(file.open()) if row["train/loss"]]
    assert [float(row["train/loss"]) for row in rows] == pytest.approx(watch.losses)
    (hparams,) = (runs.folder / "out").rglob("hparams.yaml")
    assert "lr: 0.005" in hparams.read_text()


def test_tensorboard_logger(runs: Runs, method: str) -> None:
    _, watch = fit(runs, method, logger=TensorBoardLogger(runs.folder / "out"), max_steps=2)
    (file,) = (runs.folder / "out").rglob("events.*")
    events = EventAccumulator(str(file)).Reload()
    logged = [event.value for event in events.Scalars("train/loss")]
    assert logged == pytest.approx(watch.losses)


def test_wandb_logger(runs: Runs, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real offline run: metrics, hyperparameters and the table of samples."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(save_dir=runs.folder, project="tests", offline=True)
    table = SampleTable(rows=3, max_new_tokens=4)
    trainer, watch = fit(runs, method, table, logger=logger, limit_train_batches=2)
    run = logger.experiment
    summary, config, folder = dict(run.summary), dict(run.config), Path(run.dir)
    run.finish()
    assert summary["train/loss"] == pytest.approx(watch.losses[-1])
    assert set(trainer.callback_metrics) <= set(summary)
    assert config["backbone"]["init_args"]["lora"]["r"] == 4
    assert config["lr"] == 5e-3
    (shown,) = folder.glob("media/table/samples*.json")
    found = json.loads(shown.read_text())
    assert found["columns"][:2] == ["step", "prompt"]
    assert 0 < len(found["data"]) <= 3 * 2


# ---- batch-size search ----


def test_lightnings_tuner_scales_the_batch_size(runs: Runs, method: str) -> None:
    module, data = runs.make(method, rows=16, batch_size=2)
    trainer = runs.trainer(max_steps=2, limit_val_batches=0)
    found = Tuner(trainer).scale_batch_size(
        module, datamodule=data, init_val=2, max_trials=2, steps_per_trial=1
    )
    assert found == data.batch_size == 4
    trainer.fit(module, data)
    same, rows = runs.make(method, rows=16, batch_size=4)
    runs.trainer(max_steps=2, limit_val_batches=0).fit(same, rows)
    assert_equal(runs.weights(module), runs.weights(same))


def test_lightnings_finder_is_refused_where_it_would_go_wrong(runs: Runs, method: str) -> None:
    module, data = runs.make(method, max_tokens=40)
    with pytest.raises(ValueError, match=r"a number of rows.*lightning_rlhf\.FindTokenBudget"):
        Tuner(runs.trainer()).scale_batch_size(
            module, datamodule=data, batch_arg_name="max_tokens", init_val=40
        )
    with pytest.raises(ValueError, match=r"the schedule .* began with: call Tuner"):
        runs.trainer(callbacks=[BatchSizeFinder()]).fit(module, data)
    assert data.train_rows is None


def test_token_budget_search(runs: Runs, method: str) -> None:
    """The run is, bit for bit, the one that was given what the search finds."""
    search = FindTokenBudget(most=40)
    module, data = runs.make(method, rows=16)
    if isinstance(data, PromptData):
        with pytest.raises(ValueError, match="neither prompts .* give max_tokens"):
            runs.trainer(callbacks=[search]).fit(module, data)
        return
    trainer = runs.trainer(callbacks=[search], limit_val_batches=0)
    trainer.fit(module, data)
    assert data.max_tokens == search.found == 40
    given, rows = runs.make(method, rows=16, max_tokens=40)
    again = runs.trainer(limit_val_batches=0)
    again.fit(given, rows)
    assert again.global_step == trainer.global_step > 1
    assert_equal(runs.weights(module), runs.weights(given))


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
