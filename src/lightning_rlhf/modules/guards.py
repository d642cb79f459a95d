"""Trainers that would train wrongly and say nothing: refused by name, with the mend."""

from __future__ import annotations

from pytorch_lightning import Trainer
from pytorch_lightning.plugins.precision import BitsandbytesPrecision
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

HALF = {
    "16-true": "fp16 weights give NaN losses",
    "bf16-true": "it casts adapters and heads to bf16, where small updates vanish",
}


def check_trainer(trainer: Trainer, quantization: str | None) -> None:
    """Refuse what cannot work.

    Raises:
        ValueError: names the flag and the mend.
    """
    if isinstance(trainer.precision_plugin, BitsandbytesPrecision):
        raise ValueError(
            "BitsandbytesPrecision would quantise the LoRA matrices too and train nothing: "
            'drop the plugin and give Backbone(quantization="nf4")'
        )
    if trainer.precision in HALF:
        raise ValueError(
            f'precision="{trainer.precision}": {HALF[trainer.precision]}; '
            'use precision="bf16-mixed" or "32-true" and give the frozen base its own dtype: '
            'Backbone(dtype="bfloat16")'
        )
    if isinstance(trainer.strategy, FSDPStrategy):
        raise ValueError(
            "FSDPStrategy does not fit several forwards of one base in a step: use strategy='ddp'"
        )
    if quantization is not None and isinstance(
        trainer.strategy, DeepSpeedStrategy | ModelParallelStrategy
    ):
        raise ValueError(
            f"{type(trainer.strategy).__name__} loses the state of 4-bit weights: "
            "use strategy='ddp' (every process holds the 4-bit base), or quantization=None"
        )
