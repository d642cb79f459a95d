"""The updates on one rollout, and the prompts of each."""

from __future__ import annotations

import pytest
import torch

from lightning_rlhf.modules.update_schedule import UpdateSchedule


def test_each_pass_takes_every_prompt_once_and_the_first_in_order() -> None:
    torch.manual_seed(0)
    updates = UpdateSchedule(epochs=3, minibatches=2)
    parts = updates.split(5)
    assert updates.per_rollout == len(parts) == 6
    assert parts[:2] == [[0, 1, 2], [3, 4]]
    for epoch in (1, 2):
        assert sorted(parts[2 * epoch] + parts[2 * epoch + 1]) == [0, 1, 2, 3, 4]
    assert parts[2:4] != parts[4:]


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"epochs": 0}, {"minibatches": 0}):
        with pytest.raises(ValueError, match="give 1 or more of each"):
            UpdateSchedule(**wrong)
    with pytest.raises(ValueError, match="dual_clip is 1"):
        UpdateSchedule(dual_clip=1)
    with pytest.raises(ValueError, match="2 prompts cannot be cut into 3 minibatches: raise"):
        UpdateSchedule(minibatches=3).split(2)
