"""Our losses and advantages agree to 1e-5 with what TRL's own code returned, gradients included.

The recordings are in ``tests/golden``; ``make golden`` makes them anew. Where a folder ``shared``
lies beside the checkout, the recordings of others in it are read too.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_rlhf.functional import advantages as advantage
from lightning_rlhf.functional import divergences, dpo, grpo, kto, ppo, reward, rloo
from lightning_rlhf.functional.divergences import AlphaDivergence
from lightning_rlhf.functional.pairs import (
    PairLogprobs,
    completion_sums,
    preference_loss,
    wpo_weight,
)
from support import shared

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ["dpo", "grpo", "kto", "ppo", "reward"]
SMOOTHED = {"label_smoothing": 0.1}


def orpo_odds_loss(pairs: PairLogprobs, beta: float) -> Tensor:
    """ORPO without its negative log-likelihood."""
    return dpo.orpo_loss(pairs, beta) + pairs.chosen / pairs.chosen_length


REFERENCE_FREE: dict[str, dict[str, Any]] = {
    "simpo": {"terms": [(1, dpo.simpo_loss)]},
    "orpo": {"terms": [(1, orpo_odds_loss)]},
}
DPO: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "hinge": {"terms": [(1, dpo.hinge_loss)]},
    "ipo": {"terms": [(1, dpo.ipo_loss)]},
    "exo_pair": {"terms": [(1, dpo.exo_pair_loss)]},
    "nca_pair": {"terms": [(1, dpo.nca_pair_loss)]},
    "robust": {"terms": [(1, dpo.robust_loss)]},
    "bco_pair": {"terms": [(1, dpo.bco_pair_loss)]},
    "sppo_hard": {"terms": [(1, dpo.sppo_hard_loss)]},
    "aot": {"terms": [(1, partial(dpo.aot_loss, **SMOOTHED))]},
    "aot_unpaired": {"terms": [(1, partial(dpo.aot_unpaired_loss, **SMOOTHED))]},
    "apo_zero": {"terms": [(1, dpo.apo_zero_loss)]},
    "apo_down": {"terms": [(1, dpo.apo_down_loss)]},
    "discopop": {"terms": [(1, dpo.discopop_loss)]},
    "sft": {"terms": [(1, dpo.chosen_nll_loss)]},
    "sigmoid_norm": {"terms": [(1, dpo.sigmoid_norm_loss)]},
    "sigmoid+forward_kl": {"divergence": divergences.forward_kl},
    "sigmoid+js_divergence": {"divergence": divergences.jensen_shannon},
    "sigmoid+alpha_divergence": {"divergence": AlphaDivergence(0.5)},
    "sigmoid+ld_alpha=0.5": {"ld_alpha": 0.5},
    "sigmoid+wpo": {"wpo": True},
    "mpo: 0.8 sigmoid + 0.2 bco_pair + 1.0 sft": {
        "terms": [(0.8, dpo.dpo_loss), (0.2, dpo.bco_pair_loss), (1.0, dpo.chosen_nll_loss)]
    },
}
# which batch of tests/golden/dpo.json, or None for shared/golden/dpo.json
DPO_CASES = [
    *((batch, name) for batch in (0, 1) for name in DPO | REFERENCE_FREE),
    *((None, name) for name in DPO),
]


def recorded(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def agree(found: Any, expected: Any) -> None:
    """Assert equality to 1e-5 of numbers and tensors."""
    torch.testing.assert_close(
        torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-5, atol=1e-5, check_dtype=False
    )


def as_leaf(rows: Any, mask: Tensor) -> Tensor:
    """Return the entries of padded rows under a mask, flat, to take gradients of."""
    return torch.tensor(rows)[mask].requires_grad_()


def as_rows(flat: Tensor | None, mask: Tensor) -> Tensor:
    """Undo ``as_leaf`` for a gradient: zeros off the mask."""
    assert flat is not None
    return torch.zeros(mask.shape).masked_scatter(mask, flat)


def sequence_of(mask: Tensor) -> Tensor:
    """Number the row of each entry under the mask."""
    return torch.arange(len(mask))[:, None].expand_as(mask)[mask]


@pytest.mark.parametrize("name", NAMES)
def test_recordings_are_of_the_pinned_peer(name: str) -> None:
    header = recorded(name)["recorded"]
    assert header["peer"] == "TRL" and isinstance(header["seed"], int)
    assert header["command"].endswith(f"bin/python benchmarks/versus/record_golden.py {name}")
    environment = header["command"].partition("/")[0]
    lines = (GOLDEN.parents[1] / "Makefile").read_text().splitlines()
    installs = " ".join(line for line in lines if f"{environment}/bin/python -m pip" in line)
    pins = dict(re.findall(r"(\w+)==([\w.]+)", installs))
    assert pins.keys() >= {"trl", "transformers", "peft", "accelerate", "torch"}
    assert header["versions"] == pins


@pytest.mark.parametrize(("batch", "name"), DPO_CASES)
def test_pair_losses(batch: int | None, name: str) -> None:
    if batch is None:
        data = json.loads(shared("golden/dpo.json").read_text())
    else:
        data = recorded("dpo")["batches"][batch]
    expected, how = data["expected"][name], (DPO | REFERENCE_FREE)[name]
    mask = torch.tensor(data["completion_mask"]).bool()[:, 1:]
    sequence, rows = sequence_of(mask), len(mask)
    chosen, rejected = torch.arange(rows).chunk(2)
    length = mask.sum(1)
    policy = as_leaf(data["policy_logprobs"], mask)
    reference = torch.tensor(data["reference_logprobs"])[mask]

    alpha, short = how.get("ld_alpha"), None
    if alpha is not None:
        short = torch.minimum(length[chosen], length[rejected]).repeat(2)
    s, ref = (
        completion_sums(logprobs, sequence, rows, short, 1.0 if alpha is None else alpha)
        for logprobs in (policy, reference)
    )
    pairs = PairLogprobs(
        chosen=s[chosen],
        rejected=s[rejected],
        ref_chosen=ref[chosen],
        ref_rejected=ref[rejected],
        chosen_length=length[chosen],
        rejected_length=length[rejected],
        divergence=how.get("divergence", divergences.reverse_kl),
    )
    weight = None
    if how.get("wpo"):
        log_sum_sq = torch.tensor(data["log_sum_sq_probs"])[mask]
        weight = wpo_weight(policy, log_sum_sq, sequence, chosen, rejected)
    terms = how.get("terms", [(1, dpo.dpo_loss)])
    loss = preference_loss(pairs, data["beta"], terms, weight=weight)
    agree(loss.value, expected["loss"])
    for metric, value in expected["metrics"].items():
        agree(loss.metrics[metric], value)
    if "gradient" in expected:
        loss.value.backward()
        agree(as_rows(policy.grad, mask), expected["gradient"])


@pytest.mark.parametrize("run", [0, 1, None], ids=["k1 whitened", "k3", "shared"])
def test_every_tensor_of_a_ppo_rollout(run: int | None) -> None:
    """Of eight rows: KL, rewards, advantages, returns, and both losses of each update."""
    if run is None:
        data = json.loads(shared("golden/ppo.json").read_text())
    else:
        data = recorded("ppo")["runs"][run]
    config, steps, metrics = data["config"], data.pop("steps"), data.pop("metrics", None)
    of = {name: torch.tensor(value) for name, value in data.items() if name != "config"}
    end = of["sequence_lengths"] + 1
    mask, value_mask = ~of["padding_mask"], ~of["padding_mask_p1"]

    estimator = config.get("kl_estimator", "k1")
    kl = ppo.token_kl(of["logprobs"], of["ref_logprobs"], estimator).masked_fill(~mask, 0.0)
    agree(kl, of["kl"])
    agree(-config["kl_coef"] * kl, of["non_score_reward"])
    # the score stands one behind the end token, where there is room
    after = torch.where(end < kl.shape[1], end, end - 1)
    rewards = ppo.token_rewards(kl, of["scores"], after, config["kl_coef"])
    agree(rewards, of["rewards_prewhiten"])
    if config["whiten_rewards"]:
        rewards = advantage.masked_rescale(rewards, value_mask)
    agree(rewards, of["rewards"])
    advantages = advantage.gae(rewards, of["values"], config["gamma"], config["lam"])
    agree(advantages, of["advantages_raw"])
    returns = advantages + of["values"]
    agree(returns, of["returns"])
    advantages = advantage.masked_normalize(advantages, mask)
    agree(advantages[mask], of["advantages_whitened"][mask])

    clipped = []
    for step in steps:
        rows = torch.tensor(step["inds"])
        trained, read = mask[rows], value_mask[rows]
        new, values = as_leaf(step["new_logprobs"], trained), as_leaf(step["vpred"], read)
        policy = ppo.policy_loss(
            new, of["logprobs"][rows][trained], advantages[rows][trained], config["cliprange"]
        )
        value = ppo.value_loss(
            values, of["values"][rows][read], returns[rows][read], config["cliprange_value"]
        )
        agree(policy.value, step["pg_loss"])
        agree(value.value, step["vf_loss"])
        clipped.append([policy.metrics["policy/clipfrac"], value.metrics["value/clipfrac"]])
        if "loss" in step:
            loss = ppo.ppo_loss(policy, value, config["vf_coef"]).value
            agree(loss, step["loss"])
            loss.backward()
            agree(as_rows(new.grad, trained), step["new_logprobs_gradient"])
            agree(as_rows(values.grad, read), step["vpred_gradient"])
    if metrics is not None:
        agree(kl.sum(1).mean(), metrics["objective/kl"])
        agree(-config["kl_coef"] * kl.sum(1).mean(), metrics["objective/non_score_reward"])
        names = ("policy/clipfrac_avg", "val/clipfrac_avg")
        agree(torch.tensor(clipped).mean(0), [metrics[name] for name in names])


@pytest.mark.parametrize(
    "name", ["completion", "completion+kl", "token+kl", "length+kl", "completion+dual_clip"]
)
def test_grpo_losses(name: str) -> None:
    data = recorded("grpo")
    expected, mask = data["expected"][name], torch.tensor(data["completion_mask"]).bool()
    sequence, new = sequence_of(mask), as_leaf(data["logprobs"], mask)
    mean: Any = name.partition("+")[0]
    loss = grpo.grpo_loss(
        new,
        old=torch.tensor(data["old"])[mask],
        reference=torch.tensor(data["reference"])[mask],
        advantages=torch.tensor(data["advantages"])[sequence],
        weight=grpo.token_weights(sequence, len(mask), mean, data["longest"]),
        clip=data["clip"],
        kl_coef=expected["beta"],
        dual_clip=expected["delta"],
    )
    agree(loss.value, expected["loss"])
    loss.value.backward()
    agree(as_rows(new.grad, mask), expected["gradient"])


def test_rloo_loss() -> None:
    data = recorded("grpo")
    expected, mask = data["expected"]["rloo"], torch.tensor(data["completion_mask"]).bool()
    new, old = as_leaf(data["logprobs"], mask), torch.tensor(data["old"])[mask]
    advantages = torch.tensor(data["advantages"])
    loss = rloo.rloo_loss(new, old, advantages, sequence_of(mask), data["clip"])
    agree(loss.value, expected["loss"])
    loss.value.backward()
    agree(as_rows(new.grad, mask), expected["gradient"])


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_group_advantages(name: str) -> None:
    data = recorded("grpo")
    scores = torch.tensor(data["scores"])
    group = torch.arange(len(scores)) // data["samples"]
    estimator = getattr(advantage, f"{name}_advantages")
    agree(estimator(scores, group), data["expected_advantages"][name])


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired"])
def test_unpaired_losses(name: str) -> None:
    data = recorded("kto")
    expected, mask = data["expected"][name], torch.tensor(data["completion_mask"]).bool()[:, 1:]
    policy, reference = (data[f"{role}_logprobs"] for role in ("policy", "reference"))
    leaf, sequence = as_leaf(policy, mask), sequence_of(mask)
    log_ratios = leaf - torch.tensor(reference)[mask]
    baseline = kto.baseline(torch.tensor(data["mismatched_ratio"]))
    unpaired = kto.UnpairedLogprobs(
        ratio=completion_sums(log_ratios, sequence, len(mask), None, 1.0),
        label=torch.tensor(data["label"]).float(),
        baseline=baseline if name == "kto" else torch.zeros(()),
    )
    loss = kto.unpaired_loss(
        unpaired,
        data["beta"],
        getattr(kto, f"{name}_loss"),
        up_weight=data["up_weight"],
        down_weight=data["down_weight"],
    )
    agree(loss.value, expected["loss"])
    for metric, value in expected["metrics"].items():
        agree(loss.metrics[metric], value)
    loss.value.backward()
    agree(as_rows(leaf.grad, mask), expected["gradient"])


@pytest.mark.parametrize("name", ["plain", "margin", "margin+centering"])
def test_reward_losses(name: str) -> None:
    data = recorded("reward")
    expected = data["expected"][name]
    scores = torch.tensor(data["scores"], requires_grad=True)
    chosen, rejected = scores.chunk(2)
    loss = reward.reward_loss(
        chosen,
        rejected,
        margin=torch.tensor(data["margin"]) if "margin" in name else None,
        centering=data["centering"] if "centering" in name else 0.0,
    )
    agree(loss.value, expected["loss"])
    agree(loss.metrics["rewards/accuracies"], expected["metrics"]["accuracy"])
    agree(loss.metrics["rewards/margins"], expected["metrics"]["margin"])
    loss.value.backward()
    agree(scores.grad, expected["gradient"])
