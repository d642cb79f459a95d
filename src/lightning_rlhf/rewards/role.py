"""A reward from a role of the backbone."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.rewards.base import Reward, RewardInputs


class RoleReward(Reward):
    """Score with a role trained by ``RewardModule``, at each completion's last token.

    Args:
        role: its name; its weights come from ``Backbone(adapters={"reward": folder})``, or are on
            the backbone already.
        weight: factor in a sum of several rewards.
    """

    def __init__(self, role: str = "reward", weight: float = 1.0):
        super().__init__(role, weight)
        self.role = role

    def prepare(self, backbone: Backbone) -> None:
        """Freeze the role.

        Raises:
            ValueError: the backbone has no such role, or it has no head.
        """
        if self.role not in backbone.roles and self.role not in backbone.adapters:
            raise ValueError(
                f"no role {self.role!r} to score with: train one with RewardModule and give "
                f'Backbone(adapters={{"{self.role}": folder}}), or another reward'
            )
        if self.role not in backbone.adapters and self.role not in backbone.heads:
            raise ValueError(
                f"role {self.role!r} has no head to score with: give a role trained by RewardModule"
            )
        backbone.add_role(self.role, trainable=False, head=True)

    @torch.no_grad()
    def score(self, backbone: Backbone, inputs: RewardInputs) -> Tensor:
        return torch.cat([backbone.scores(tokens, self.role) for tokens in inputs.tokens])
