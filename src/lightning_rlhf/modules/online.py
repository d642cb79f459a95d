"""The base of methods that learn from completions the policy samples itself."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.batches import PromptBatch, TokenBatch, UpdateBatch
from lightning_rlhf.data.collate import example_rows, token_batch
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.functional.loss import across_processes
from lightning_rlhf.functional.shaping import RewardShaper, Shaping
from lightning_rlhf.models.backbone import POLICY, REFERENCE, Backbone
from lightning_rlhf.models.sampler import CompletionSampler, HFSampler, Sample, Sampling
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.modules.rollout import RoleOutputs, Rollout, SampledBatch, shuffled
from lightning_rlhf.modules.rollout_metrics import (
    held_out_metrics,
    rollout_metrics,
    rollout_table,
    sampler_gap,
)
from lightning_rlhf.modules.rollout_progress import RolloutProgress
from lightning_rlhf.modules.samples import Table
from lightning_rlhf.modules.update_schedule import UpdateSchedule
from lightning_rlhf.rewards.as_rewards import OneReward, as_rewards
from lightning_rlhf.rewards.base import checked_scores
from lightning_rlhf.training.optim import OptimizerOptions, Unpack
from lightning_rlhf.training.peak_memory import peak_gib
from lightning_rlhf.training.random_stream import random_stream

SHOWN = {"objective/scores", "objective/kl", "completions/mean_length"}  # on the progress bar


class OnlineModule(AlignmentModule):
    """Collect a rollout of sampled completions, and make several updates on it.

    A loader yields each batch of prompts once per update. ``training_step`` collects a rollout on
    the first and returns one minibatch's loss on each. So every Trainer flag keeps its meaning. The
    rollout in hand is part of a checkpoint.

    Args:
        backbone: the base and its roles.
        reward: the name of a reward role, a function of texts, a ``Reward``, or a list of these.
        sampling: how completions are drawn.
        shaping: how scores become rewards.
        updates: number of updates per rollout, and how far they may go.
        sampler: draws the completions; None for the backbone itself.
        lr: peak learning rate.
        **optim: ``warmup``, ``optimizer`` and ``lr_scheduler``, see ``AlignmentModule``.
    """

    compares_forwards, makes_rollouts = True, True
    adam_eps = 1e-5

    def __init__(
        self,
        backbone: Backbone,
        reward: OneReward | list[OneReward],
        *,
        sampling: Sampling,
        shaping: Shaping,
        updates: UpdateSchedule,
        sampler: CompletionSampler | None,
        lr: float,
        **optim: Unpack[OptimizerOptions],
    ):
        super().__init__(backbone, lr=lr, **optim)
        name = type(self).__name__
        if sampling.temperature == 0:
            raise ValueError(f"{name} cannot explore at temperature 0: give a temperature above 0")
        self.reward = reward
        self.sampling = sampling
        self.updates = updates
        self.sampler = sampler
        self.rewards = as_rewards(reward)
        self.rollouts_made = 0
        self._sampler = sampler or HFSampler()
        self._shaper = RewardShaper(shaping)
        self._seed: int | None = None  # of the run; on resume the checkpoint's
        self._progress = RolloutProgress()
        self._update_began = 0.0
        self._table: Table | None = None

    # ---- hooks of a method ----

    def forward_roles(self, tokens: TokenBatch, score_after_eos: list[bool]) -> RoleOutputs:
        """Run the roles over sampled completions.

        Args:
            tokens: C completions.
            score_after_eos: C, from the method of this name; only a critic needs it.
        """
        return RoleOutputs(
            self.backbone.logprobs(tokens, POLICY, self.sampling.temperature),
            self.backbone.logprobs(tokens, REFERENCE, self.sampling.temperature),
        )

    def compute_advantages(self, rollout: Rollout, kl: Tensor, rewards: Tensor) -> Rollout:
        """Return the rollout with its advantages.

        Args:
            rollout: scored.
            kl: (C, L) nats per token.
            rewards: (C,) shaped scores.
        """
        raise NotImplementedError

    def policy_logprobs(self, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        """Compute the policy's log-probs (N,) and, where it has a weight, its mean entropy."""
        if not self.updates.entropy:
            new = self.backbone.logprobs(tokens, POLICY, self.sampling.temperature)
            return new, new.new_zeros(())
        statistics = self.backbone.statistics(tokens, POLICY, self.sampling.temperature)
        return statistics.logprob, statistics.entropy.mean()

    def score_after_eos(self, samples: list[Sample]) -> list[bool]:
        """Choose the completions whose score is placed one position after their last token."""
        return [False] * len(samples)

    # ---- roles ----

    def add_roles(self) -> None:
        self.add_policy_and_reference()
        for reward in self.rewards:
            reward.prepare(self.backbone)

    # ---- for planning ----

    def largest_step(self, data: RowsData, completions: int = 2) -> list[tuple[int, ...]]:
        """Rows of one minibatch: prompts of ``max_length``, completions of ``max_new_tokens``."""
        super().largest_step(data, completions)
        row = (data.max_length, *[self.sampling.max_new_tokens] * self.sampling.num_samples)
        rows = data.batch_size if data.max_tokens is None else data.max_tokens // data.max_length
        return [row] * max(1, -(-rows // self.updates.minibatches))

    def example_batch(self, groups: Sequence[Sequence[int]]) -> UpdateBatch:
        tokens = token_batch(example_rows(groups))
        blank = torch.zeros(tokens.target_ids.shape, device=tokens.target_ids.device)
        per_answer = torch.zeros(tokens.last_index.shape, device=tokens.last_index.device)
        return UpdateBatch(tokens, blank, blank, per_answer)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":  # a checkpoint brings its rollout; another fit's may have other prompts
            self._progress = RolloutProgress()

    # ---- a rollout ----

    @property
    def updates_per_rollout(self) -> int:
        """Number of times the loader yields each batch of prompts."""
        return self.updates.per_rollout

    @property
    def shaping(self) -> Shaping:
        """Settings that turn scores into rewards."""
        return self._shaper.shaping

    @shaping.setter
    def shaping(self, shaping: Shaping) -> None:
        self._shaper.shaping = shaping

    @property
    def kl_coef(self) -> float:
        """The KL coefficient now."""
        return self._shaper.kl_coef

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        progress = self._progress
        if progress.rollout is None or progress.update == self.updates_per_rollout:
            self.collect_rollout(batch)
        return self.update_loss()

    @torch.no_grad()
    def collect_rollout(self, batch: Any) -> None:
        """Sample completions, run the roles, score, shape and compute advantages."""
        began = time.perf_counter()
        # 1. Sample completions of the prompts.
        with self._random_stream(self.rollouts_made):
            prompts, rows = shuffled(batch, type(self).__name__)
            order = self.updates.split(len(prompts))
            sampled = SampledBatch(prompts, rows, self._sample(prompts, self.sampling))
        sampling_ended = time.perf_counter()
        # 2. Run the roles, in the minibatches of the first pass: its ratio is then 1 to the bit.
        first_pass = order[: self.updates.minibatches]  # takes the prompts in order
        minibatches = [sampled.tokens(part, self.device) for part in first_pass]
        after_eos = self.score_after_eos(sampled.samples)
        flags = iter(after_eos)
        outputs = RoleOutputs.concatenate(
            [self.forward_roles(t, list(islice(flags, t.completions))) for t in minibatches]
        )
        # 3. Score the completions.
        scores = self._score(sampled, minibatches)
        scoring_ended = time.perf_counter()
        rollout = Rollout.assemble(
            sampled, order=order, outputs=outputs, scores=list(scores.values()),
            weights=[reward.weight for reward in self.rewards], score_after_eos=after_eos,
            old_logprobs=self.updates.old_logprobs,
        )  # fmt: skip
        # 4. Shape the scores, by those of all processes.
        join = self.processes.join
        rewards = self._shaper.shape(rollout.scores, rollout.finished, join(rollout.scores))
        # 5. Compute advantages.
        kl = rollout.kl(self.shaping.kl_estimator)
        rollout = self.compute_advantages(rollout, kl, rewards)
        self._progress.start(rollout.among(self.processes))

        self.rollouts_made += 1
        seconds = (sampling_ended - began, scoring_ended - sampling_ended)
        gap = sampler_gap(sampled.samples, outputs, self.processes)
        self._report(rollout, scores, gap, seconds)
        self._shaper.update_kl(join(kl.sum(1)))

    def update_loss(self) -> Tensor | None:
        """Compute the loss of the next minibatch; None once ``target_kl`` has been passed."""
        progress = self._progress
        assert progress.rollout is not None
        update = progress.next_update()
        if progress.stopped:
            return self.no_part_of_step()
        self._update_began = time.perf_counter()
        batch = progress.rollout.batch(update)
        loss = across_processes(self.objective(batch), self.batch_weight(batch), self.processes)
        metrics = dict(loss.metrics)
        error = metrics.pop("policy/ratio_error", None)
        if update == 0 and error is not None:
            metrics["policy/first_ratio_error"] = error
        target, moved = self.updates.target_kl, metrics["policy/approxkl"]
        progress.stopped = target is not None and float(moved) > 1.5 * target
        metrics["policy/stopped"] = torch.tensor(float(progress.stopped))
        size = len(batch.tokens.last_index)
        self.log_dict(metrics, batch_size=size)
        self._last_loss = loss.logged
        self.log("train/loss", loss.logged, prog_bar=True, batch_size=size)
        if progress.stopped:
            return self.no_part_of_step()
        return self.part_of_step(loss.value, loss.weight)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the time of an update: only here have backward and step ended too."""
        if not self._progress.stopped:
            self.log("time/update", time.perf_counter() - self._update_began, batch_size=1)

    # ---- steps of a rollout ----

    def _sample(self, prompts: list[list[int]], sampling: Sampling) -> list[Sample]:
        return self._sampler.sample(self.backbone, POLICY, prompts, sampling)

    def _random_stream(self, number: int) -> AbstractContextManager[None]:
        """Seed the draws inside by the run's seed, this process and ``number``."""
        self._seed = torch.initial_seed() if self._seed is None else self._seed
        return random_stream(self.device, self._seed, self.global_rank, number)

    def _score(self, sampled: SampledBatch, minibatches: list[TokenBatch]) -> dict[str, Tensor]:
        """Score completions by each reward: (C,) by its name."""
        inputs = sampled.reward_inputs(minibatches, self.decode)
        return {r.name: checked_scores(r, self.backbone, inputs) for r in self.rewards}

    def _report(
        self, rollout: Rollout, scores: dict[str, Tensor], gap: float, seconds: tuple[float, float]
    ) -> None:
        """Keep the table of a rollout, and log its metrics."""
        self._table = rollout_table(rollout, scores, self.decode)
        shaping, processes = self._shaper, self.processes
        metrics = rollout_metrics(
            rollout, scores, shaping.kl_coef, shaping.shaping.kl_estimator, processes
        )
        metrics |= {
            "policy/sampler_gap": gap,
            "time/rollout": seconds[0],
            "time/score": seconds[1],
            "time/tokens_per_second": processes.total(sum(rollout.lengths)) / seconds[0],
            "memory/peak_gib": peak_gib(self.device),
        }
        for name, value in metrics.items():
            self.log(name, value, prog_bar=name in SHOWN, batch_size=len(rollout.lengths))

    def rollout_table(self) -> Table:
        """List every completion of the last rollout."""
        assert self._table is not None, "no rollout yet"
        return self._table

    # ---- held-out prompts ----

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._measure("val", batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._measure("test", batch, batch_idx)

    @torch.no_grad()
    def _measure(self, stage: str, batch: Any, batch_idx: int) -> Tensor:
        """Log score, KL and length of one completion per held-out prompt.

        Nothing is drawn from the training's random numbers, and every validation draws the same.
        """
        prompts = [ids.tolist() for ids in batch.prompt_ids]
        rows = [json.loads(row) for row in batch.rows]
        with self._random_stream(-1 - batch_idx):
            samples = self._sample(prompts, replace(self.sampling, num_samples=1))
        sampled = SampledBatch(prompts, rows, samples)
        tokens = sampled.tokens(range(len(prompts)), self.device)
        outputs = self.forward_roles(tokens, [False] * len(samples))
        scores = self._score(sampled, [tokens])
        score = sum(r.weight * scores[r.name].mean() for r in self.rewards)
        metrics = held_out_metrics(samples, outputs, score, self.kl_coef)
        logged = {f"{stage}/{name}": value for name, value in metrics.items()}
        weight: Any = float(len(samples))  # Lightning rounds an int's mean over processes
        self.log_dict(logged, batch_size=weight, sync_dist=True)
        return torch.tensor(metrics["loss"], device=self.device)

    def batch_weight(self, batch: PromptBatch | UpdateBatch) -> int:
        return len(batch.prompt_ids if isinstance(batch, PromptBatch) else batch.tokens.last_index)

    # ---- checkpoints: the rollout in hand, and the running state ----

    def progress_state(self) -> dict[str, Any]:
        own = {
            "progress": self._progress.state_dict(),
            "table": self._table._asdict() if self._table is not None else None,
            "seed": self._seed,
        }
        online = {
            "processes": self.processes.gather_states(own),
            "rollouts_made": self.rollouts_made,
            "shaper": self._shaper.state_dict(),  # the same in all processes
        }
        return {**super().progress_state(), "online": online}

    def on_load_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint_)
        state = checkpoint_["online"]
        self.rollouts_made = state["rollouts_made"]
        if len(state["processes"]) == self.processes.size:  # else nothing trains on
            own = state["processes"][self.processes.rank]
            self._progress.load_state_dict(own["progress"], self.device)
            self._seed = own["seed"]
            self._table = Table(**own["table"]) if own["table"] is not None else None
        self._shaper.load_state_dict(state["shaper"])
