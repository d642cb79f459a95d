"""Fits that are killed at drawn moments, and what an unbroken one and a killed one end in.

A kill is an exception that nobody handles: Trainer, module, data and generators are thrown away,
loggers and callbacks get no last word, and the next start knows only what is on the disk.
"""

from __future__ import annotations

import json
import random
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
)
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import LlamaConfig, LlamaForCausalLM

import lightning_rlhf as rlhf
from lightning_rlhf.callbacks import RolloutTable, SampleTable
from lightning_rlhf.data import streaming
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.modules.online import OnlineModule
from lightning_rlhf.quickstart.model import word_tokenizer
from methods import METHODS, ONLINE
from support import NUMBERS, number_pairs

ENDLESS = 10**9
CLOCKS = ("time/", "memory/")  # figures that no two runs share


class Killed(BaseException):
    """The process is no more."""


class Trial(NamedTuple):
    """A fit and the moments at which it is killed."""

    method: str
    settings: dict[str, Any]
    kills: tuple[int, ...]  # a moment in each start, counted from its beginning
    seed: int = 0


class Clock:
    """Counts moments, and kills at one of them."""

    def __init__(self, kill: int = ENDLESS):
        self.kill = kill
        self.now = 0
        self.dies = lambda: None

    def tick(self) -> None:
        self.now += 1
        if self.now == self.kill:
            self.dies()
            raise Killed


