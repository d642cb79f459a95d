"""Online methods: the content of a rollout, and the updates made on it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import OnExceptionCheckpoint

from lightning_rlhf import (
    Backbone,
    Critic,
    GRPOModule,
    PPOModule,
    PreferenceData,
    PromptData,
    RewardModule,
    RLOOModule,
    Sampling,
    Shaping,
    UpdateSchedule,
)
from lightning_rlhf.data.collate import completion_batch, with_end_positions
from lightning_rlhf.modules.online import OnlineModule
from lightning_rlhf.modules.rollout import Rollout, as_rows
from methods import ONLINE, low_numbers
from runs import Runs
from support import number_pairs

SHORT = Sampling(max_new_tokens=6)


def fit(runs: Runs, module: OnlineModule, rollouts: int = 2, **kwargs: Any) -> Trainer:
    data = PromptData(number_pairs(32), val_fraction=0, batch_size=8)
    trainer = runs.trainer(max_steps=rollouts * module.updates_per_rollout, max_epochs=-1, **kwargs)
    trainer.fit(module, data)
    return trainer


class Metrics(Callback):
    """Logged metrics, one entry per update."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.rows.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def ppo(runs: Runs, **kwargs: Any) -> PPOModule:
    seed_everything(0, verbose=False)
    backbone = kwargs.pop("backbone", None) or runs.backbone()
    usual = {"reward": low_numbers, "sampling": SHORT, "lr": 5e-3}
    return PPOModule(backbone, **{**usual, **kwargs})


@pytest.mark.parametrize("critic", ["adapter", "head"])
def test_the_first_ratio_is_one_to_the_bit(runs: Runs, critic: Any) -> None:
    seen = Metrics()
    module = ppo(runs, critic=Critic(critic), updates=UpdateSchedule(epochs=2, minibatches=2))
    fit(runs, module, 3, callbacks=[seen])
    assert len(seen.rows) == 12
    for update in (0, 4, 8):
        assert seen.rows[update]["policy/first_ratio_error"] == 0.0
        assert seen.rows[update]["policy/ratio"] == 1.0
    assert seen.rows[2]["policy/ratio_var"] > 0  # the second pass has left the policy that sampled


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_in_bf16_the_first_ratio_is_near_one(runs: Runs, quantization: Any) -> None:
    seen = Metrics()
    backbone = runs.backbone(dtype="bfloat16", quantization=quantization)
    fit(runs, ppo(runs, backbone=backbone), 1, precision="bf16-mixed", callbacks=[seen])
    assert seen.rows[0]["policy/first_ratio_error"] <= 1e-2
    assert seen.rows[0]["policy/sampler_gap"] < 0.1


def test_a_critic_starts_as_the_reward(runs: Runs) -> None:
    backbone = runs.backbone()
    reward = RewardModule(backbone, lr=1e-2)
    runs.trainer(max_steps=4).fit(reward, PreferenceData(number_pairs(32), val_fraction=0))
    folder = backbone.save_role("reward", runs.folder / "reward")
    fresh = runs.backbone(adapters={"reward": str(folder)})
    module = ppo(runs, backbone=fresh, reward="reward")
    fresh.load()
    module.configure_model()
    for mine, its in zip(
        fresh.role_parameters("critic"), fresh.role_parameters("reward"), strict=True
    ):
        assert torch.equal(mine, its) and mine.requires_grad and not its.requires_grad
    before = [p.clone() for p in fresh.role_parameters("reward")]
    fit(runs, module, 1)
    moved = [p for role in ("policy", "critic") for p in fresh.role_parameters(role)]
    assert any(not torch.equal(a, b) for a, b in zip(before, moved[-len(before) :], strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(before, fresh.role_parameters("reward"), strict=True)
    )


def test_without_a_reward_role_it_says_what_to_do(runs: Runs) -> None:
    with pytest.raises(ValueError, match="no role 'reward' to score with: train one with Reward"):
        fit(runs, ppo(runs, reward="reward"))


def test_a_critic_on_the_policys_adapter_is_a_head_alone(runs: Runs) -> None:
    module = ppo(runs, critic=Critic("head"))
    fit(runs, module, 1)
    (weight,) = module.backbone.role_parameters("critic")
    assert weight.shape == (1, 32) and weight.abs().sum() > 0
    with pytest.raises(ValueError, match="saved by its checkpoint"):
        module.backbone.save_role("critic", runs.folder / "critic")


@pytest.mark.parametrize("critic", ["adapter", "head"])
def test_checkpointing_changes_no_update(runs: Runs, critic: Any) -> None:
    """With all roles in one loss, a layer is recomputed as the role it first ran as."""
    weights = []
    for checkpointing in (False, True):
        module = ppo(
            runs,
            critic=Critic(critic),
            backbone=runs.backbone(gradient_checkpointing=checkpointing),
        )
        fit(runs, module, 2)
        weights.append(runs.weights(module))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-6, rtol=0.0)


def rollout_of(module: OnlineModule) -> Rollout:
    rollout = module._progress.rollout
    assert rollout is not None
    return rollout


