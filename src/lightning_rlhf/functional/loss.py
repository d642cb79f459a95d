"""Result of every objective, and its mean over several processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_rlhf.functional.processes import Processes

Weight = Tensor | float  # how many things (tokens, rows, pairs) a mean is over
SIDES = {"rewards/chosen", "rewards/rejected"}


class Loss(NamedTuple):
    """A scalar to minimize, and metrics to log."""

    value: Tensor  # ()
    metrics: dict[str, Tensor]  # scalars without gradient, by their names in the log
    weight: Weight | None = None  # of ``value``; None: the batch's weight in an epoch's mean
    weights: Mapping[str, Weight] = {}  # of metrics with another; one without a value has none here


class StepLoss(NamedTuple):
    """A loss as one process gives it to DDP, and what is logged of all of them."""

    value: Tensor  # () whose mean over processes has the gradient of the mean over all things
    logged: Tensor  # () without gradient, the mean over all things
    metrics: dict[str, Tensor]  # of all processes
    weight: Weight  # of all processes


def across_processes(loss: Loss, weight: float, processes: Processes) -> StepLoss:
    """Weigh a loss by this process's share of the things it is a mean over.

    DDP averages gradients over processes, whether one has few things (tokens, rows) or many. So
    each loss is multiplied by ``processes * weight / sum of weights``, and every thing counts the
    same. The same goes for metrics. One that ends in ``_error`` is the largest of all, one in
    ``_var`` is about the mean of all, and a perplexity is that of all tokens.

    Args:
        loss: of this process.
        weight: of the loss, where it does not say.
        processes: all of them; one changes nothing.
    """
    own = weight if loss.weight is None else loss.weight
    if processes.size == 1:
        return StepLoss(loss.value, loss.value.detach(), loss.metrics, own)
    names = sorted({*loss.metrics, *loss.weights})
    device = loss.value.device

    def numbers(values: list[Weight]) -> Tensor:
        return torch.stack([torch.as_tensor(v, device=device).detach().double() for v in values])

    weights = numbers([own, *(loss.weights.get(name, own) for name in names)])
    values = numbers([loss.value, *(loss.metrics.get(name, 0.0) for name in names)])
    every = processes.stack(torch.stack([weights, values.where(weights > 0, 0.0)]))
    total = every[:, 0].sum(0).clamp(min=1e-30)
    share = processes.size * weights[0] / total[0]
    logged = (every[:, 0, 0] * every[:, 1, 0]).sum() / total[0]
    table = every.cpu() if loss.weights else every  # whether a metric has a weight is asked here
    columns = {name: table[:, :, i] for i, name in enumerate(names, 1)}
    return StepLoss(
        loss.value * share.to(loss.value.dtype),
        logged.float(),
        _metrics(columns, bool(loss.weights)),
        total[0],
    )


def _metrics(columns: Mapping[str, Tensor], optional: bool) -> dict[str, Tensor]:
    """Combine metrics of all processes.

    Args:
        columns: (processes, 2) weights and values of each.
        optional: some may have no weight in any process, and are left out.
    """
    found: dict[str, Tensor] = {}
    for name, column in columns.items():
        weight, values = column.unbind(1)
        total = weight.sum()
        if optional and not total:
            continue
        mean = (weight * values).sum() / total
        if name == "perplexity":
            mean = ((weight * values.log()).sum() / total).exp()
        elif name.endswith("_error"):
            mean = values.max()
        elif name.endswith("_var"):  # each process's is about its own mean
            means = columns[name.removesuffix("_var")][:, 1]
            mean = mean + (weight * (means - (weight * means).sum() / total).square()).sum() / total
        found[name] = mean.float()
    if "rewards/margins" in found and optional:  # its sides have other numbers of rows
        del found["rewards/margins"]
        if found.keys() >= SIDES:
            found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    return found
