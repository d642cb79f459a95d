"""Trainers that would train wrongly are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pytorch_lightning.plugins.precision import BitsandbytesPrecision, FSDPPrecision
from pytorch_lightning.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
)

from lightning_rlhf.training.guards import check_trainer
from runs import Runs


def test_lightnings_own_quantization_is_refused(runs: Runs) -> None:
    trainer = runs.trainer()
    trainer.strategy._precision_plugin = BitsandbytesPrecision.__new__(BitsandbytesPrecision)
    with pytest.raises(ValueError, match='would quantize the LoRA matrices.*quantization="nf4"'):
        check_trainer(trainer, None)


@pytest.mark.parametrize(
    ("strategy", "quantization", "refused"),
    [
        (FSDPStrategy, None, True),
        (ModelParallelStrategy, "nf4", True),
        (DeepSpeedStrategy, "nf4", True),
        (DDPStrategy, "nf4", False),
        (DDPStrategy, None, False),
    ],
)
def test_strategies_that_lose_weights_are_refused(
    runs: Runs, strategy: Any, quantization: Any, refused: bool
) -> None:
    trainer = runs.trainer()
    trainer.strategy.__class__ = strategy  # most cannot even be built without a GPU
    if strategy is FSDPStrategy:
        trainer.strategy._precision_plugin = FSDPPrecision("32-true")
    if not refused:
        check_trainer(trainer, quantization)
        return
    with pytest.raises(ValueError, match=f"{strategy.__name__}.*use strategy='ddp'"):
        check_trainer(trainer, quantization)
