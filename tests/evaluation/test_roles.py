"""Figures about a role: its KL from its own samples, and the share of pairs it orders rightly."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_rlhf import PreferenceData
from lightning_rlhf.evaluation.roles import reward_accuracy, sampled_kl
from lightning_rlhf.functional.masking import segment_sum
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.sampler import Sample
from runs import Runs
from support import number_pairs, pad_rows

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12], [5, 6, 7]]
COMPLETIONS = [[13, 14], [15, 16, 17, 18], [19], [20, 21, 22]]


@pytest.fixture
def backbone(runs: Runs) -> Backbone:
    backbone = runs.backbone().load()
    backbone.add_role("policy")
    backbone.add_role("reference", trainable=False)
    for parameter in backbone.role_parameters("policy"):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    return backbone


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_packed_rows_give_the_kl_of_padded_ones(backbone: Backbone, batch_size: int) -> None:
    rows = [
        (prompt + ids, [False] * len(prompt) + [True] * len(ids))
        for prompt, ids in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    tokens = pad_rows(rows, 0)
    with torch.no_grad():
        ratio = backbone.logprobs(tokens, "policy") - backbone.logprobs(tokens, "reference")
    padded = segment_sum(ratio, tokens.completion_index, len(rows)).mean()
    samples = [Sample(ids, False, [0.0] * len(ids)) for ids in COMPLETIONS]
    packed = sampled_kl(backbone, "policy", "reference", PROMPTS, samples, batch_size)
    assert abs(packed) > 1e-2
    assert packed == pytest.approx(float(padded), abs=1e-5)


def test_a_prompt_has_one_completion(backbone: Backbone) -> None:
    samples = [Sample([5], False, [0.0])] * 8
    with pytest.raises(ValueError, match="4 prompts have 8 completions"):
        sampled_kl(backbone, "policy", "reference", PROMPTS, samples)


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
