"""A pair's loss and gradient do not depend on its padding, its neighbours or how a batch is cut."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_rlhf import DPOModule, PreferenceData, RewardModule
from lightning_rlhf.batches import PreferenceBatch, TokenBatch
from lightning_rlhf.data.collate import preference_batch
from lightning_rlhf.functional import dpo
from lightning_rlhf.models.layout import unpacked
from lightning_rlhf.modules.base import AlignmentModule
from runs import Runs
from support import number_pairs

MODULES: dict[str, Any] = {
    "reward": RewardModule,
    "dpo": DPOModule,
    "ipo": partial(DPOModule, loss=dpo.ipo_loss),
    "orpo": partial(DPOModule, loss=dpo.orpo_loss),
    "ld": partial(DPOModule, ld_alpha=0.5),
    "wpo": partial(DPOModule, wpo=True),
}


def built(runs: Runs, name: str) -> tuple[AlignmentModule, list[Any], int]:
    torch.manual_seed(0)
    module = MODULES[name](runs.backbone())
    module.configure_model()
    for parameter in module.backbone.role_parameters(module.trained[0]):
        torch.nn.init.normal_(parameter, std=0.05)  # away from the reference
    data = PreferenceData(number_pairs(8), val_fraction=0, tokenizer=module.backbone.tokenizer)
    data.setup()
    return module, data.sample_rows(8), data.tokenizer.pad_token_id


def gradient(module: AlignmentModule, batches: list[PreferenceBatch]) -> tuple[float, Tensor]:
    """Loss and gradient of a batch cut into equal parts, accumulated as a Trainer would."""
    parameters = module.backbone.role_parameters(module.trained[0])
    for parameter in parameters:
        parameter.grad = None
    total = 0.0
    for batch in batches:
        loss = module.objective(batch).value / len(batches)
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def padded(batch: PreferenceBatch, pad: int) -> PreferenceBatch:
    return batch._replace(tokens=unpacked(batch.tokens, pad))


def left_padded(batch: PreferenceBatch, extra: int, pad: int) -> PreferenceBatch:
    """The same rows with their padding on the left, and more of it."""
    old = batch.tokens
    rows, length = old.input_ids.shape
    new_length = length + extra
    lengths = old.attention_mask.sum(1)
    shift = new_length - lengths
    ids = torch.full((rows, new_length), pad)
    mask = torch.zeros(rows, new_length, dtype=torch.bool)
    positions = torch.ones(rows, new_length, dtype=torch.long)
    for r in range(rows):
        ids[r, shift[r] :] = old.input_ids[r, : lengths[r]]
        mask[r, shift[r] :] = True
        positions[r, shift[r] :] = torch.arange(int(lengths[r]))

    def moved(flat: Tensor) -> Tensor:
        row, place = flat // length, flat % length
        return row * new_length + place + shift[row]

    tokens = TokenBatch(
        ids,
        mask,
        positions,
        moved(old.predictor_index),
        old.target_ids,
        old.completion_index,
        moved(old.last_index),
    )
    return batch._replace(tokens=tokens)


@pytest.mark.parametrize("name", MODULES)
def test_padding_composition_and_accumulation_change_nothing(runs: Runs, name: str) -> None:
    module, rows, pad = built(runs, name)
    loss, grad = gradient(module, [preference_batch(rows)])
    scale = grad.abs().max()
    variants = {
        "one by one": [preference_batch([row]) for row in rows],
        "in pairs": [preference_batch(rows[i : i + 2]) for i in range(0, 8, 2)],
        "reversed": [preference_batch(rows[::-1])],
        "padded on the right": [padded(preference_batch(rows), pad)],
        "padded on the left": [left_padded(padded(preference_batch(rows), pad), 0, pad)],
        "padded more, with another token": [
            left_padded(padded(preference_batch(rows), pad), 7, pad + 9)
        ],
    }
    for variant, batches in variants.items():
        other_loss, other_grad = gradient(module, batches)
        assert other_loss == pytest.approx(loss, abs=1e-5), variant
        assert (other_grad - grad).abs().max() <= 1e-5 * max(1.0, scale), variant


def test_accumulating_in_a_trainer_is_a_larger_batch(runs: Runs) -> None:
    """One step of plain SGD on 1 x 8 and on 8 x 1 rows ends in the same weights."""
    found = []
    for size, accumulate in ((8, 1), (1, 8)):
        torch.manual_seed(0)
        module = DPOModule(runs.backbone(), lr=1.0, warmup=0.0, optimizer=torch.optim.SGD)
        data = PreferenceData(number_pairs(8), val_fraction=0, batch_size=size)
        runs.trainer(max_steps=1, accumulate_grad_batches=accumulate).fit(module, data)
        found.append(torch.cat([p.flatten() for p in module.backbone.role_parameters("policy")]))
    assert (found[0] - found[1]).abs().max() < 1e-5
    torch.manual_seed(0)
    untouched = DPOModule(runs.backbone())
    untouched.configure_model()
    before = torch.cat([p.flatten() for p in untouched.backbone.role_parameters("policy")])
    assert (found[0] - before).abs().max() > 1e-3  # the step did something
