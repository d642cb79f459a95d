"""Values that a Trainer has logged, as plain numbers for a checkpoint; Lightning saves none."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultCollection,
    _ResultMetric,
    _Sync,
)
from torch import Tensor

METRICS = ("_callback_metrics", "_logged_metrics", "_progress_bar_metrics")
FIELDS = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph",
          "add_dataloader_idx", "dataloader_idx", "metric_attribute")  # fmt: skip


def metrics_of(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """Collect the latest value of every metric, on which callbacks and schedulers decide."""
    connector = trainer._logger_connector
    return {name: dict(getattr(connector, name)) for name in METRICS}


def restore_metrics(trainer: Trainer, state: dict[str, dict[str, Any]]) -> None:
    """Restore what ``metrics_of`` collected."""
    for name, metrics in state.items():
        getattr(trainer._logger_connector, name).update(unpacked(metrics, trainer))


def means_of(results: _ResultCollection) -> list[dict[str, Any]]:
    """Collect the latest values and the unfinished means of an epoch, but for torchmetrics'."""
    return [
        {name: getattr(item.meta, name) for name in FIELDS}
        | {
            "key": key,
            "reduce_fx": item.meta.reduce_fx.__name__,
            "sync": [item.meta.sync.should, item.meta.sync.rank_zero_only],
            "value": item.value,
            "latest": item._forward_cache,
            "weight": item.cumulated_batch_size if item.meta.is_mean_reduction else None,
        }
        for key, item in results.items()
        if item.is_tensor and not item.has_reset
    ]


def restore_means(trainer: Trainer, results: _ResultCollection, state: list[dict]) -> None:
    """Restore what ``means_of`` collected."""
    for entry in state:
        given = unpacked(entry, trainer)
        key, value, weight = (given.pop(name) for name in ("key", "value", "weight"))
        latest = given.pop("latest")
        should, rank_zero_only = given.pop("sync")
        meta = _Metadata(**given)
        fn = trainer.strategy.reduce
        meta.sync = _Sync(fn=fn, _should=should, rank_zero_only=rank_zero_only)
        item = _ResultMetric(meta, is_tensor=True).to(trainer.strategy.root_device)
        item.value, item._forward_cache, item._update_count = value, latest, 1
        if weight is not None:
            item.cumulated_batch_size = weight
        results[key] = item


def packed(values: Any) -> Any:
    """Replace tensors of one number, of which each takes half a kilobyte in a file."""
    if isinstance(values, dict):
        return {key: packed(value) for key, value in values.items()}
    if isinstance(values, list):
        return [packed(value) for value in values]
    if isinstance(values, Tensor):
        return {"number": values.item(), "dtype": str(values.dtype).removeprefix("torch.")}
    return values


def unpacked(values: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
    """Make tensors again from what ``packed`` returned."""
    return {key: _number(value, trainer) for key, value in values.items()}


def _number(value: Any, trainer: Trainer) -> Any:
    if not isinstance(value, dict):
        return value
    dtype, device = getattr(torch, value["dtype"]), trainer.strategy.root_device
    return torch.tensor(value["number"], dtype=dtype, device=device)