class Moments(Callback):
    """Every hook of a fit is a moment; draws random numbers and logs, as an own callback may."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.clock.tick()

    on_train_epoch_start = on_train_epoch_end = on_validation_start = on_train_start
    on_validation_end = on_train_end = on_fit_end = on_train_start

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        self.clock.tick()

    on_validation_batch_start = on_validation_batch_end = on_train_batch_start
    on_before_zero_grad = on_train_batch_start

    def on_before_optimizer_step(self, trainer: Any, module: Any, *_: Any) -> None:
        self.clock.tick()
        module.log("own/drawn", torch.rand(()), on_step=True, on_epoch=False)

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        module.log("own/mean", torch.rand(()), on_step=True, on_epoch=True, batch_size=2)
        self.clock.tick()

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        if not trainer.sanity_checking:
            module.log("val/drawn", torch.rand(()))
        self.clock.tick()


class Log(Logger):
    """Keeps what is logged in a file, at once; logging is a moment too."""

    name, version = "log", 0

    def __init__(self, file: Path, clock: Clock):
        super().__init__()
        self.file = file
        self.clock = clock

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.clock.tick()
        with self.file.open("a") as file:
            file.write(json.dumps([step, metrics]) + "\n")
        self.clock.tick()

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...


class Ragged(rlhf.PreferenceData):
    """Own data: two worker processes."""

    def _loader_of(self, *args: Any, **kwargs: Any) -> StatefulDataLoader:
        made = super()._loader_of(*args, **kwargs)
        return StatefulDataLoader(
            made.dataset, batch_size=made.batch_size, sampler=made.sampler,
            collate_fn=made.collate_fn, num_workers=2,
        )  # fmt: skip


class Plateau(ReduceLROnPlateau):
    def __init__(self, optimizer: Any, monitor: str):
        super().__init__(optimizer, patience=0, factor=0.5, threshold=0.2)
        self.monitor = monitor


SAVERS: dict[str, list[dict[str, Any]]] = {
    "end of epoch": [{}],
    "every step": [{"every_n_train_steps": 1, "save_top_k": -1}],
    "every 2": [{"every_n_train_steps": 2, "save_last": True}],
    "every 3": [{"every_n_train_steps": 3, "save_top_k": 0, "save_last": True}],
    "every 2 epochs": [{"every_n_epochs": 2, "save_top_k": -1}],
    "time": [{"train_time_interval": timedelta(0), "save_top_k": -1}],
    "best": [{"monitor": "MONITOR", "save_top_k": 2, "save_last": True}],
    "best by step": [{"monitor": "MONITOR", "every_n_train_steps": 2, "save_top_k": 1}],
    "epoch's end": [{"save_on_train_epoch_end": True, "save_last": "link"}],
    "two": [{"every_n_train_steps": 2, "save_top_k": -1}, {"monitor": "MONITOR"}],
    "on exception": [{"every_n_train_steps": 3, "save_top_k": -1, "save_on_exception": True}],
}  # fmt: skip


def draw(method: str, seed: int, kills: int | None = None) -> Trial:
    """Draw the settings of a fit, and the moments of up to four kills."""
    d = random.Random(f"{method} {seed}")
    settings: dict[str, Any] = {
        "saver": d.choice(list(SAVERS)),
        "data": d.choice(["rows", "rows", "rows", "max_tokens", "mixture", "reloaded", "stream"]),
        "val": d.choice([None, 1.0, 1.0, 0.5, 0.34, 2, 3, "every 2 epochs", "by batches"]),
        "scheduler": d.choice(["cosine", "cosine", "step", "plateau"]),
        "accumulate": d.choice([1, 1, 1, 2, 3, {0: 1, 1: 2}]),
        "epochs": d.choice([2, 3]),
        "max_steps": d.choice([-1, -1, -1, 7]),
        "limit_train": d.choice([None, None, None, 3, 0.7]),
        "limit_val": d.choice([1, 2, 1.0]),
        "sanity": d.choice([0, 1]),
        "clip": d.choice([None, 1.0]),
        "early": d.choice([None, None, None, 1]),
        "max_time": d.choice([None, None, None, "00:01:00:00"]),
        "dropout": d.choice([0.0, 0.1]) if method in ("sft", "reward") else 0.0,
    }
    if settings["val"] in ("every 2 epochs", "by batches") and settings["scheduler"] == "plateau":
        settings["scheduler"] = "step"  # an epoch without a validation has no plateau to see
    if settings["early"] is not None or settings["scheduler"] == "plateau":
        settings["max_steps"] = -1  # it could end an epoch before a validation: Lightning refuses
    if settings["val"] is None:
        settings["early"] = None
        if settings["scheduler"] == "plateau":
            settings["scheduler"] = "step"
        if settings["saver"] in ("best", "best by step", "two"):
            settings["saver"] = "every 2"
    if settings["data"] == "stream":
        if method in ONLINE:
            settings["data"] = "rows"
        else:
            settings.update(max_steps=7, epochs=-1)
            if not isinstance(settings["val"], int) or isinstance(settings["val"], bool):
                settings["val"] = 2
    number = kills or d.randint(1, 4)
    return Trial(method, settings, tuple(d.randint(1, 100) for _ in range(number)), seed)


def write_base(folder: Path) -> str:
    """One layer, 16 wide: a fit on it costs little more than its Trainer."""
    tokenizer = word_tokenizer(NUMBERS)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.15,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# ---- one fit ----


def make(base: str, folder: Path, trial: Trial) -> tuple[AlignmentModule, RowsData]:
    """Build a module and its data anew."""
    method, s = METHODS[trial.method], trial.settings
    lora = rlhf.LoRA(r=2, target_modules=["q_proj"], dropout=s["dropout"])
    scheduler: Any = None
    if s["scheduler"] == "step":
        scheduler = partial(StepLR, step_size=2, gamma=0.7)
    elif s["scheduler"] == "plateau":
        scheduler = partial(Plateau, monitor=method.monitor)
    options: dict[str, Any] = {"lr": 2e-2, "lr_scheduler": scheduler}
    if trial.method in ONLINE:
        options["sampling"] = rlhf.Sampling(
            max_new_tokens=3, num_samples=1 if trial.method == "ppo" else 2
        )
    if trial.method == "ppo":
        options["shaping"] = rlhf.Shaping(kl_target=0.5, kl_horizon=50, center=True, normalize=True)
        options["updates"] = rlhf.UpdateSchedule(2, 2)
    if trial.method == "rloo":
        options["updates"] = rlhf.UpdateSchedule(epochs=2, minibatches=1, target_kl=0.05)
    module = method.make(rlhf.Backbone(base, lora=lora, dtype="float32"), **options)
    rows = 12 if trial.method in ONLINE else 20
    given: dict[str, Any] = {"val_fraction": 0.3, "batch_size": 4 if rows == 20 else 3}
    source: Any = number_pairs(rows)
    if s["data"] == "max_tokens":
        given["max_tokens"] = 40
    if s["data"] in ("mixture", "stream"):
        where = folder.parent / "rows"
        where.mkdir(exist_ok=True)
        for i in range(2):
            lines = [json.dumps(row) + "\n" for row in number_pairs(rows, seed=i)]
            (where / f"{i}.jsonl").write_text("".join(lines))
        source = f"stream:{where}"
        if s["data"] == "mixture":
            source = {str(where / "0.jsonl"): 0.5, str(where / "1.jsonl"): 0.5}
    kind = Ragged if s["data"] == "workers" else method.data
    return module, kind(source, **given)


def callbacks(folder: Path, trial: Trial, clock: Clock) -> list[Callback]:
    s, monitor = trial.settings, METHODS[trial.method].monitor
    found: list[Callback] = [Moments(clock), LearningRateMonitor()]
    if s["val"] is not None and trial.method in ("sft", "dpo", "grpo"):
        found.append(SampleTable(rows=1, max_new_tokens=2, every_n_validations=2))
    if trial.method in ONLINE:
        found.append(RolloutTable())
    if s["early"] is not None:
        found.append(EarlyStopping(monitor, patience=s["early"], min_delta=0.05))
    if isinstance(s["accumulate"], dict):
        found.append(GradientAccumulationScheduler(s["accumulate"]))
    for given in SAVERS[s["saver"]]:
        given = {k: monitor if v == "MONITOR" else v for k, v in given.items()}
        found.append(ModelCheckpoint(folder / "checkpoints", filename="{epoch}-{step}", **given))
    return found


def trainer_of(folder: Path, trial: Trial, clock: Clock) -> Trainer:
    s = trial.settings
    val: dict[str, Any] = {"limit_val_batches": s["limit_val"]}
    if s["val"] is None:
        val = {"limit_val_batches": 0}
    elif s["val"] == "every 2 epochs":
        val["check_val_every_n_epoch"] = 2
    elif s["val"] == "by batches" or s["data"] == "stream":
        val.update(
            check_val_every_n_epoch=None, val_check_interval=s["val"] if s["val"] in (2, 3) else 4
        )
    elif s["val"] in (2, 3) and s["limit_train"] is not None:
        val["val_check_interval"] = 1.0
    else:
        val["val_check_interval"] = s["val"]
    return Trainer(
        max_epochs=s["epochs"], max_steps=s["max_steps"], accelerator="cpu",
        accumulate_grad_batches=s["accumulate"] if isinstance(s["accumulate"], int) else 1,
        gradient_clip_val=s["clip"], num_sanity_val_steps=s["sanity"], max_time=s["max_time"],
        reload_dataloaders_every_n_epochs=2 if s["data"] == "reloaded" else 0,
        callbacks=callbacks(folder, trial, clock), logger=Log(folder / "log.jsonl", clock),
        log_every_n_steps=1, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, **val,
        **({} if s["limit_train"] is None else {"limit_train_batches": s["limit_train"]}),
    )  # fmt: skip


def newest(folder: Path) -> Path | None:
    """The newest checkpoint on the disk."""
    files = [p for p in (folder / "checkpoints").glob("*.ckpt") if p.exists()]
    return max(files, key=lambda p: p.stat().st_mtime_ns) if files else None


def start(base: str, folder: Path, trial: Trial, clock: Clock) -> tuple[Trainer, Any]:
    """Begin a fit or go on with it, until it ends or is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    streaming.BLOCK = 8
    checkpoint = newest(folder)
    seed_everything(trial.seed if checkpoint is None else clock.kill + 77, verbose=False)
    module, data = make(base, folder, trial)
    trainer = trainer_of(folder, trial, clock)
    save = trainer.save_checkpoint

    def saving(*args: Any, **kwargs: Any) -> None:
        clock.tick()
        save(*args, **kwargs)
        clock.tick()

    trainer.save_checkpoint = saving  # type: ignore[method-assign]
    polite = trial.settings["saver"] == "on exception"

    def dies() -> None:
        clock.kill = ENDLESS
        if not polite:  # nobody gets a last word
            trainer.callbacks = []  # type: ignore[attr-defined]
            trainer.loggers = []

    clock.dies = dies
    trainer.fit(module, data, ckpt_path=None if checkpoint is None else str(checkpoint))
    return trainer, module


