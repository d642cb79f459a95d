"""Plan a step's peak memory: run the module's step on meta at two depths, and extrapolate."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from transformers import PretrainedConfig

from lightning_rlhf.batches import TokenBatch, to_device
from lightning_rlhf.functional.head import tile_rows
from lightning_rlhf.models import loading
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.planning import meta
from lightning_rlhf.planning.tracker import ACTIVATIONS, MemoryTracker

Target = Literal["cpu", "cuda"]
Groups = Sequence[Sequence[int]]  # (prompt, completion, completion, ...) of each row of a step
WEIGHTS, ADAPTERS, GRADIENTS, OPTIMIZER = "weights", "adapters", "gradients", "optimizer"
UNSEEN = "context and fragments"
META = torch.device("meta")
GIB = 2**30
CUDA_CONTEXT = 0.6 * GIB  # of the context and of cuBLAS: assumed, not measured
CUDA_FRAGMENTATION = 0.05  # of the allocator's share: assumed, not measured


class Phase(NamedTuple):
    """Memory at the peak of one phase of a step, in bytes by kind."""

    name: str
    kinds: dict[str, float]

    @property
    def total(self) -> float:
        """Bytes of all kinds."""
        return sum(self.kinds.values())


class Stepping(NamedTuple):
    """Memory of the optimizer, in bytes per trained weight."""

    state: float = 8  # kept between steps
    scratch: float = 0  # used while it steps
    accumulates: bool = False  # gradients are kept through the next forward


class Plan(NamedTuple):
    """The phases of one step; its peak is the largest of them."""

    phases: list[Phase]

    @property
    def peak(self) -> Phase:
        """The phase that takes most memory."""
        return max(self.phases, key=lambda phase: phase.total)


def plan_step(
    module: AlignmentModule,
    groups: Groups,
    precision: str = "32-true",
    target: Target = "cuda",
    stepping: Stepping = Stepping(),
    config: PretrainedConfig | None = None,
) -> Plan:
    """Plan the peak memory of an optimizer step from the model's config alone.

    Two shallow models, whose layers are whole periods of the real one's, run the step on meta. Each
    phase is extrapolated alone, since the peak may move from one phase to another with depth.

    Args:
        module: unloaded.
        groups: lengths of the rows of the largest step.
        precision: the Trainer's.
        target: "cuda" adds the memory outside of tensors.
        stepping: memory of the optimizer.
        config: the model's; None reads it.
    """
    config = config or meta.read_config(module.backbone.path)
    layers, period = config.get_text_config().num_hidden_layers, meta.period(config)
    shallow = 2 * period if 2 * period < layers else period
    deep = min(2 * shallow, layers)
    settings: Any = {"precision": precision, "target": target, "stepping": stepping}
    few, more = (_run(module, groups, config, depth, **settings) for depth in (shallow, deep))
    beyond = (layers - deep) / max(1, deep - shallow)
    phases = {
        name: {k: more[name][k] + beyond * (more[name][k] - few[name][k]) for k in more[name]}
        for name in more
    }
    return Plan(_with_overheads(phases, target))


def _with_overheads(phases: dict[str, Any], target: Target) -> list[Phase]:
    made = []
    for name, kinds in phases.items():
        kinds = {k: float(v) for k, v in kinds.items() if v}
        if target == "cuda":
            fragments = CUDA_FRAGMENTATION * sum(kinds.values())
            kinds[UNSEEN] = CUDA_CONTEXT + fragments
        made.append(Phase(name, kinds))
    return made


def _run(
    module: AlignmentModule,
    groups: Groups,
    config: PretrainedConfig,
    layers: int,
    *,
    precision: str,
    target: Target,
    stepping: Stepping,
) -> dict[str, Counter[str]]:
    """Run one step at one depth: bytes by kind at the peak of each phase."""
    trial = on_meta(module, config, layers, target)
    backbone = trial.backbone
    mixed = precision == "bf16-mixed"
    autocast = meta.Autocast(backbone.base) if mixed else nullcontext()
    batch = without_data(trial.example_batch(groups))
    _set_tile(backbone, batch, config.get_text_config().vocab_size, target)
    stage = "forward"
    tracker = MemoryTracker(
        lambda: f"{stage} as {backbone.switch.active}" if stage == "forward" else stage,
        config.get_text_config().vocab_size,
    )
    trained = [p for role in trial.trained for p in backbone.role_parameters(role)]
    _hold(tracker, backbone, trained, stepping)
    with meta.kernels_as_on(target), tracker:
        with autocast:
            loss = trial.objective(batch).value
        stage = "backward"
        loss.backward()
    live = tracker.live.copy()
    if not stepping.accumulates:  # the backward created them, which the tracker calls activations
        gradients = sum(p.grad.nbytes for p in trained if p.grad is not None)
        live.update({GRADIENTS: gradients, ACTIVATIONS: -gradients})
    live[OPTIMIZER] += int(stepping.scratch * sum(p.numel() for p in trained))
    tracker.peaks["optimizer"] = live
    return {name: kinds for name, kinds in tracker.peaks.items() if name != "forward as None"}


def _hold(
    tracker: MemoryTracker, backbone: Backbone, trained: list[nn.Parameter], stepping: Stepping
) -> None:
    """Count the memory that is there before a step begins."""
    tracker.hold(ADAPTERS, [p for n, p in backbone.named_parameters() if backbone.is_saved(n)])
    tracker.hold(WEIGHTS, meta.storages(backbone))
    tracker.live[OPTIMIZER] = int(stepping.state * sum(p.numel() for p in trained))
    if stepping.accumulates:
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
            tracker.hold(GRADIENTS, [parameter.grad])


def on_meta(
    module: AlignmentModule, config: PretrainedConfig, layers: int, target: Target
) -> AlignmentModule:
    """Copy an unloaded module onto a model without data."""
    given = module.backbone
    dtype, four_bit = base_dtype(given, target), given.quantization is not None
    backbone = given.on_meta(meta.meta_model(config, layers, dtype, four_bit, given.attention))
    trial = copy.deepcopy(module, {id(given): backbone})
    trial.add_roles()
    backbone.train_roles(*trial.trained)
    backbone.to("meta")
    return trial.train()


def base_dtype(backbone: Backbone, target: Target) -> torch.dtype:
    """Dtype of the base where it will run: fp32 if it is trained; "auto" is bf16 on a GPU."""
    if backbone.lora is None:
        return torch.float32
    if backbone.dtype == "auto" and target == "cuda":
        return torch.bfloat16
    return loading.torch_dtype(backbone.dtype)


def _set_tile(backbone: Backbone, batch: Any, vocabulary: int, target: Target) -> None:
    """Set the rows of logits that the target would hold; on meta they would not adapt."""
    if backbone.head_tile is None:
        targets = len(getattr(batch, "tokens", batch).target_ids)
        backbone.head_tile = tile_rows(targets, vocabulary, torch.device(target))


def without_data(batch: Any) -> Any:
    """Move a batch's token batches and floats to meta; its index tensors keep their values."""

    def moved(value: Any) -> Any:
        if isinstance(value, TokenBatch):
            return to_device(value, META)
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(META) if floats else value

    if isinstance(batch, TokenBatch):
        return moved(batch)
    return batch._replace(**{name: moved(value) for name, value in batch._asdict().items()})
