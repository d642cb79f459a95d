"""The forms in which a module takes its reward."""

from __future__ import annotations

from lightning_rlhf.rewards.base import Reward
from lightning_rlhf.rewards.function import FunctionReward, RewardFunction
from lightning_rlhf.rewards.role import RoleReward

OneReward = RewardFunction | Reward | str


def as_rewards(reward: OneReward | list[OneReward]) -> list[Reward]:
    """Turn the name of a role, a function, a reward or a list of these into a list.

    Several rewards are summed by their weights; a function or a name has weight 1.

    Raises:
        ValueError: the list is empty, or two rewards would be logged under one name.
    """
    if not isinstance(reward, list | tuple):
        return [_one(reward)]
    rewards = [_one(each) for each in reward]
    names = [r.name for r in rewards]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"give one or more rewards, each of another name; got {names}")
    return rewards


def _one(reward: OneReward) -> Reward:
    if isinstance(reward, Reward):
        return reward
    if isinstance(reward, str):
        return RoleReward(reward)
    if not callable(reward):
        raise ValueError(
            f"a reward is the name of a role, a function or a Reward, or a list of these; got "
            f"{reward!r}"
        )
    return FunctionReward(reward)
