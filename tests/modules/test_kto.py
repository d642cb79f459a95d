"""KTO in a Trainer: from unpaired labels, and from pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_lightning import seed_everything

from lightning_rlhf import KTOModule, LoRA, PreferenceData
from lightning_rlhf.data.formats import read_feedback
from lightning_rlhf.functional.kto import apo_zero_unpaired_loss, kto_loss
from lightning_rlhf.text.messages import BadRow
from runs import Runs
from support import number_pairs


def labeled(n: int) -> list[dict[str, Any]]:
    """One side of each pair, and whether it is the good one."""
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for i, row in enumerate(number_pairs(n))
        for side in [("chosen", "rejected")[i % 2]]
    ]


@pytest.mark.parametrize("loss", [kto_loss, apo_zero_unpaired_loss])
def test_labels_alone_teach_unseen_prompts(runs: Runs, loss: Any) -> None:
    seed_everything(0, verbose=False)
    trainer = runs.trainer(max_epochs=6, gradient_clip_val=1.0)
    module = KTOModule(runs.backbone(lora=LoRA(r=8)), loss=loss, lr=1e-2)
    trainer.fit(module, PreferenceData(labeled(600), val_fraction=0.2, batch_size=16))
    found = {k: float(v) for k, v in trainer.callback_metrics.items()}
    assert found["val/rewards/margins"] > 0.5
    assert found["val/rewards/chosen"] > 0 > found["val/rewards/rejected"]


def test_a_pair_is_a_good_and_a_bad_completion(runs: Runs) -> None:
    """The same texts as pairs and one by one have the same loss without a baseline."""
    pairs = number_pairs(4)
    apart = [
        {"prompt": row["prompt"], "completion": row[side], "label": float(side == "chosen")}
        for row in pairs
        for side in ("chosen", "rejected")
    ]
    module = KTOModule(runs.backbone(), loss=apo_zero_unpaired_loss)
    module.configure_model()
    found = []
    for rows in (pairs, apart):
        data = PreferenceData(
            rows, val_fraction=0, batch_size=8, tokenizer=module.backbone.tokenizer
        )
        data.setup()
        (batch,) = data.train_dataloader()
        with torch.no_grad():
            found.append(float(module.objective(batch).value))
    assert found[0] == pytest.approx(found[1], abs=1e-6) == pytest.approx(0.5, abs=1e-6)


def test_the_baseline_is_what_other_prompts_answers_gained(runs: Runs) -> None:
    """By hand: every completion behind the prompt before it, one forward each."""
    module = KTOModule(runs.backbone())
    module.configure_model()
    backbone = module.backbone
    for parameter in backbone.role_parameters("policy"):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    data = PreferenceData(labeled(5), val_fraction=0, batch_size=5, tokenizer=backbone.tokenizer)
    data.setup()
    (batch,) = data.train_dataloader()
    groups = batch.tokens.input_ids[0].split([n for g in batch.tokens.groups for n in g])
    gained = []
    for i in range(5):
        prompt, completion = groups[2 * (i - 1)], groups[2 * i + 1]
        ids = torch.cat([prompt, completion])[None]
        with torch.no_grad():
            said = []
            for role in ("policy", "reference"):
                with backbone.role(role):
                    logits = backbone.base(input_ids=ids, use_cache=False).logits[0, :-1]
                lp = logits.log_softmax(-1).gather(1, ids[0, 1:, None])
                said.append(lp[-len(completion) :].sum())
        gained.append(float(said[0] - said[1]))
    expected = max(0.0, sum(gained) / 5)
    assert float(module._baseline(batch.tokens)) == pytest.approx(expected, abs=1e-4)


def test_one_prompt_to_a_step_is_refused_at_once(runs: Runs) -> None:
    data = PreferenceData(labeled(8), val_fraction=0, batch_size=1)
    with pytest.raises(ValueError, match="batch_size=2 or more"):
        runs.trainer().fit(KTOModule(runs.backbone()), data)
    runs.trainer(max_steps=1).fit(KTOModule(runs.backbone(), loss=apo_zero_unpaired_loss), data)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"label": 2}, "not a probability"),
        ({"label": "maybe"}, "neither a thumb up nor down"),
        ({"label": None}, "not a finite number"),
        ({"completion": " "}, "empty answer"),
    ],
)
def test_bad_feedback_says_why(row: dict, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        read_feedback({"prompt": "a", "completion": "b", "label": True, **row})


def test_singles_and_pairs_in_one_file_are_refused(runs: Runs) -> None:
    empty = dict.fromkeys(("chosen", "rejected", "completion", "label"))
    rows = [{**empty, **row} for row in [*number_pairs(2), *labeled(2)]]
    with pytest.raises(ValueError, match="has a pair, and a completion with a label"):
        runs.trainer().fit(KTOModule(runs.backbone()), PreferenceData(rows, val_fraction=0))
