"""Metrics and the table of a rollout of three completions, computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_rlhf.models.sampler import Sample
from lightning_rlhf.modules.rollout import RoleOutputs, Rollout, SampledBatch
from lightning_rlhf.modules.rollout_metrics import (
    held_out_metrics,
    rollout_metrics,
    rollout_table,
    sampler_gap,
)

SAMPLES = [
    Sample([1, 2], True, [-1.0, -2.0]),
    Sample([1, 2, 1], False, [-1.0, -1.0, -1.0]),
    Sample([3], True, [-0.5]),
]
OUTPUTS = RoleOutputs(
    logprobs=torch.tensor([-1.0, -2.0, -1.0, -1.0, -1.0, -0.5]),
    reference=torch.tensor([-1.5, -2.0, -1.0, -1.25, -1.0, -0.5]),
)
SCORES = torch.tensor([1.0, 2.0, 6.0])
BY_NAME = {"length": torch.tensor([2.0, 3.0, 1.0]), "judge": torch.tensor([0.0, 0.5, 1.0])}


def rollout(**kwargs) -> Rollout:
    return Rollout.assemble(
        SampledBatch([[7], [8, 9], [9]], [{}] * 3, SAMPLES),
        **{"order": [[0, 1, 2]], "outputs": OUTPUTS, "scores": [SCORES], "weights": [1.0],
           "score_after_eos": [False] * 3, "old_logprobs": "trainer", **kwargs},
    )  # fmt: skip


def test_a_rollout_is_assembled_as_rows() -> None:
    assembled = rollout()
    assert assembled.logprobs.tolist() == [[-1, -2, 0], [-1, -1, -1], [-0.5, 0, 0]]
    assert assembled.reference.tolist() == [[-1.5, -2, 0], [-1, -1.25, -1], [-0.5, 0, 0]]
    assert assembled.finished.tolist() == [True, False, True]
    assert not assembled.advantages.any() and assembled.advantages.shape == (3, 3)
    assert assembled.values is None and assembled.value_lengths is None
    assert torch.equal(assembled.scores, SCORES)
    assert rollout(scores=[SCORES, -SCORES], weights=[2.0, 0.5]).scores.tolist() == [1.5, 3, 9]
    assert assembled.group.tolist() == [0, 1, 2]
    assert assembled._replace(prompt_ids=[[7]]).group.tolist() == [0, 0, 0]


def test_values_have_a_position_more_where_the_score_is_after_the_end() -> None:
    values = torch.arange(7.0)
    assembled = rollout(
        outputs=OUTPUTS._replace(values=values), score_after_eos=[False, False, True]
    )
    assert assembled.value_lengths == [2, 3, 2]
    assert assembled.values is not None
    assert assembled.values.tolist() == [[0, 1, 0, 0], [2, 3, 4, 0], [5, 6, 0, 0]]


def test_old_logprobs_may_be_the_samplers() -> None:
    outputs = OUTPUTS._replace(logprobs=OUTPUTS.logprobs - 0.25)
    assert rollout(outputs=outputs).logprobs[0].tolist() == [-1.25, -2.25, 0]
    assert rollout(outputs=outputs, old_logprobs="sampler").logprobs[0].tolist() == [-1, -2, 0]
    assert sampler_gap(SAMPLES, outputs) == pytest.approx(0.25)
    assert sampler_gap(SAMPLES, OUTPUTS) == 0.0


def test_minibatches_are_joined() -> None:
    one = RoleOutputs(torch.ones(2), torch.zeros(2))
    assert RoleOutputs.concatenate([one, one]).logprobs.tolist() == [1] * 4
    assert RoleOutputs.concatenate([one, one]).values is None
    valued = one._replace(values=torch.ones(3))
    joined = RoleOutputs.concatenate([valued, valued])
    assert joined.values is not None and joined.values.tolist() == [1] * 6


def test_metrics_by_hand() -> None:
    metrics = rollout_metrics(rollout(), {"length": SCORES}, 0.5, "k1")
    k3 = math.expm1(-0.5) + 0.5 + math.expm1(-0.25) - (-0.25)  # expm1(q - p) - (q - p)
    expected = {
        "objective/kl": (0.5 + 0.25 + 0) / 3,
        "objective/kl_k3": k3 / 3,
        "objective/entropy": (3 + 3 + 0.5) / 3,
        "objective/scores": 3.0,
        "objective/score_std": math.sqrt((4 + 1 + 9) / 3),
        "objective/non_score_reward": -0.5 * 0.25,
        "objective/rlhf_reward": 3.0 - 0.5 * 0.25,
        "objective/kl_coef": 0.5,
        "completions/mean_length": 2.0,
        "completions/eos_share": 2 / 3,
        "completions/distinct_2": 2 / 3,  # 12, 12, 21
    }
    assert metrics == pytest.approx(expected)
    penalty = rollout_metrics(rollout(), {}, 0.5, "k3")["objective/non_score_reward"]
    assert penalty == pytest.approx(-0.5 * k3 / 3)


def test_several_rewards_are_named() -> None:
    metrics = rollout_metrics(rollout(), BY_NAME, 0.5, "k1")
    assert metrics["objective/scores/length"] == 2.0
    assert metrics["objective/scores/judge"] == 0.5


def test_the_table_lists_every_completion() -> None:
    def decode(ids: list[int]) -> str:
        return " ".join(map(str, ids))

    columns = ["prompt", "completion", "score", "kl", "length", "finished"]
    table = rollout_table(rollout(), {"length": SCORES}, decode)
    assert table.columns == columns
    assert table.rows == [
        ["7", "1 2", 1.0, 0.5, 2, True],
        ["8 9", "1 2 1", 2.0, 0.25, 3, False],
        ["9", "3", 6.0, 0.0, 1, True],
    ]
    several = rollout_table(rollout(), BY_NAME, decode)
    assert several.columns == [*columns, "length", "judge"]
    assert [row[-2:] for row in several.rows] == [[2.0, 0.0], [3.0, 0.5], [1.0, 1.0]]
    shared = rollout()._replace(prompt_ids=[[7]])  # three completions of one prompt
    assert [row[0] for row in rollout_table(shared, {}, decode).rows] == ["7"] * 3


def test_held_out_metrics_by_hand() -> None:
    metrics = held_out_metrics(SAMPLES, OUTPUTS, torch.tensor(3.0), 0.5)
    expected = {"loss": 0.125 - 3, "scores": 3, "kl": 0.25, "eos_share": 2 / 3, "mean_length": 2}
    assert metrics == pytest.approx(expected)


def test_rewards_see_texts_and_rows_once_per_completion() -> None:
    def decode(ids: list[int]) -> str:
        return " ".join(map(str, ids))

    rows: list[dict[str, Any]] = [{"answer": 1}, {"answer": 2}]
    samples = [Sample([n], True, [0.0]) for n in range(4)]
    inputs = SampledBatch([[7], [8, 9]], rows, samples).reward_inputs([], decode)
    assert inputs.prompts == ["7", "7", "8 9", "8 9"]
    assert inputs.completions == ["0", "1", "2", "3"]
    assert inputs.texts == ["7 0", "7 1", "8 9 2", "8 9 3"]
    assert [row["answer"] for row in inputs.rows] == [1, 1, 2, 2]
