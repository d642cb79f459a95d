"""The table of methods: tests of configs, Trainers, plans and the contract derive from it.

A further method is one entry of ``METHODS``.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import lightning_rlhf as rlhf
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.modules.online import OnlineModule
from support import NUMBERS


def low_numbers(
    prompts: list[str], completions: list[str], rows: list[dict[str, Any]]
) -> list[float]:
    """A reward: the share of a completion's words that are low numbers."""
    low = set(NUMBERS[:20])
    return [sum(w in low for w in text.split()) / max(1, len(text.split())) for text in completions]


@dataclass(frozen=True)
class Method:
    """A method as tests run it."""

    module: type[AlignmentModule]
    data: type[RowsData]
    _: KW_ONLY
    metrics: frozenset[str] = frozenset()  # logged at every stage beside the loss
    options: dict[str, Any] = field(default_factory=dict)  # of the module in a small run
    predicts: type[RowsData] | None = None  # what predict takes; None for ``data``
    monitor: str = "val/loss"  # measured by a validation

    def make(self, backbone: Backbone, **options: Any) -> AlignmentModule:
        """The module of a small run."""
        return self.module(backbone, **{**self.options, **options})


WORDS = frozenset({"perplexity"})
REWARDS = frozenset(f"rewards/{n}" for n in ("chosen", "rejected", "accuracies", "margins"))
LOGPS = frozenset({"logps/chosen", "logps/rejected"})
ANY = {"reward": low_numbers, "sampling": rlhf.Sampling(max_new_tokens=6)}
PAIRED = {**ANY, "sampling": rlhf.Sampling(max_new_tokens=6, num_samples=2)}

METHODS = {
    "sft": Method(rlhf.SFTModule, rlhf.DemonstrationData, metrics=WORDS, predicts=rlhf.PromptData),
    "reward": Method(rlhf.RewardModule, rlhf.PreferenceData, metrics=REWARDS),
    "dpo": Method(rlhf.DPOModule, rlhf.PreferenceData, metrics=REWARDS | LOGPS),
    "kto": Method(rlhf.KTOModule, rlhf.PreferenceData, metrics=REWARDS | {"kl"}),
    "ppo": Method(
        rlhf.PPOModule, rlhf.PromptData, options={**ANY, "updates": rlhf.UpdateSchedule(epochs=3)}
    ),
    "grpo": Method(rlhf.GRPOModule, rlhf.PromptData, options=PAIRED),
    "rloo": Method(rlhf.RLOOModule, rlhf.PromptData, options=PAIRED),
}
ONLINE = [name for name, method in METHODS.items() if issubclass(method.module, OnlineModule)]
OFFLINE = [name for name in METHODS if name not in ONLINE]
TITLES = {name: method.module.__name__ for name, method in METHODS.items()}
