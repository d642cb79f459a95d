"""KL estimated over packed rows equals the KL of padded rows."""

from __future__ import annotations

import pytest
import torch

from lightning_rlhf.evaluation.roles import sampled_kl
from lightning_rlhf.functional.masking import segment_sum
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.sampler import Sample
from runs import Runs
from support import pad_rows

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
