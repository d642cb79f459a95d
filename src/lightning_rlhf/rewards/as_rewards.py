"""The forms in which a module takes its reward."""

from __future__ import annotations

from lightning_rlhf.rewards.base import Reward
from lightning_rlhf.rewards.function import FunctionReward, RewardFunction
from lightning_rlhf.rewards.role import RoleReward


def as_rewards(reward: str | RewardFunction | Reward | list[Reward]) -> list[Reward]:
    """Turn the name of a role, a function, a reward or a list of rewards into a list.

    Raises:
        ValueError: the list is empty, or two rewards would be logged under one name.
    """
    if isinstance(reward, str):
        return [RoleReward(reward)]
    if isinstance(reward, Reward):
        return [reward]
    if isinstance(reward, list):
        names = [r.name for r in reward]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"give one or more rewards, each of another name; got {names}")
        return reward
    return [FunctionReward(reward)]
