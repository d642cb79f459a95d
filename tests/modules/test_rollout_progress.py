"""The rollout in hand: what a checkpoint holds of it."""

from __future__ import annotations

import torch

from lightning_rlhf.models.sampler import Sample
from lightning_rlhf.modules.rollout import RoleOutputs, Rollout, SampledBatch
from lightning_rlhf.modules.rollout_progress import RolloutProgress

CPU = torch.device("cpu")
ROLLOUT = Rollout.assemble(
    SampledBatch([[7]], [{}], [Sample([1, 2], True, [-1.0, -2.0])]),
    order=[[0]] * 3,
    outputs=RoleOutputs(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.5])),
    scores=[torch.ones(1)],
    weights=[1.0],
    score_after_eos=[False],
    old_logprobs="trainer",
)


def restored(progress: RolloutProgress) -> RolloutProgress:
    copy = RolloutProgress()
    copy.load_state_dict(progress.state_dict(), CPU)
    return copy


def test_updates_go_on() -> None:
    progress = RolloutProgress()
    progress.start(ROLLOUT)
    assert [progress.next_update(), progress.next_update()] == [0, 1]
    assert restored(progress).next_update() == 2


def test_a_rollout_is_restored_and_a_new_one_starts_over() -> None:
    progress = RolloutProgress()
    assert restored(progress).rollout is None
    progress.start(ROLLOUT)
    progress.next_update()
    progress.stopped = True
    copy = restored(progress)
    assert copy.stopped and copy.rollout is not None
    assert torch.equal(copy.rollout.logprobs, ROLLOUT.logprobs)
    assert copy.rollout.completion_ids == [[1, 2]]
    copy.start(ROLLOUT)
    assert not copy.stopped and copy.next_update() == 0
