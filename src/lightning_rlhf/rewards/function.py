"""A reward from a Python function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.rewards.base import Reward, RewardInputs

# (prompts, completions, rows) -> scores
RewardFunction = Callable[[list[str], list[str], list[dict[str, Any]]], Sequence[float]]


class FunctionReward(Reward):
    """Score with a function of texts and rows.

    Args:
        function: ``(prompts, completions, rows) -> scores``, one number for each completion; in
            YAML its dotted name.
        weight: factor in a sum of several rewards.
    """

    def __init__(self, function: RewardFunction, weight: float = 1.0):
        super().__init__(getattr(function, "__name__", type(function).__name__), weight)
        self.function = function

    def score(self, backbone: Backbone, inputs: RewardInputs) -> Tensor:
        """Score completions: (C,) fp32.

        Raises:
            ValueError: the function does not return one finite number for each completion.
        """
        scores = list(self.function(inputs.prompts, inputs.completions, inputs.rows))
        if len(scores) != len(inputs.completions):
            raise ValueError(
                f"the reward {self.name} gave {len(scores)} scores for "
                f"{len(inputs.completions)} completions: return one number for each"
            )
        for score, completion in zip(scores, inputs.completions, strict=True):
            if score is None or not math.isfinite(float(score)):
                raise ValueError(
                    f"the reward {self.name} gave {score} for {completion[:60]!r}: "
                    "return finite numbers"
                )
        return torch.tensor([float(s) for s in scores], device=backbone.base.device)