# ---- what a fit ends in ----


def end_of(trainer: Trainer, module: Any, folder: Path) -> dict[str, Any]:
    """Everything that two runs must agree on, as comparable values."""
    optimizer = trainer.optimizers[0].state_dict()
    state: dict[str, Any] = {
        "steps": trainer.global_step,
        "epoch": trainer.current_epoch,
        "weights": {
            f"{role}.{i}": p.detach().clone()
            for role in module.trained
            for i, p in enumerate(module.backbone.role_parameters(role))
        },
        "optimizer": optimizer["state"],
        "rates": [group["lr"] for group in optimizer["param_groups"]],
        "schedulers": [_plain(c.scheduler.state_dict()) for c in trainer.lr_scheduler_configs],
        "log": logged(folder / "log.jsonl"),
        "callbacks": {
            c.state_key: _plain(c.state_dict())
            for c in trainer.callbacks  # type: ignore[attr-defined]
            if isinstance(c, EarlyStopping | ModelCheckpoint | SampleTable | RolloutTable)
        },
        "random": torch.get_rng_state(),
    }
    for table in ("samples.jsonl", "rollouts.jsonl"):
        file = folder / table
        state[table] = file.read_text() if file.exists() else None
    if isinstance(module, OnlineModule):
        state["shaper"] = module._shaper.state_dict()
        state["rollouts"] = module.rollouts_made
    return state


