"""Refuse Trainer settings that would silently train wrongly; each error says how to fix it."""

from __future__ import annotations

import sys
import warnings

from datasets import Dataset
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from pytorch_lightning.plugins.precision import BitsandbytesPrecision
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.data.token_table import column

OTHER = "lightning.pytorch"  # the same code under another name, whose classes are not ours
HALF = {
    "16-true": "fp16 weights give NaN losses",
    "bf16-true": "it casts adapters and heads to bf16, where small updates vanish",
}


def check_trainer(trainer: Trainer, quantization: str | None) -> None:
    """Refuse flags, plugins and strategies that cannot work.

    Raises:
        ValueError: names the flag and the fix.
    """
    _check_imports(trainer)
    _check_finder(trainer)
    _check_averaging(trainer)
    if isinstance(trainer.precision_plugin, BitsandbytesPrecision):
        raise ValueError(
            "BitsandbytesPrecision would quantize the LoRA matrices too and train nothing: "
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


def warn_of_other_lightning() -> None:
    """Warn that a Trainer of the other package does not take our modules.

    Its own error says that the type is not a ``LightningModule``, but not why.
    """
    if OTHER in sys.modules:
        warnings.warn(
            f"{OTHER} is imported as well: its Trainer does not take modules of "
            "pytorch_lightning, which ours are; write `from pytorch_lightning import Trainer`",
            stacklevel=4,
        )


def _check_imports(trainer: Trainer) -> None:
    """Refuse callbacks and loggers of the other package: the Trainer would not recognize them."""
    for thing in [*trainer.callbacks, *trainer.loggers]:  # type: ignore[attr-defined]
        kind = next((k for k in type(thing).__mro__ if k.__module__.startswith(OTHER)), None)
        if kind is not None:
            raise ValueError(
                f"{type(thing).__name__} is of {OTHER}, whose classes a Trainer of "
                f"pytorch_lightning does not know: import {kind.__name__} from "
                f"{_ours(kind.__module__)}"
            )


def _ours(module: str) -> str:
    """The public module of pytorch_lightning for one of the other package."""
    return ".".join(module.replace(OTHER, "pytorch_lightning").split(".")[:2])


def _check_finder(trainer: Trainer) -> None:
    finders = [c for c in trainer.callbacks if isinstance(c, BatchSizeFinder)]  # type: ignore[attr-defined]
    if not finders:
        return
    if finders[0]._batch_arg_name == "max_tokens":
        raise ValueError(
            "scale_batch_size takes max_tokens for a number of rows, and tries any rows: "
            "give the Trainer lightning_rlhf.FindTokenBudget(), which tries the longest"
        )
    if not finders[0]._early_exit:  # Tuner sets it: its fit ends with the search
        raise ValueError(
            "BatchSizeFinder within a fit leaves the learning rate the schedule of the size it "
            "began with: call Tuner(trainer).scale_batch_size(...) before the fit"
        )


def _check_averaging(trainer: Trainer) -> None:
    """Refuse callbacks that average a copy of the whole module.

    StochasticWeightAveraging copies it before ``configure_model`` has loaded anything, so it
    averages nothing; WeightAveraging averages the frozen base too, and writes it into checkpoints.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging | WeightAveraging):
            raise ValueError(
                f"{type(callback).__name__} copies the whole module: it would average what is not "
                "loaded yet, or write the frozen base into every checkpoint; leave it out, and "
                "average the role folders of several checkpoints instead"
            )


def check_context_length(data: RowsData, context_length: int | None) -> None:
    """Refuse rows longer than the model has positions.

    Args:
        data: set up.
        context_length: positions of the model; None where they are unlimited.

    Raises:
        ValueError: names the source, the length and the fix.
    """
    if context_length is None or data.max_length <= context_length:
        return
    for rows, source in (
        (data.train_rows, data.source),
        (data.val_rows, data.val_source or data.source),
    ):
        longest = _longest(rows, context_length) if isinstance(rows, Dataset) else 0
        if longest > context_length:
            name = source if isinstance(source, str) else "the source"
            raise ValueError(
                f"{name}: a row takes {longest} tokens, and the model has {context_length} "
                f"positions (max_position_embeddings): give max_length={context_length}, "
                "which cuts longer rows"
            )


def _longest(rows: Dataset, context_length: int) -> int:
    """Tokens of the longest prompt with one of its completions, if any exceeds the context."""
    tokens = column(rows, "tokens").to_numpy()  # of all completions: never fewer
    suspects = rows.select((tokens > context_length).nonzero()[0])
    pairs = zip(suspects["prompt_ids"], suspects["completion_ids"], strict=True)
    return max((len(p) + max(map(len, cs), default=0) for p, cs in pairs), default=0)