@pytest.mark.parametrize("samples", [1, 3])
def test_each_pass_sees_every_completion_once(runs: Runs, samples: int) -> None:
    module = ppo(
        runs,
        sampling=Sampling(6, num_samples=samples),
        updates=UpdateSchedule(epochs=3, minibatches=3),
    )
    fit(runs, module, 1)
    rollout = rollout_of(module)
    assert len(rollout.order) == 9 and rollout.samples == samples
    for epoch in range(3):
        prompts = [p for part in rollout.order[3 * epoch : 3 * epoch + 3] for p in part]
        assert sorted(prompts) == list(range(8))
    assert rollout.order[3:6] != rollout.order[6:9]
    everything = Counter(
        tuple(c) for part in rollout.order[:3] for p in part
        for c in rollout.completion_ids[p * samples : (p + 1) * samples]
    )  # fmt: skip
    assert everything == Counter(map(tuple, rollout.completion_ids))


@pytest.mark.parametrize("score_at", ["end", "after"])
def test_a_batch_of_a_rollout_is_its_rows(runs: Runs, score_at: Any) -> None:
    """Log-probs, values and advantages belong to their tokens, in any minibatch."""
    module = ppo(
        runs, critic=Critic(score_at=score_at, whiten=False), updates=UpdateSchedule(minibatches=2),
        sampling=Sampling(6, num_samples=8),
    )  # fmt: skip
    fit(runs, module, 1, limit_train_batches=1)
    rollout, backbone = rollout_of(module), module.backbone
    assert rollout.values is not None and rollout.value_lengths is not None
    if score_at == "after":
        room = [len(c) < 6 and bool(f) for c, f in
                zip(rollout.completion_ids, rollout.finished, strict=True)]  # fmt: skip
        extra = [v - n for v, n in zip(rollout.value_lengths, rollout.lengths, strict=True)]
        assert extra == [int(r) for r in room] and any(room)
    batch = rollout.batch(1)
    with torch.no_grad():
        reference = backbone.logprobs(batch.tokens, "reference")
    torch.testing.assert_close(batch.reference, reference, atol=1e-5, rtol=0)
    assert batch.critic is not None and batch.values is not None
    assert len(batch.critic.predictor_index) == len(batch.values)


def test_the_reference_never_moves_and_kl_is_measured_against_it(runs: Runs) -> None:
    seen = Metrics()
    module = ppo(runs, lr=2e-2, shaping=Shaping(kl_coef=0.01))
    fit(runs, module, 6, callbacks=[seen])
    assert seen.rows[0]["objective/kl"] == pytest.approx(0, abs=1e-6)
    assert seen.rows[-1]["objective/kl_k3"] > 0.01


@pytest.mark.parametrize("method", ONLINE)
def test_they_learn(runs: Runs, method: str) -> None:
    """Low numbers score, a third of all words at first; there are no penalties."""
    module, data = runs.make(method, batch_size=16, val_fraction=0.0, rows=64)
    assert isinstance(module, OnlineModule)
    module.shaping = Shaping(kl_coef=0.0, missing_eos_penalty=0.0)
    module.lr = 1e-2
    seen = Metrics()
    steps = 40 * module.updates_per_rollout
    runs.trainer(max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, callbacks=[seen]).fit(
        module, data
    )
    scores = [row["objective/scores"] for row in seen.rows]
    n = 4 * module.updates_per_rollout
    before, after = sum(scores[:n]) / n, sum(scores[-n:]) / n
    assert after > before + 0.2, (before, after)


def test_a_policy_that_has_moved_enough_is_left_alone(runs: Runs) -> None:
    seen = Metrics()
    module = ppo(runs, lr=5e-2, warmup=0.0, updates=UpdateSchedule(epochs=6, target_kl=1e-4))
    trainer = fit(runs, module, 2, callbacks=[seen])
    assert seen.rows[0]["policy/stopped"] == 0
    assert any(row["policy/stopped"] for row in seen.rows)
    assert trainer.global_step == 12  # the Trainer counts skipped updates too


def test_a_critic_warms_up_alone(runs: Runs) -> None:
    module = ppo(runs, critic=Critic(warmup_updates=4), updates=UpdateSchedule(epochs=2))

    class RecordWeights(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            moved = [p.abs().sum().item() for p in pl_module.backbone.role_parameters("policy")]
            steps.append(moved)

    steps: list[list[float]] = []
    fit(runs, module, 3, callbacks=[RecordWeights()])
    assert steps[0] == steps[3] != steps[4]


def test_an_adaptive_coefficient_follows_the_kl(runs: Runs) -> None:
    shaping = Shaping(kl_coef=0.1, kl_target=50.0, kl_horizon=16)
    module = ppo(runs, shaping=shaping)
    fit(runs, module, 2)
    assert module.kl_coef == pytest.approx(0.1 * 0.9**2)  # 8 of 16, a full error down, twice


def test_scores_are_shaped(runs: Runs) -> None:
    module = ppo(
        runs, shaping=Shaping(center=True, normalize=True, clip=1.0, missing_eos_penalty=2.0)
    )
    scores = torch.tensor([0.0, 2.0, 4.0, 10.0])
    shaped = module._shaper.shape(scores, torch.tensor([True, True, True, False]))
    std = scores.std()
    wanted = ((scores - 4) / (std + 1e-6)).clamp(-1, 1) - torch.tensor([0, 0, 0, 2.0])
    torch.testing.assert_close(shaped, wanted)
    again = module._shaper.shape(torch.tensor([4.0]), torch.tensor([True]))
    assert again == pytest.approx(0)  # still centered by the first rollout


def test_validation_draws_nothing_from_the_training(runs: Runs) -> None:
    found = []
    for every in (1.0, 2):
        module, data = runs.make("ppo")
        runs.trainer(max_steps=6, val_check_interval=every).fit(module, data)
        found.append(runs.weights(module))
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])