def _plain(state: Any) -> Any:
    """Leave out what names folders, clocks and functions."""
    if not isinstance(state, dict):
        return state
    out = {"dirpath", "lr_lambdas", "file", "best_k_models", "best_model_path"}
    out |= {"kth_best_model_path", "last_model_path"}
    kept = {k: _plain(v) for k, v in state.items() if k not in out and str(k)[0] != "_"}
    return {**kept, "kept": len(state.get("best_k_models", ()))}


def logged(file: Path) -> dict[tuple[int, str], list[str]]:
    """Logged values by step and name; a resumed run may log one again, but no other one."""
    found: dict[tuple[int, str], set[str]] = {}
    for line in file.read_text().splitlines():
        step, metrics = json.loads(line)
        for name, value in metrics.items():
            if not name.startswith(CLOCKS):
                found.setdefault((step, name), set()).add(repr(value))
    return {key: sorted(values) for key, values in found.items()}


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of all values in which two ends differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = {*one, *other}
        absent = object()
        return [
            found
            for key in sorted(keys, key=str)
            for found in differences(one.get(key, absent), other.get(key, absent), f"{name}/{key}")
        ]
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = torch.equal(one, other) or bool((one.isnan() & other.isnan()).all())
        return [] if same else [name]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for i, (a, b) in pairs for found in differences(a, b, f"{name}/{i}")]
    return [] if repr(one) == repr(other) else [name]


class Ended(NamedTuple):
    """How a killed fit ended."""

    kills: int  # that took place
    differs: list[str]  # from the unbroken fit; empty if they are equal to the bit


def run(base: str, folder: Path, trial: Trial) -> Ended:
    """Run a trial unbroken, and once more with its kills."""
    clock = Clock()
    whole = end_of(*start(base, folder / "whole", trial, clock), folder / "whole")
    moments, done = clock.now, 0
    for part in trial.kills:
        clock = Clock(max(1, moments * part // 100))
        try:
            ended = start(base, folder / "killed", trial, clock)
        except Killed:
            done += 1
            continue
        break
    else:
        ended = start(base, folder / "killed", trial, Clock())
    killed = end_of(*ended, folder / "killed")
    return Ended(done, differences(whole, killed))


USUAL = {
    "saver": "", "data": "rows", "val": None, "scheduler": "cosine", "accumulate": 1,
    "max_steps": -1, "limit_train": None, "sanity": 0, "clip": None,
    "early": None, "max_time": None, "dropout": 0.0,
}  # fmt: skip


def describe(settings: dict[str, Any]) -> str:
    """The settings of a trial that are not the usual ones."""
    return ", ".join(f"{k} {v}" for k, v in settings.items() if v != USUAL.get(k, v))
