"""The rollout in hand, and how far its updates are."""

from __future__ import annotations

from typing import Any

import torch

from lightning_rlhf.modules.rollout import Rollout


class RolloutProgress:
    """The rollout in hand, and the updates made on it."""

    def __init__(self) -> None:
        self.rollout: Rollout | None = None
        self.update = 0  # number of updates that have begun
        self.stopped = False  # the remaining updates are skipped

    def start(self, rollout: Rollout) -> None:
        """Take a new rollout in hand."""
        self.rollout, self.update, self.stopped = rollout, 0, False

    def next_update(self) -> int:
        """Begin an update, and return its number."""
        update, self.update = self.update, self.update + 1
        return update

    def state_dict(self) -> dict[str, Any]:
        """Collect what a checkpoint holds of this process."""
        return {
            "rollout": self.rollout.state() if self.rollout is not None else None,
            "update": self.update,
            "stopped": self.stopped,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        rollout = state["rollout"]
        self.rollout = Rollout.of_state(rollout, device) if rollout is not None else None
        self.update, self.stopped = state["update"], state["stopped"]
