"""DPO in a Trainer: its first loss, its options, its reference."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback

from lightning_rlhf import Backbone, DPOModule, LoRA, PreferenceData, Term
from lightning_rlhf.batches import PreferenceBatch
from lightning_rlhf.functional import dpo
from runs import Runs
from support import number_pairs


class Losses(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.seen.append(outputs["loss"].item())


def losses(runs: Runs, module: DPOModule, rows: Any = None, **kwargs: Any) -> list[float]:
    seen = Losses()
    data = PreferenceData(rows or number_pairs(24), val_fraction=0.25, batch_size=4)
    runs.trainer(callbacks=[seen], **kwargs).fit(module, data)
    return seen.seen


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_the_first_loss_is_ln_2(runs: Runs, quantization: Any) -> None:
    first, *_ = losses(runs, DPOModule(runs.backbone(quantization=quantization)), max_steps=1)
    assert first == pytest.approx(math.log(2), abs=1e-6)


def test_a_mix_is_the_weighted_sum_of_its_terms(runs: Runs) -> None:
    def first(loss: Any) -> float:
        torch.manual_seed(0)
        return losses(runs, DPOModule(runs.backbone(), loss=loss), max_steps=1)[0]

    mix = [Term(dpo.dpo_loss, 0.8), Term(dpo.chosen_nll_loss, 0.5)]
    assert first(mix) == pytest.approx(
        0.8 * first(dpo.dpo_loss) + 0.5 * first(dpo.chosen_nll_loss), rel=1e-5
    )
    smoothed = [Term(dpo.robust_loss, options={"label_smoothing": 0.2})]
    assert first(smoothed) == pytest.approx(first(partial(dpo.robust_loss, label_smoothing=0.2)))


def test_an_option_the_loss_does_not_have_is_named(runs: Runs) -> None:
    with pytest.raises(ValueError, match=r"ipo_loss has no option 'smoothing'; it has \[\]"):
        DPOModule(runs.backbone(), loss=[Term(dpo.ipo_loss, options={"smoothing": 0.1})])


def test_losses_without_a_reference_make_none(runs: Runs) -> None:
    module = DPOModule(runs.backbone(), loss=dpo.simpo_loss, beta=2.0)
    losses(runs, module, max_steps=2)
    assert list(module.backbone.roles) == ["policy"]
    data = PreferenceData(number_pairs(4), val_fraction=0, batch_size=4)
    (rows,) = runs.trainer().predict(module, data)
    assert all(row["reward_chosen"] < 0 and row["reward_rejected"] < 0 for row in rows)  # beta S


def test_dropout_and_beta_are_refused_at_once(runs: Runs) -> None:
    with pytest.raises(ValueError, match=r"give LoRA\(dropout=0\)"):
        DPOModule(runs.backbone(lora=LoRA(dropout=0.1)))
    with pytest.raises(ValueError, match="beta must be above 0, got 0"):
        DPOModule(runs.backbone(), beta=0)


def test_soft_labels_reach_the_loss(runs: Runs) -> None:
    """At p = 1/2 there is nothing to prefer: no gradient at the reference."""
    rows = [{**row, "label": 0.5} for row in number_pairs(24)]
    module = DPOModule(runs.backbone(), lr=1e-2)
    module.configure_model()
    data = PreferenceData(rows, val_fraction=0, tokenizer=module.backbone.tokenizer)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch.label is not None
    module.objective(batch).value.backward()
    assert all(p.grad.abs().max() < 1e-7 for p in module.backbone.role_parameters("policy"))


def test_full_fine_tuning_holds_to_a_frozen_copy(runs: Runs) -> None:
    module = DPOModule(runs.backbone(lora=None), lr=1e-3)
    seen = losses(runs, module)
    assert seen[0] == pytest.approx(math.log(2), abs=1e-6)
    assert seen[-1] < seen[0]
    fresh = runs.backbone(lora=None).load().base.state_dict()
    assert module.backbone.frozen is not None
    for name, tensor in module.backbone.frozen.state_dict().items():
        assert torch.equal(tensor, fresh[name])


class Counted(DPOModule):
    """Counts forwards of the reference."""

    forwards = 0

    def reference_logprobs(self, batch: PreferenceBatch) -> torch.Tensor:
        logprobs, self.backbone.logprobs = self.backbone.logprobs, self._count  # type: ignore[method-assign]
        try:
            return super().reference_logprobs(batch)
        finally:
            self.backbone.logprobs = logprobs  # type: ignore[method-assign]

    def _count(self, tokens: Any, role: str) -> torch.Tensor:
        type(self).forwards += 1
        return Backbone.logprobs(self.backbone, tokens, role)


def test_cached_reference_changes_no_number_and_saves_every_later_forward(runs: Runs) -> None:
    def run(**kwargs: Any) -> tuple[list[float], int]:
        torch.manual_seed(0)
        Counted.forwards = 0
        module = Counted(runs.backbone(), lr=1e-2, ld_alpha=0.5, **kwargs)
        return losses(runs, module, max_epochs=2), Counted.forwards

    file = str(runs.folder / "reference.sqlite")
    plain, every = run()
    first, some = run(reference_cache=file)
    second, none = run(reference_cache=file)
    assert first == second == pytest.approx(plain, abs=1e-6)
    assert every > some > 0  # the first epoch fills it; batches of new companions still hit
    assert none == 0


def test_another_reference_does_not_meet_cached_rows(runs: Runs) -> None:
    file = str(runs.folder / "reference.sqlite")
    losses(runs, DPOModule(runs.backbone(), reference_cache=file), max_steps=2)
    torch.manual_seed(1)
    backbone = runs.backbone().load()
    with torch.no_grad():
        backbone.base.get_input_embeddings().weight.mul_(1.5)
    module = DPOModule(backbone, reference_cache=file)
    assert losses(runs, module, max_steps=1)[0] == pytest.approx(math.log(2), abs=1e-6)


def test_iterated_dpo_moves_its_reference(runs: Runs) -> None:
    """Also past a cache of the old reference's log-probs, in the same module and in a new one."""
    file = str(runs.folder / "reference.sqlite")
    module = DPOModule(runs.backbone(), lr=1e-2, reference_cache=file)
    assert losses(runs, module, max_epochs=4)[-1] < 0.6
    module.backbone.copy_role("policy", "reference")
    assert losses(runs, module, max_steps=1)[0] == pytest.approx(math.log(2), abs=1e-6)
    module.backbone.copy_role("policy", "reference")
    again = DPOModule(module.backbone, lr=1e-2, reference_cache=file)
    assert losses(runs, again, max_steps=1)[0] == pytest.approx(math.log(2), abs=1e-6)
