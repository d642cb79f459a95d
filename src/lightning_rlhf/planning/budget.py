"""The largest step of a run, the largest that fits a card, and changes that would make room."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PretrainedConfig

from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.models.lora import LoRA
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.planning import meta
from lightning_rlhf.planning.plan import GIB, Groups, Plan, Stepping, Target, plan_step

TIGHT = 0.9  # of a card: above it, memory that a plan cannot see may decide


class Run(NamedTuple):
    """Everything that decides how much memory a run takes."""

    module: AlignmentModule
    groups: Groups  # of its largest step
    precision: str
    target: Target
    stepping: Stepping
    config: PretrainedConfig

    @property
    def rows(self) -> int:
        """Of the largest step."""
        return len(self.groups)

    @property
    def length(self) -> int:
        """Tokens of the longest prompt with one of its completions."""
        return max(prompt + max(completions) for prompt, *completions in self.groups)

    def resized(self, rows: int | None = None, length: int | None = None) -> Run:
        """The same run with other numbers of rows, or with every row scaled to another length."""
        many = self.rows if rows is None else rows
        share = 1 if length is None else length / self.length
        groups = [[max(1, int(n * share)) for n in group] for group in self.groups]
        return self._replace(groups=[groups[i % len(groups)] for i in range(many)])

    def plan(self) -> Plan:
        """Plan of the largest step.

        Raises:
            ValueError: the family's code does not run without data.
        """
        try:
            return plan_step(
                self.module,
                self.groups,
                self.precision,
                target=self.target,
                stepping=self.stepping,
                config=self.config,
            )
        except (RuntimeError, NotImplementedError, AttributeError) as reason:
            raise ValueError(
                f"a step of {self.config.model_type} cannot be planned, since its code does not "
                f"run without data ({reason}): run fit with --trainer.max_steps 2 and read the "
                "peak memory in its log"
            ) from reason


class Change(NamedTuple):
    """A change that would make room."""

    name: str
    cost: str
    saves: float  # bytes; negative if it takes more
    fits: bool


def run_of(
    module: AlignmentModule, data: RowsData, precision: str, target: Target,
    accumulates: bool = False, completions: int = 2,
) -> Run:  # fmt: skip
    """The largest step that settings allow, before a row is read.

    Args:
        module: unloaded.
        data: not set up.
        precision: the Trainer's.
        target: where it will run.
        accumulates: gradients of several batches make a step.
        completions: to a prompt, see ``AlignmentModule.largest_step``.
    """
    groups = module.largest_step(data, completions)
    stepping = stepping_of(module.optimizer)._replace(accumulates=accumulates)
    config = meta.read_config(module.backbone.path)
    return Run(
        module=module,
        groups=groups,
        precision=precision,
        target=target,
        stepping=stepping,
        config=config,
    )


def stepping_of(make: Callable[..., Any] | None) -> Stepping:
    """Memory of an optimizer: two fp32 moments per trained weight if not known otherwise."""
    if make is None:
        return Stepping()  # fused: no memory beside its state
    optimizer = make([nn.Parameter(torch.zeros(1))])
    name = type(optimizer).__name__
    if "8bit" in name:
        return Stepping(state=2)
    defaults = getattr(optimizer, "defaults", {})
    spared = defaults.get("fused") or defaults.get("foreach") is False
    scratch = 4 if name.startswith("Adam") and not spared else 0  # foreach: a root of each moment
    return Stepping({"SGD": 4, "Adafactor": 0.1, "Lion": 4}.get(name, 8), scratch)


def largest(run: Run, memory: float, field: str) -> int:
    """The largest number of ``rows``, or ``length``, whose plan fits; 0 if even the least does not.

    A length is limited by the model's positions. Peaks grow nearly linearly in either, once tiles
    of logits are full: each guess is extrapolated from the last plan, and the end is searched
    downwards.

    Args:
        run: all other settings.
        memory: bytes.
        field: "rows" or "length".
    """
    least, step = (1, 1) if field == "rows" else (64, 64)
    most = run.config.get_text_config().max_position_embeddings if field == "length" else 2**20

    def peak(value: int) -> float:
        return run.resized(**{field: value}).plan().peak.total

    small = peak(least)
    if small > memory:
        return 0
    value, needed = 8 * least, peak(8 * least)
    for _ in range(4):
        slope = max(1.0, (needed - small) / (value - least))
        target = least + int((memory - small) / slope / step) * step
        target = max(2 * least, min(target, most))
        if abs(target - value) <= max(step, value // 50):
            break
        value, needed = target, peak(target)
    while value > least and needed > memory:
        value = max(least, int(value * 0.98) // step * step)
        needed = peak(value)
    return value


def changes(run: Run, memory: float) -> list[Change]:
    """Changes that would make room, each planned alone, the largest saving first."""
    before = run.plan().peak.total
    planned = []
    for name, cost, other in _candidates(run):
        peak = other.plan().peak.total
        planned.append(Change(name, cost, before - peak, peak <= memory))
    return sorted((c for c in planned if c.saves > 0), key=lambda change: -change.saves)


def _candidates(run: Run) -> list[tuple[str, str, Run]]:
    backbone = run.module.backbone
    made: list[tuple[str, str, Run]] = []

    def with_backbone(name: str, cost: str, **fields: Any) -> None:
        module = copy.deepcopy(run.module)
        for field, value in fields.items():
            setattr(module.backbone, field, value)
        made.append((name, cost, run._replace(module=module)))

    if not backbone.gradient_checkpointing:
        with_backbone("gradient_checkpointing: true", "a third slower", gradient_checkpointing=True)
    elif "activations" not in backbone.offload:
        cost = "layer inputs travel to the host and back"
        with_backbone("offload: [activations]", cost, offload=[*backbone.offload, "activations"])
    if not run.config.get_text_config().tie_word_embeddings and "embedding" not in backbone.offload:
        cost = "looked-up rows travel to the card"
        with_backbone("offload: [embedding]", cost, offload=[*backbone.offload, "embedding"])
    if backbone.lora is None:
        with_backbone("lora: {r: 16}", "adapters instead of the whole model", lora=LoRA())
    elif backbone.quantization is None:
        with_backbone("quantization: nf4", "a base in 4 bits", quantization="nf4")
    if (backbone.head_tile or 64) > 16:
        with_backbone("head_tile: 16", "more and smaller products in the head", head_tile=16)
    if run.rows > 1:
        half = run.resized(rows=run.rows // 2)
        cost = "twice accumulate_grad_batches for the same step"
        made.append((f"{half.rows} rows to a step", cost, half))
    shorter = run.resized(length=run.length // 2)
    made.append((f"max_length: {shorter.length}", "longer rows are cut", shorter))
    if run.stepping.state > 2:
        eight = run._replace(stepping=run.stepping._replace(state=2, scratch=0))
        made.append(
            ("optimizer: bitsandbytes.optim.PagedAdamW8bit", "a GPU; state in 8 bits", eight)
        )
    return made


def in_gib(size: float) -> str:
    """Bytes in GiB, to two digits."""
    return f"{size / GIB:.2f}"
