"""Figures about a role: its KL from its own samples, and the share of pairs it orders rightly."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_rlhf import Backbone, PreferenceData
from lightning_rlhf.evaluation.roles import reward_accuracy, sampled_kl
from lightning_rlhf.models.sampler import Sample
from runs import Runs
from support import number_pairs

PROMPTS = [[3, 4, 5], [6], [7, 8]]
SAMPLES = [Sample(ids, True, [0.0] * len(ids)) for ids in ([9, 2], [10, 11, 12, 2], [13, 2])]


def two_roles(runs: Runs) -> Backbone:
    backbone = runs.backbone().load()
    backbone.add_role("policy")
    backbone.add_role("reference", trainable=False)
    with torch.no_grad():
        for p in backbone.role_parameters("policy"):
            p.normal_(generator=torch.Generator().manual_seed(p.numel())).mul_(0.3)
    return backbone


def test_sampled_kl_is_the_mean_log_ratio_of_whole_answers(runs: Runs) -> None:
    backbone = two_roles(runs)
    ratios = []
    for prompt, sample in zip(PROMPTS, SAMPLES, strict=True):
        ids = torch.tensor([prompt + sample.ids])
        logprobs = {}
        for role in ("policy", "reference"):
            with backbone.role(role), torch.no_grad():
                rows = backbone.base(ids).logits[0, :-1].log_softmax(-1)
            logprobs[role] = rows.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum()
        ratios.append(logprobs["policy"] - logprobs["reference"])
    expected = float(torch.stack(ratios).mean())
    assert abs(expected) > 0.01
    for batch_size in (1, 2, 64):
        found = sampled_kl(backbone, "policy", "reference", PROMPTS, SAMPLES, batch_size)
        assert found == pytest.approx(expected, abs=1e-4)
    assert sampled_kl(backbone, "policy", "policy", PROMPTS, SAMPLES) == 0


def test_accuracy_counts_a_tie_as_wrong(runs: Runs) -> None:
    data = PreferenceData(
        number_pairs(6), val_fraction=0, batch_size=4, tokenizer=runs.backbone().load().tokenizer
    )
    data.setup()
    batches = list(data.train_dataloader())
    scores = iter([[1.0, 0.0, 0.0, 0.0, 2.0, 1.0, 0.0, 5.0], [3.0, 3.0, 2.0, 1.0]])

    def score(tokens: Any, role: str) -> torch.Tensor:
        assert role == "reward"
        return torch.tensor(next(scores))

    backbone: Any = SimpleNamespace(base=SimpleNamespace(device=torch.device("cpu")), scores=score)
    rights = [batch.chosen.tolist() for batch in batches]
    assert rights == [[0, 2, 4, 6], [0, 2]]
    # right, tie, right, wrong; tie, right
    assert reward_accuracy(backbone, "reward", batches) == pytest.approx(3 / 6)