def test_validation_measures_the_policy(runs: Runs) -> None:
    module, data = runs.make("ppo")
    trainer = runs.trainer(max_steps=3)
    trainer.fit(module, data)
    (found,) = trainer.validate(module, data, verbose=False)
    assert set(found) == {f"val/{n}" for n in ("loss", "scores", "kl", "eos_share", "mean_length")}
    assert found["val/loss"] == pytest.approx(
        module.kl_coef * found["val/kl"] - found["val/scores"], abs=1e-5
    )


def test_wrong_batches_and_settings_are_one_sentence(runs: Runs) -> None:
    with pytest.raises(ValueError, match="samples its own completions: give it PromptData"):
        runs.trainer(max_steps=1).fit(ppo(runs), PreferenceData(number_pairs(8), val_fraction=0))
    many = ppo(runs, updates=UpdateSchedule(minibatches=9))
    with pytest.raises(ValueError, match="8 prompts cannot be cut into 9 minibatches: raise"):
        fit(runs, many)
    with pytest.raises(ValueError, match="give a temperature above 0"):
        ppo(runs, sampling=Sampling(temperature=0.0))
    for kind in (GRPOModule, RLOOModule):
        with pytest.raises(ValueError, match=r"give Sampling\(num_samples=2\)"):
            kind(Backbone("x"), low_numbers, sampling=SHORT)


def test_the_table_of_a_rollout(runs: Runs) -> None:
    module = ppo(runs)
    fit(runs, module, 1)
    table = module.rollout_table()
    assert table.columns == ["prompt", "completion", "score", "kl", "length", "finished"]
    assert len(table.rows) == 8
    json.dumps(table.rows)


def test_packing_and_end_positions() -> None:
    tokens = completion_batch([[5, 6], [7]], [[1, 2], [3], [4, 5, 6], [8]], [1, 0])
    assert tokens.input_ids.tolist() == [[7, 4, 5, 6, 8, 5, 6, 1, 2, 3]]
    assert tokens.target_ids.tolist() == [4, 5, 6, 8, 1, 2, 3]
    read = with_end_positions(tokens, [True, False, False, True])
    assert read.completion_index.tolist() == [0, 0, 0, 0, 1, 2, 2, 3, 3]
    assert (
        read.predictor_index[3] == tokens.last_index[0]
        and read.predictor_index[-1] == tokens.last_index[3]
    )
    assert with_end_positions(tokens, [False] * 4) is tokens
    rows = as_rows(torch.tensor([1.0, 2.0, 3.0]), [1, 2], 3)
    assert rows.tolist() == [[1, 0, 0], [2, 3, 0]]


@pytest.mark.parametrize("at", [4, 6])
def test_an_interrupted_step_is_repeated(runs: Runs, at: int) -> None:
    """At the first update or a later one, the checkpoint of an exception resumes exactly."""

    class Break(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == at:
                raise InterruptedError

    updates = UpdateSchedule(epochs=2, minibatches=2)
    whole = ppo(runs, updates=updates)
    fit(runs, whole, 3)
    saved = runs.folder / "broken"
    with pytest.raises(InterruptedError):
        fit(
            runs, ppo(runs, updates=updates), 3,
            callbacks=[Break(), OnExceptionCheckpoint(saved)], enable_checkpointing=True,
        )  # fmt: skip
    resumed = ppo(runs, updates=updates)
    data = PromptData(number_pairs(32), val_fraction=0, batch_size=8)
    trainer = runs.trainer(max_steps=3 * 4, max_epochs=-1)
    trainer.fit(resumed, data, ckpt_path=str(next(saved.glob("*.ckpt"))))
    assert resumed.rollouts_made == 3
    for name, weight in runs.weights(whole).items():
        assert torch.equal(weight, runs.weights(resumed)[name]), name


def test_a_new_fit_does_not_train_on_the_rollout_of_an_earlier_one(light: Runs) -> None:
    """A fit may stop between the updates of a rollout; the next may have other prompts."""
    module, data = light.make("ppo", rows=16)
    assert module.updates_per_rollout > 1
    light.trainer(max_steps=1, max_epochs=-1).fit(module, data)
    made = module.rollouts_made
    collected = []
    collect = module.collect_rollout
    module.collect_rollout = lambda batch: (collected.append(batch), collect(batch))
    light.trainer(max_steps=1, max_epochs=-1).fit(module, data)
    assert len(collected) == 1
    assert module.rollouts_made == made + 1
