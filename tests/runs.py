"""Small runs of every module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import CSVLogger

from lightning_rlhf import Backbone, LoRA
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.modules.base import AlignmentModule
from methods import METHODS
from support import number_pairs


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
        made = METHODS[method]
        return (
            made.make(self.backbone(quantization=quantization), lr=5e-3),
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
