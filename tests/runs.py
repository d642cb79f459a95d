"""Small runs of every module."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import CSVLogger

from lightning_rlhf import (
    Backbone,
    DemonstrationData,
    DPOModule,
    GRPOModule,
    KTOModule,
    LoRA,
    PPOModule,
    PreferenceData,
    PromptData,
    RewardModule,
    RLOOModule,
    Sampling,
    SFTModule,
    UpdateSchedule,
)
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.modules.base import AlignmentModule
from support import NUMBERS, number_pairs


def low_numbers(
    prompts: list[str], completions: list[str], rows: list[dict[str, Any]]
) -> list[float]:
    """A reward: the share of a completion's words that are low numbers."""
    low = set(NUMBERS[:20])
    return [sum(w in low for w in text.split()) / max(1, len(text.split())) for text in completions]


class Method(NamedTuple):
    """A module as the contract knows it: an entry here is all that a further one takes."""

    module: Any  # makes one from a backbone and lr
    data: Any  # makes its data from rows
    monitor: str = "val/loss"  # what a validation measures


METHODS = {
    "sft": Method(SFTModule, DemonstrationData),
    "reward": Method(RewardModule, PreferenceData),
    "dpo": Method(DPOModule, PreferenceData),
    "kto": Method(KTOModule, PreferenceData),
}
SHORT, PAIRED = Sampling(max_new_tokens=6), Sampling(max_new_tokens=6, samples=2)
ONLINE = {
    "ppo": Method(
        partial(PPOModule, reward=low_numbers, sampling=SHORT, updates=UpdateSchedule(epochs=3)),
        PromptData,
    ),
    "grpo": Method(partial(GRPOModule, reward=low_numbers, sampling=PAIRED), PromptData),
    "rloo": Method(partial(RLOOModule, reward=low_numbers, sampling=PAIRED), PromptData),
}
EVERY = METHODS | ONLINE


class Runs:
    """Modules, data and Trainers of one test.

    Args:
        base: the folder of a model.
        folder: where runs write.
        lora: of every backbone.
        logger: False where no run writes its metrics.
    """

    def __init__(self, base: str, folder: Path, lora: LoRA | None = None, logger: bool = True):
        self.base = base
        self.folder = folder
        self.lora = lora or LoRA(r=4)
        self.logger = logger

    def backbone(self, **kwargs: Any) -> Backbone:
        return Backbone(self.base, **{"dtype": "float32", "lora": self.lora, **kwargs})

    def make(
        self, method: str, quantization: Any = None, rows: int = 48, **kwargs: Any
    ) -> tuple[AlignmentModule, RowsData]:
        seed_everything(0, verbose=False)
        made = EVERY[method]
        return (
            made.module(self.backbone(quantization=quantization), lr=5e-3),
            made.data(number_pairs(rows), **{"val_fraction": 0.25, "batch_size": 4, **kwargs}),
        )

    def trainer(self, **kwargs: Any) -> Trainer:
        quiet = {
            "max_epochs": 1,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "logger": self.logger and CSVLogger(self.folder / "logs"),
            "log_every_n_steps": 1,
            "default_root_dir": self.folder,
        }
        return Trainer(**{**quiet, **kwargs})

    def weights(self, module: AlignmentModule) -> dict[str, torch.Tensor]:
        return {
            n: p.detach().clone()
            for role in module.trained
            for n, p in enumerate_names(module.backbone, role)
        }


def enumerate_names(backbone: Backbone, role: str) -> list[tuple[str, torch.nn.Parameter]]:
    return [(f"{role}.{i}", p) for i, p in enumerate(backbone.role_parameters(role))]
