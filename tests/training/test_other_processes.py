"""A checkpoint's position among another number of processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lightning_rlhf import PreferenceData
from lightning_rlhf.training.other_processes import KEY, adapt, step_of


def trainer(processes: int, accumulated: int = 1, **data: Any) -> Any:
    module = PreferenceData([], **data) if data else None
    return SimpleNamespace(
        world_size=processes, accumulate_grad_batches=accumulated, datamodule=module
    )


def checkpoint(of: Any, batches: int = 12) -> dict[str, Any]:
    progress = {"total": {"ready": batches}, "current": {"ready": batches}}
    return {
        KEY: list(step_of(of)),
        "loops": {"fit_loop": {"epoch_loop.batch_progress": progress}},
    }


@pytest.mark.parametrize(
    ("before", "now", "batches"),
    [
        (trainer(2, batch_size=2), trainer(1, batch_size=4), 12),
        (trainer(4, batch_size=2), trainer(1, 4, batch_size=2), 48),
        (trainer(1, 6, batch_size=1), trainer(3, 1, batch_size=2), 2),
        (trainer(2, max_tokens=64), trainer(1, 2, max_tokens=64), 24),
    ],
)
def test_batches_are_counted_anew(before: Any, now: Any, batches: int) -> None:
    saved = checkpoint(before)
    adapt(saved, now, False, "last.ckpt")
    progress = saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert progress["total"]["ready"] == progress["current"]["ready"] == batches


@pytest.mark.parametrize(
    ("before", "now", "rollouts", "said"),
    [
        (trainer(2), trainer(1), False, "2 processes, each with a position of its own.*has 1"),
        (trainer(2, batch_size=2), trainer(4, batch_size=1), True, "each with a rollout"),
        (trainer(2, batch_size=2), trainer(1, batch_size=2), False, "4 rows .*are of .* 2 rows"),
        (trainer(2, max_tokens=64), trainer(1, 2, max_tokens=32), False, "of 64 tokens.*of 32"),
        (trainer(2, max_tokens=64), trainer(1, batch_size=2), False, "of 64 tokens.*2 rows"),
    ],
)
def test_what_cannot_go_on_as_it_was_is_refused(
    before: Any, now: Any, rollouts: bool, said: str
) -> None:
    with pytest.raises(ValueError, match=f"last.ckpt is of .*{said}"):
        adapt(checkpoint(before), now, rollouts, "last.ckpt")


def test_the_same_number_of_processes_changes_nothing() -> None:
    saved = checkpoint(trainer(2, batch_size=2))
    adapt(saved, trainer(2, batch_size=8), True, "last.ckpt")
    assert saved == checkpoint(trainer(2, batch_size=2))
