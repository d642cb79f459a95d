"""The base of methods that learn from completions the policy samples itself."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_rlhf.batches import PromptBatch, TokenBatch, UpdateBatch, to_device
from lightning_rlhf.data.collate import completion_batch, example_rows, token_batch
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.functional.shaping import RewardShaper, Shaping
from lightning_rlhf.models.backbone import POLICY, REFERENCE, Backbone
from lightning_rlhf.models.sampler import CompletionSampler, HFSampler, Sample, Sampling
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.modules.rollout import RoleOutputs, Rollout, reward_inputs, shuffled
from lightning_rlhf.modules.rollout_metrics import rollout_metrics, rollout_table, sampler_gap
from lightning_rlhf.modules.samples import Table
from lightning_rlhf.modules.update_schedule import UpdateSchedule
from lightning_rlhf.rewards.base import Reward, Score, as_rewards
from lightning_rlhf.training.checkpoint import gather_states
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
        reward: the name of a reward role, a function of texts, or one or several ``Reward``.
        sampling: how completions are drawn.
        shaping: how scores become rewards.
        updates: number of updates per rollout, and how far they may go.
        sampler: the sampler; None for the backbone itself.
        lr: peak learning rate.
        **optim: ``warmup``, ``optimizer`` and ``lr_scheduler``, see ``AlignmentModule``.
    """

    compares_forwards = True
    adam_eps = 1e-5

    def __init__(
        self,
        backbone: Backbone,
        reward: Score | Reward | list[Reward] | str,
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
            raise ValueError(f"{name} learns from what it tries: give a temperature above 0")
        self.reward = reward
        self.sampling = sampling
        self.updates = updates
        self.sampler = sampler
        self.rewards = as_rewards(reward)
        self.rollouts_made = 0
        self._sampler = sampler or HFSampler()
        self._shaper = RewardShaper(shaping)
        self._seed: int | None = None  # of the run; on resume the checkpoint's
        self._rollout: Rollout | None = None
        self._table: Table | None = None
        self._update = 0  # number of the rollout's updates that have begun
        self._update_began = 0.0
        self._pending = False  # the last update's optimizer step has not been made yet
        self._stopped = False  # the rollout's remaining updates are skipped

    # ---- hooks of a method ----

    def forward_roles(self, tokens: TokenBatch, score_after_eos: list[bool]) -> RoleOutputs:
        """Run the roles over sampled completions.

        Args:
            tokens: C completions.
            score_after_eos: C, see the method of this name; only a critic needs it.
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
        """Tell for each completion if its score is placed one position after its last token."""
        return [False] * len(samples)

    # ---- roles ----

    def add_roles(self) -> None:
        self.add_policy_and_reference()
        for reward in self.rewards:
            reward.prepare(self.backbone)

    # ---- what a plan of memory asks ----

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

    # ---- a rollout ----

    @property
    def updates_per_rollout(self) -> int:
        """How often the loader yields each batch of prompts."""
        return self.updates.per_rollout

    @property
    def shaping(self) -> Shaping:
        """How scores become rewards."""
        return self._shaper.shaping

    @shaping.setter
    def shaping(self, shaping: Shaping) -> None:
        self._shaper.shaping = shaping

    @property
    def kl_coef(self) -> float:
        """The KL coefficient now."""
        return self._shaper.kl_coef

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self._rollout is None or self._update == self.updates_per_rollout:
            self.collect_rollout(batch)
        return self.update_loss()

    @torch.no_grad()
    def collect_rollout(self, batch: Any) -> None:
        """Sample completions, run the roles, score, shape and compute advantages."""
        if not isinstance(batch, PromptBatch):
            raise ValueError(
                f"{type(self).__name__} samples its own completions: give it PromptData, "
                f"not {type(batch).__name__}"
            )
        start = time.perf_counter()
        # 1. Sample completions of the prompts.
        with self._random_stream(self.rollouts_made):
            prompts, rows = shuffled(batch)
            order = self.updates.split(len(prompts))
            samples = self._sample(prompts, self.sampling)
        sampled = time.perf_counter()
        # 2. Run the roles, in the minibatches of the first pass: its ratio is then 1 to the bit.
        minibatches, outputs, after_eos = self._run_roles(prompts, samples, order)
        # 3. Score the completions.
        scores = self._score(prompts, rows, samples, minibatches)
        scored = time.perf_counter()
        weights = torch.tensor([reward.weight for reward in self.rewards], device=self.device)
        rollout = Rollout.assemble(
            prompts, samples, order=order, outputs=outputs,
            scores=weights @ torch.stack(list(scores.values())), score_after_eos=after_eos,
            old_logprobs=self.updates.old_logprobs,
        )  # fmt: skip
        # 4. Shape the scores.
        rewards = self._shaper.shape(rollout.scores, rollout.finished)
        # 5. Compute advantages.
        kl = rollout.kl(self.shaping.kl_estimator)
        self._rollout = self.compute_advantages(rollout, kl, rewards)

        self._update, self._stopped = 0, False
        self.rollouts_made += 1
        self._table = rollout_table(rollout, scores, self.decode)
        metrics = rollout_metrics(rollout, scores, self.kl_coef, self.shaping.kl_estimator)
        metrics |= {
            "policy/sampler_gap": sampler_gap(samples, outputs),
            "time/rollout": sampled - start,
            "time/score": scored - sampled,
            "time/tokens_per_second": sum(rollout.lengths) / (sampled - start),
            "memory/peak_gib": peak_gib(self.device),
        }
        for name, value in metrics.items():
            self.log(name, value, prog_bar=name in SHOWN, batch_size=len(samples))
        self._shaper.update_kl(kl.sum(1))

    def update_loss(self) -> Tensor | None:
        """Compute the loss of the next minibatch; None once ``target_kl`` has been passed."""
        assert self._rollout is not None
        update, self._update = self._update, self._update + 1
        self._pending = True
        if self._stopped:
            return None
        self._update_began = time.perf_counter()
        batch = self._rollout.batch(update)
        loss = self.objective(batch)
        metrics = dict(loss.metrics)
        error = metrics.pop("policy/ratio_error", None)
        if update == 0 and error is not None:
            metrics["policy/first_ratio_error"] = error
        target, moved = self.updates.target_kl, metrics["policy/approxkl"]
        if target is not None and self._trainer is not None:
            gathered = self.all_gather(moved)  # all processes stop together
            assert isinstance(gathered, Tensor)
            moved = gathered.mean()
        if target is not None and float(moved) > 1.5 * target:
            self._stopped = True
        metrics["policy/stopped"] = torch.tensor(float(self._stopped))
        size = len(batch.tokens.last_index)
        self.log_dict(metrics, batch_size=size)
        self.log("train/loss", loss.value.detach(), prog_bar=True, batch_size=size)
        return None if self._stopped else loss.value

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self._pending = False

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Only here are backward and step over too."""
        self._pending = False
        if not self._stopped:
            self.log("time/update", time.perf_counter() - self._update_began, batch_size=1)

    # ---- steps of a rollout ----

    def _sample(self, prompts: list[list[int]], sampling: Sampling) -> list[Sample]:
        return self._sampler.sample(self.backbone, POLICY, prompts, sampling)

    def _random_stream(self, number: int) -> AbstractContextManager[None]:
        """Draw from the run's seed, this process and ``number`` alone."""
        self._seed = torch.initial_seed() if self._seed is None else self._seed
        return random_stream(self.device, self._seed, self.global_rank, number)

    def _run_roles(
        self, prompts: list[list[int]], samples: list[Sample], order: list[list[int]]
    ) -> tuple[list[TokenBatch], RoleOutputs, list[bool]]:
        """Cut completions as the first pass does, and run the roles over each minibatch."""
        completions, k = [sample.ids for sample in samples], self.sampling.num_samples
        after_eos = self.score_after_eos(samples)
        minibatches, outputs = [], []
        for part in order[: self.updates.minibatches]:
            tokens = to_device(completion_batch(prompts, completions, part), self.device)
            minibatches.append(tokens)
            chosen = [after_eos[p * k + i] for p in part for i in range(k)]
            outputs.append(self.forward_roles(tokens, chosen))
        return minibatches, RoleOutputs.concatenate(outputs), after_eos

    def _score(
        self,
        prompts: list[list[int]],
        rows: list[dict[str, Any]],
        samples: list[Sample],
        minibatches: list[TokenBatch],
    ) -> dict[str, Tensor]:
        """Score completions by each reward: (C,) by its name."""
        inputs = reward_inputs(prompts, rows, samples, minibatches, decode=self.decode)
        return {r.name: r.score(self.backbone, inputs).float() for r in self.rewards}

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
        with self._random_stream(-1 - batch_idx):
            samples = self._sample(prompts, replace(self.sampling, num_samples=1))
        tokens = to_device(
            completion_batch(prompts, [s.ids for s in samples], range(len(prompts))), self.device
        )
        outputs = self.forward_roles(tokens, [False] * len(samples))
        kl = (outputs.logprobs - outputs.reference).sum() / len(samples)
        rows = [json.loads(row) for row in batch.rows]
        scores = self._score(prompts, rows, samples, [tokens])
        score = sum(r.weight * scores[r.name].mean() for r in self.rewards)
        loss = torch.as_tensor(self.kl_coef * kl - score)
        metrics: dict[str, Any] = {
            "loss": loss,
            "scores": score,
            "kl": kl,
            "eos_share": sum(s.finished for s in samples) / len(samples),
            "mean_length": sum(len(s.ids) for s in samples) / len(samples),
        }
        self.log_dict(
            {f"{stage}/{name}": float(value) for name, value in metrics.items()},
            batch_size=len(samples),
            sync_dist=True,
        )
        return loss

    def batch_weight(self, batch: PromptBatch | UpdateBatch) -> int:
        return len(batch.prompt_ids if isinstance(batch, PromptBatch) else batch.tokens.last_index)

    # ---- checkpoints: the rollout in hand, and the running state ----

    def on_save_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint_)
        in_hand = self._rollout.state() if self._rollout is not None else None
        processes = self._trainer.world_size if self._trainer is not None else 1
        checkpoint_["online"] = {
            "rollout": gather_states(in_hand, processes),  # each process has sampled its own
            "update": self._update - self._pending,  # a step that broke off is made again
            "stopped": self._stopped,
            "rollouts_made": self.rollouts_made,
            "table": self._table._asdict() if self._table is not None else None,
            "seed": self._seed,
            "shaper": self._shaper.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint_)
        state = checkpoint_["online"]
        held = state["rollout"]
        own = held[self.global_rank] if self.global_rank < len(held) else None
        self._rollout = Rollout.of_state(own, self.device) if own is not None else None
        self._update, self._stopped = state["update"], state["stopped"]
        self.rollouts_made, self._seed = state["rollouts_made"], state["seed"]
        self._table = Table(**state["table"]) if state["table"] is not None else None
        self._shaper.load_state_dict(state["shaper"])
