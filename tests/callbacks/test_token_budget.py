"""The search for a token budget: what fits, what is left behind, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from lightning_rlhf import DPOModule, FindTokenBudget, MemoryGuard
from lightning_rlhf.callbacks import token_budget as search
from lightning_rlhf.callbacks.token_budget import Trial, largest_that
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.planning.plan import GIB
from lightning_rlhf.training.checkpoint import rng_state
from runs import Runs


@pytest.fixture
def runs(tiny_base: str, tmp_path: Path) -> Runs:
    return Runs(tiny_base, tmp_path)


@pytest.mark.parametrize("limit", [9, 10, 17, 100, 333, 1000, 4095, 4096, 5000])
def test_the_largest_that_fits_to_a_sixteenth(limit: int) -> None:
    tried: list[int] = []

    def fits(budget: int) -> bool:
        tried.append(budget)
        return budget <= limit

    found = largest_that(fits, 10, 4096)
    if limit < 10:
        assert found == 0
        assert tried == [10]
    else:
        wanted = min(limit, 4096)
        assert wanted - max(1, wanted // 16) <= found <= wanted
        assert len(tried) == len(set(tried)) <= 16
        assert max(tried) <= 4096


class Limited(DPOModule):
    """Fails as a full card does, after its forward has drawn and its policy ran.

    A class, since a plan copies the module: a function put in its place would run the original.
    """

    limit = 10**9  # tokens
    seen: ClassVar[list[int]] = []

    def objective(self, batch: Any) -> Loss:
        loss = super().objective(batch)
        if not loss.value.is_meta:
            self.seen.append(batch.tokens.input_ids.numel())
            torch.rand(())
            if self.seen[-1] > self.limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return loss


def limited(runs: Runs, limit: int = 10**9) -> tuple[Limited, Any]:
    """A module of that kind that has seen nothing, and its data."""
    _, data = runs.make("dpo", rows=48, val_fraction=0.0)
    module = Limited(runs.backbone(), lr=5e-3)
    module.limit = limit
    Limited.seen.clear()
    return module, data


def test_a_full_card_is_backed_off_from_and_leaves_no_trace(runs: Runs) -> None:
    module, data = limited(runs, 70)
    callback = FindTokenBudget(most=200)
    states: dict[str, Any] = {}

    class Look(FindTokenBudget):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            module.configure_model()
            states["before"] = rng_state(), runs.weights(module)
            callback.setup(trainer, pl_module, stage)
            states["after"] = rng_state(), runs.weights(module)
            module.limit = 10**9  # what it found is for the run to use

    trainer = runs.trainer(callbacks=[Look()], limit_train_batches=2)
    trainer.fit(module, data)
    assert max(module.seen) > 70  # it went beyond
    assert callback.found == data.max_tokens
    assert 65 <= callback.found <= 73  # the rows may leave a budget a little unused
    (before, old), (after, new) = states["before"], states["after"]
    assert torch.equal(before["torch"], after["torch"])
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert max(sum(map(sum, b.tokens.groups)) for b in data.train_dataloader()) <= callback.found


def test_the_longest_rows_are_tried(runs: Runs) -> None:
    module, data = runs.make("dpo", rows=48, val_fraction=0.0)
    trainer = runs.trainer()
    trainer.strategy.connect(module)
    module._trainer = data.trainer = trainer
    data.setup("fit")
    assert data.train_rows is not None
    trial = Trial(trainer, module, data, rows=data.train_rows, share=0.9)
    costs = sorted(data.train_rows["tokens"], reverse=True)
    taken = [trial.costs[row] for row in trial._longest(40)]
    assert taken[:2] == costs[:2]
    assert 40 - min(costs) < sum(taken) <= 40


def test_without_a_card_the_plan_decides(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plan forbids is not run; where not even the longest row fits, the run is refused."""
    budgets = {}
    for free in (GIB, 2e6, 1e3):
        monkeypatch.setattr(search, "free_memory", lambda device, free=free: float(free))
        module, data = limited(runs)
        callback = FindTokenBudget(most=300)
        trainer = runs.trainer(callbacks=[callback, MemoryGuard()], max_steps=1)
        if free == 1e3:
            with pytest.raises(ValueError, match="not even the longest row, of 14 tokens, fits"):
                trainer.fit(module, data)
            assert not module.seen
        else:
            trainer.fit(module, data)
            budgets[free] = callback.found
    assert budgets[GIB] == 300
    assert 14 <= budgets[2e6] < 300


def test_what_it_does_not_know_is_refused(runs: Runs) -> None:
    module, _ = runs.make("dpo", rows=8)
    with pytest.raises(ValueError, match=r"FindTokenBudget knows our own .* on NoneType"):
        runs.trainer(callbacks=[FindTokenBudget()]).fit(module, [])
    with pytest.raises(
        ValueError, match="most is a number of tokens per step: give 2 or more, got 1"
    ):
        FindTokenBudget(most=1)
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\], got 0"):
        FindTokenBudget(share=0)


def test_a_resumed_search_must_find_the_same(runs: Runs) -> None:
    module, data = runs.make("dpo", rows=32)
    trainer = runs.trainer(callbacks=[FindTokenBudget(most=40)], max_steps=2)
    trainer.fit(module, data)
    path = runs.folder / "searched.ckpt"
    trainer.save_checkpoint(path)
    for most, works in ((40, True), (30, False)):
        module, data = runs.make("dpo", rows=32)
        trainer = runs.trainer(callbacks=[FindTokenBudget(most=most)], max_steps=3, max_epochs=2)
        if works:
            trainer.fit(module, data, ckpt_path=str(path))
            assert trainer.global_step == 3
        else:
            with pytest.raises(ValueError, match=r"max_tokens=40, and max_tokens=30 is found now"):
                trainer.fit(module, data, ckpt_path=str(path))
