"""Metrics and the table of a rollout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor

from lightning_rlhf.functional.ppo import KLEstimator
from lightning_rlhf.functional.processes import Processes
from lightning_rlhf.functional.rollout_statistics import distinct_n
from lightning_rlhf.models.sampler import Sample
from lightning_rlhf.modules.rollout import RoleOutputs, Rollout, row_mask, sampler_logprobs
from lightning_rlhf.modules.samples import Table


def rollout_metrics(
    rollout: Rollout,
    scores: Mapping[str, Tensor],
    kl_coef: float,
    kl_estimator: KLEstimator,
    processes: Processes = Processes(),
) -> dict[str, float]:
    """Compute the ``objective/`` and ``completions/`` metrics.

    Args:
        rollout: scored.
        scores: (C,) of each reward by its name; a single reward is not listed by name.
        kl_coef: the KL coefficient of this rollout.
        kl_estimator: of the KL in ``non_score_reward``.
        processes: over whose rollouts of this moment the metrics are.
    """
    mask = row_mask(rollout.lengths, rollout.logprobs)
    join = processes.join
    entropy = join(-rollout.logprobs.masked_fill(~mask, 0.0).sum(1))
    kl = {estimator: join(rollout.kl(estimator).sum(1)) for estimator in get_args(KLEstimator)}
    penalty = kl_coef * kl[kl_estimator].mean()
    all_scores, finished = join(rollout.scores), join(rollout.finished)
    ids = completions_of_all(rollout.completion_ids, rollout.scores.device, processes)
    metrics: dict[str, Tensor | float] = {
        "objective/kl": kl["k1"].mean(),
        "objective/kl_k3": kl["k3"].mean(),
        "objective/entropy": entropy.mean(),
        "objective/scores": all_scores.mean(),
        "objective/score_std": all_scores.std(unbiased=False),
        "objective/non_score_reward": -penalty,
        "objective/rlhf_reward": all_scores.mean() - penalty,
        "objective/kl_coef": kl_coef,
        "completions/mean_length": sum(map(len, ids)) / len(ids),
        "completions/eos_share": finished.float().mean(),
        "completions/distinct_2": distinct_n(ids, 2),
    }
    if len(scores) > 1:
        metrics |= {f"objective/scores/{name}": join(s).mean() for name, s in scores.items()}
    return {name: float(value) for name, value in metrics.items()}


def completions_of_all(
    completions: Sequence[list[int]], device: torch.device, processes: Processes
) -> Sequence[list[int]]:
    """Join the token ids of the completions of all processes."""
    if processes.size == 1:
        return completions
    lengths = processes.join(torch.tensor([len(ids) for ids in completions], device=device))
    flat = processes.join(torch.tensor([i for ids in completions for i in ids], device=device))
    return [ids.tolist() for ids in flat.split(lengths.tolist())]


def held_out_metrics(
    samples: Sequence[Sample], outputs: RoleOutputs, score: Tensor | float, kl_coef: float
) -> dict[str, float]:
    """Compute the metrics of one completion per held-out prompt.

    Args:
        samples: C completions.
        outputs: of the roles over them.
        score: mean weighted score.
        kl_coef: the KL coefficient in the loss, ``kl_coef KL - score``.
    """
    n = len(samples)
    kl = (outputs.logprobs - outputs.reference).sum() / n
    return {
        "loss": float(kl_coef * kl - score),
        "scores": float(score),
        "kl": float(kl),
        "eos_share": sum(sample.finished for sample in samples) / n,
        "mean_length": sum(len(sample.ids) for sample in samples) / n,
    }


def sampler_gap(
    samples: Sequence[Sample], outputs: RoleOutputs, processes: Processes = Processes()
) -> float:
    """Mean absolute difference of the sampler's log-probs from the trainer's, per token."""
    own = sampler_logprobs(samples, outputs.logprobs.device)
    return float(processes.join((own - outputs.logprobs).abs()).mean())


def rollout_table(
    rollout: Rollout, scores: Mapping[str, Tensor], decode: Callable[[list[int]], str]
) -> Table:
    """List every completion of a rollout, with its score, KL and length.

    Args:
        rollout: scored.
        scores: (C,) of each reward by its name; several get a column each.
        decode: token ids to text.
    """
    several = scores if len(scores) > 1 else {}
    prompts = [decode(ids) for ids in rollout.prompt_ids]
    columns = ["prompt", "completion", "score", "kl", "length", "finished"]
    rows = zip(
        [prompt for prompt in prompts for _ in range(rollout.samples)],
        [decode(ids) for ids in rollout.completion_ids],
        rollout.scores.tolist(),
        rollout.kl("k1").sum(1).tolist(),
        rollout.lengths,
        rollout.finished.tolist(),
        *(values.tolist() for values in several.values()),
        strict=True,
    )
    return Table([*columns, *several], [list(row) for row in rows])
