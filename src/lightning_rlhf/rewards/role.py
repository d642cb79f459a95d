"""A reward from a role of the backbone."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from lightning_rlhf.batches import TokenBatch, to_device
from lightning_rlhf.data.collate import completion_batch
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
        batches = _ended(inputs, backbone.tokenizer.eos_token_id)
        return torch.cat([backbone.scores(tokens, self.role) for tokens in batches])


def _ended(inputs: RewardInputs, eos: int) -> list[TokenBatch]:
    """Lay the completions out so that finished ones end with eos, where a reward role was trained.

    Returns:
        The batches of the inputs themselves if all do.
    """
    ended = inputs.ended_ids(eos)
    if ended == list(inputs.completion_ids):
        return inputs.tokens
    batches, start = [], 0
    for tokens in inputs.tokens:
        assert tokens.groups is not None, "completions are packed by their prompts"
        stop = start + len(tokens.last_index)
        completions = [len(group) - 1 for group in tokens.groups]  # of each prompt
        firsts = itertools.accumulate(completions[:-1], initial=start)
        prompts = [inputs.prompt_ids[first] for first in firsts]
        batch = completion_batch(prompts, ended[start:stop], range(len(prompts)))
        batches.append(to_device(batch, tokens.input_ids.device))
        start = stop
    return batches
