"""Names of the arguments that a module logs as its hyperparameters."""

from __future__ import annotations

from lightning_rlhf.modules.sft import SFTModule
from lightning_rlhf.training.hparams import argument_names


def test_names_of_arguments_end_where_nothing_is_handed_on() -> None:
    class Child(SFTModule):
        def __init__(self, gamma: float, **rest: float):
            super().__init__(**rest)

    tail = ["backbone", "lr", "warmup", "optimizer", "lr_scheduler"]
    assert argument_names(Child) == ["gamma", *tail]
    assert argument_names(SFTModule) == tail
