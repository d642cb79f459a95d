"""What methods share that learn from completions the policy samples itself."""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_rlhf.batches import PromptBatch, TokenBatch, UpdateBatch, to_device
from lightning_rlhf.data.collate import completion_batch, example_rows, token_batch
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.functional.ppo import KLEstimator
from lightning_rlhf.functional.running import AdaptiveKL, RunningMoments, distinct_n
from lightning_rlhf.models.backbone import POLICY, REFERENCE, Backbone
from lightning_rlhf.models.sampler import HFRollout, RolloutEngine, Sample, Sampling
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.modules.rollout import Rollout, as_rows, row_mask
from lightning_rlhf.modules.samples import Table
from lightning_rlhf.rewards.base import Answers, Reward, Score, as_rewards
from lightning_rlhf.training.optim import OptimizerOptions, Unpack


@dataclass(frozen=True)
class Shaping:
    """From scores to the reward that is maximised.

    Attributes:
        kl_coef: price of a nat of KL to the reference.
        kl_target: nats per completion that an adaptive coefficient steers to; None keeps it fixed.
        kl_horizon: completions after which a full error has moved it by a fifth.
        kl_estimator: "k1" is unbiased in gradient where the KL is part of a reward; "k3" is never
            negative.
        missing_eos_penalty: taken off the score of a completion that did not end.
        centre: subtract the mean score of the first rollout, which the reference wrote.
        normalize: divide scores by their running standard deviation.
        clip: bound of a score's size after that; None: none.
    """

    kl_coef: float = 0.05
    kl_target: float | None = None
    kl_horizon: float = 10_000
    kl_estimator: KLEstimator = "k1"
    missing_eos_penalty: float = 1.0
    centre: bool = False
    normalize: bool = False
    clip: float | None = None


@dataclass(frozen=True)
class Updates:
    """How often, and how far, the policy moves on one rollout.

    Attributes:
        epochs: passes over a rollout.
        minibatches: optimizer steps (or micro-batches) to a pass.
        clip: of the ratio to the policy that sampled.
        dual_clip: bound of a loss with negative advantage, above 1; None: none.
        entropy: weight of the bonus for entropy, nats per token; a third matrix product dearer.
        target_kl: the rest of a rollout's updates is left out once the policy has moved this far
            from its start, in nats per token (approximate); None: never.
        old_logprobs: "trainer" computes them again in the forward that trains, so that the first
            ratio is 1; "sampler" takes the sampler's.
    """

    epochs: int = 4
    minibatches: int = 1
    clip: float = 0.2
    dual_clip: float | None = None
    entropy: float = 0.0
    target_kl: float | None = None
    old_logprobs: Literal["trainer", "sampler"] = "trainer"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatches < 1:
            raise ValueError(
                f"updates need 1 epoch and 1 minibatch or more, got {self.epochs} and "
                f"{self.minibatches}"
            )
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(f"dual_clip bounds a ratio from above 1, got {self.dual_clip}")


class Seen(NamedTuple):
    """A forward of every role over sampled completions, without gradient."""

    logprobs: Tensor  # (N,)
    reference: Tensor  # (N,)
    values: Tensor | None = None  # (V,)


class OnlineModule(AlignmentModule):
    """Sample, score, compare with the reference, learn; then sample again.

    A loader yields each batch of prompts once per update: ``training_step`` collects a rollout on
    the first and returns one minibatch's loss on each. So every Trainer flag keeps its meaning. The
    rollout in hand is part of a checkpoint.

    Args:
        backbone: the base and its roles.
        reward: the name of a reward role, a function of texts, or one or several ``Reward``.
        sampling: how completions are drawn.
        shaping: from scores to rewards.
        updates: steps to a rollout, and how far they go.
        engine: what samples; None for the backbone itself.
        lr: peak learning rate.
        **optim: ``warmup``, ``optimizer`` and ``lr_scheduler``, see ``AlignmentModule``.
    """

    compares_forwards = True
    adam_eps = 1e-5

    def __init__(
        self,
        backbone: Backbone,
        reward: Score | Reward | list[Reward] | str,
        sampling: Sampling,
        shaping: Shaping,
        updates: Updates,
        engine: RolloutEngine | None,
        lr: float,
        **optim: Unpack[OptimizerOptions],
    ):
        super().__init__(backbone, lr=lr, **optim)
        name = type(self).__name__
        if sampling.temperature == 0:
            raise ValueError(f"{name} learns from what it tries: give a temperature above 0")
        self.reward = reward
        self.sampling = sampling
        self.shaping = shaping
        self.updates = updates
        self.engine = engine
        self.rewards = as_rewards(reward)
        self.rollouts_made = 0
        self._sampler = engine or HFRollout()
        self._kl = AdaptiveKL(shaping.kl_target or 1.0, shaping.kl_horizon, shaping.kl_coef or 1e-9)
        self._moments = RunningMoments()
        self._seed: int | None = None  # of the run; a checkpoint's, once resumed
        self._centre: float | None = None
        self._rollout: Rollout | None = None
        self._table: Table | None = None
        self._update = 0  # of the rollout in hand
        self._update_began = 0.0
        self._pending = False  # whether the last update's optimizer step is still to come
        self._stopped = False  # whether its other updates are left out

    # ---- to be given by a method ----

    def look(self, tokens: TokenBatch, after: list[bool]) -> Seen:
        """What the roles say of sampled completions; ``after`` is the critic's affair."""
        return Seen(
            self.backbone.logprobs(tokens, POLICY, self.sampling.temperature),
            self.backbone.logprobs(tokens, REFERENCE, self.sampling.temperature),
        )

    def judge(self, rollout: Rollout, kl: Tensor, rewards: Tensor, group: Tensor) -> Rollout:
        """A rollout with its advantages.

        Args:
            rollout: scored.
            kl: (C, L) nats per token.
            rewards: (C,) shaped scores.
            group: (C,) the prompt of each completion.
        """
        raise NotImplementedError

    def policy_logprobs(self, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        """The policy's log-probs (N,), and its mean entropy where that is wanted, else 0."""
        if not self.updates.entropy:
            new = self.backbone.logprobs(tokens, POLICY, self.sampling.temperature)
            return new, new.new_zeros(())
        spoken = self.backbone.statistics(tokens, POLICY, self.sampling.temperature)
        return spoken.logprob, spoken.entropy.mean()

    def slot_after(self, samples: list[Sample]) -> list[bool]:
        """Which completions' score is put one place behind their last token."""
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
        row = (data.max_length, *[self.sampling.max_new_tokens] * self.sampling.samples)
        rows = data.batch_size if data.max_tokens is None else data.max_tokens // data.max_length
        return [row] * max(1, -(-rows // self.updates.minibatches))

    def example_batch(self, groups: Sequence[Sequence[int]]) -> UpdateBatch:
        tokens = token_batch(example_rows(groups))
        blank = torch.zeros(tokens.target_ids.shape, device=tokens.target_ids.device)
        per_answer = torch.zeros(tokens.last_index.shape, device=tokens.last_index.device)
        return UpdateBatch(tokens, blank, blank, per_answer)

    @property
    def updates_per_rollout(self) -> int:
        """How often the loader yields each batch of prompts."""
        return self.updates.epochs * self.updates.minibatches

    @property
    def kl_coef(self) -> float:
        """What a nat costs now."""
        return self._kl.coef if self.shaping.kl_target is not None else self.shaping.kl_coef

    # ---- the two verbs ----

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self._rollout is None or self._update == self.updates_per_rollout:
            self.collect_rollout(batch)
        return self.update_loss()

    @torch.no_grad()
    def collect_rollout(self, batch: PromptBatch) -> None:
        """Sample, look, score, judge."""
        start = time.perf_counter()
        with self._seeded(self.rollouts_made):
            prompts, rows = self._shuffled(batch)
            order = self._order(len(prompts))
            samples = self._sample(prompts, self.sampling)
        sampled = time.perf_counter()

        completions = [s.ids for s in samples]
        # the cuts of the first pass: its ratio is then 1 to the bit
        firsts = order[: self.updates.minibatches]
        cuts = [
            to_device(completion_batch(prompts, completions, part), self.device) for part in firsts
        ]
        after = self.slot_after(samples)
        k = self.sampling.samples
        seen = [
            self.look(cut, [after[p * k + i] for p in part for i in range(k)])
            for cut, part in zip(cuts, firsts, strict=True)
        ]
        scores = self._score(prompts, rows, samples, cuts)
        scored = time.perf_counter()

        rollout, gap = self._assemble(prompts, samples, order, seen, after, scores)
        kl = rollout.kl(self.shaping.kl_estimator)
        group = torch.arange(len(prompts), device=self.device).repeat_interleave(k)
        rewards = self._shape(rollout.scores, rollout.finished)
        self._rollout = self.judge(rollout, kl, rewards, group)
        self._update, self._stopped = 0, False
        self.rollouts_made += 1
        self._table = self._tabulate(rollout, scores)
        self._report(rollout, scores, gap, (sampled - start, scored - sampled))
        if self.shaping.kl_target is not None:
            self._kl.update(float(kl.sum(1).mean()), len(samples))

    def update_loss(self) -> Tensor | None:
        """The loss of the next minibatch; None where the rollout has been left already."""
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
            gathered = self.all_gather(moved)  # every process stops, or none
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

    def _assemble(
        self,
        prompts: list[list[int]],
        samples: list[Sample],
        order: list[list[int]],
        seen: list[Seen],
        after: list[bool],
        scores: list[Tensor],
    ) -> tuple[Rollout, Tensor]:
        """What is known so far, as rows; and how far the sampler's log-probs are off, per token."""
        completions = [s.ids for s in samples]
        lengths = [len(ids) for ids in completions]
        width = max(lengths)
        trainers = as_rows(torch.cat([s.logprobs for s in seen]), lengths, width)
        own = torch.tensor([lp for s in samples for lp in s.logprobs], device=self.device)
        samplers = as_rows(own, lengths, width)
        values, value_lengths = None, None
        if seen[0].values is not None:
            value_lengths = [n + extra for n, extra in zip(lengths, after, strict=True)]
            parts = [s.values for s in seen if s.values is not None]
            values = as_rows(torch.cat(parts), value_lengths, width + 1)
        weights = torch.tensor([r.weight for r in self.rewards], device=self.device)
        rollout = Rollout(
            prompt_ids=prompts,
            completion_ids=completions,
            finished=torch.tensor([s.finished for s in samples], device=self.device),
            scores=weights @ torch.stack(scores),
            logprobs=samplers if self.updates.old_logprobs == "sampler" else trainers,
            reference=as_rows(torch.cat([s.reference for s in seen]), lengths, width),
            advantages=torch.zeros_like(trainers),
            order=order,
            values=values,
            value_lengths=value_lengths,
        )
        return rollout, (samplers - trainers).abs().sum() / sum(lengths)

    def _shuffled(self, batch: Any) -> tuple[list[list[int]], list[dict[str, Any]]]:
        """Prompts in random order, so that the first pass takes them as they lie, and rows."""
        if not isinstance(batch, PromptBatch):
            raise ValueError(
                f"{type(self).__name__} samples its own completions: give it PromptData, "
                f"not {type(batch).__name__}"
            )
        n = len(batch.prompt_ids)
        if n < self.updates.minibatches:
            raise ValueError(
                f"a batch of {n} prompts cannot be cut into {self.updates.minibatches} "
                "minibatches: raise the data's batch_size, or lower updates.minibatches"
            )
        picked = torch.randperm(n).tolist()
        return (
            [batch.prompt_ids[i].tolist() for i in picked],
            [json.loads(batch.rows[i]) for i in picked],
        )

    def _order(self, prompts: int) -> list[list[int]]:
        """The prompts of each update: the first pass in order, the others shuffled."""
        parts: list[list[int]] = []
        for epoch in range(self.updates.epochs):
            rows = torch.randperm(prompts) if epoch else torch.arange(prompts)
            parts += [part.tolist() for part in rows.tensor_split(self.updates.minibatches)]
        return parts

    def _sample(self, prompts: list[list[int]], sampling: Sampling) -> list[Sample]:
        return self._sampler.sample(self.backbone, POLICY, prompts, sampling)

    @contextmanager
    def _seeded(self, number: int) -> Iterator[None]:
        """Random numbers of the run's seed, of this process and of ``number`` alone.

        Whatever else draws (a validation's loader does) changes no rollout, and a resumed run
        samples what the unbroken one did.
        """
        self._seed = torch.initial_seed() if self._seed is None else self._seed
        mixed = hashlib.blake2b(f"{self._seed} {self.global_rank} {number}".encode(), digest_size=7)
        devices = [self.device.index or 0] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int.from_bytes(mixed.digest(), "big"))
            yield

    def _score(
        self,
        prompts: list[list[int]],
        rows: list[dict[str, Any]],
        samples: list[Sample],
        cuts: list[TokenBatch],
    ) -> list[Tensor]:
        """(C,) of each reward."""
        k = len(samples) // len(prompts)
        answers = Answers(
            [text for text in map(self.decode, prompts) for _ in range(k)],
            [self.decode(s.ids) for s in samples],
            [row for row in rows for _ in range(k)],
            cuts,
            [self.decode(prompts[i // k] + s.ids) for i, s in enumerate(samples)],
        )
        return [reward.score(self.backbone, answers).float() for reward in self.rewards]

    def _shape(self, scores: Tensor, finished: Tensor) -> Tensor:
        """(C,) scores as they are maximised, KL aside."""
        how = self.shaping
        self._moments.update(scores)
        if how.centre:
            self._centre = float(scores.mean()) if self._centre is None else self._centre
            scores = scores - self._centre
        if how.normalize:
            scores = scores / (self._moments.std + 1e-6)
        if how.clip is not None:
            scores = scores.clamp(-how.clip, how.clip)
        return scores - how.missing_eos_penalty * (~finished).float()

    # ---- what is seen of it ----

    def _tabulate(self, rollout: Rollout, scores: list[Tensor]) -> Table:
        several = [r.name for r in self.rewards] if len(self.rewards) > 1 else []
        columns = ["prompt", "completion", "score", "kl", "length", "finished", *several]
        each = zip(
            [self.decode(p) for p in rollout.prompt_ids for _ in range(rollout.samples)],
            [self.decode(c) for c in rollout.completion_ids],
            rollout.scores.tolist(),
            rollout.kl("k1").sum(1).tolist(),
            rollout.lengths,
            rollout.finished.tolist(),
            *([s.tolist() for s in scores] if several else []),
            strict=True,
        )
        return Table(columns, [list(row) for row in each])

    def rollout_table(self) -> Table:
        """Every completion of the last rollout."""
        assert self._table is not None, "no rollout yet"
        return self._table

    def _report(
        self,
        rollout: Rollout,
        scores: list[Tensor],
        gap: Tensor,
        seconds: tuple[float, float],
    ) -> None:
        tokens = sum(rollout.lengths)
        mask = row_mask(rollout.lengths, rollout.logprobs)
        entropy = -rollout.logprobs.masked_fill(~mask, 0.0)
        priced = self.kl_coef * rollout.kl(self.shaping.kl_estimator).sum(1).mean()
        metrics: dict[str, Any] = {
            "objective/kl": rollout.kl("k1").sum(1).mean(),
            "objective/kl_k3": rollout.kl("k3").sum(1).mean(),
            "objective/entropy": entropy.sum(1).mean(),
            "objective/scores": rollout.scores.mean(),
            "objective/score_std": rollout.scores.std(unbiased=False),
            "objective/non_score_reward": -priced,
            "objective/rlhf_reward": rollout.scores.mean() - priced,
            "objective/kl_coef": self.kl_coef,
            "policy/sampler_gap": gap,
            "completions/mean_length": tokens / len(rollout.completion_ids),
            "completions/eos_share": rollout.finished.float().mean(),
            "completions/distinct_2": distinct_n(rollout.completion_ids, 2),
            "time/rollout": seconds[0],
            "time/score": seconds[1],
            "time/tokens_per_second": tokens / seconds[0],
            "memory/peak_gib": peak_gib(self.device),
        }
        if len(self.rewards) > 1:
            for reward, each in zip(self.rewards, scores, strict=True):
                metrics[f"objective/scores/{reward.name}"] = each.mean()
        shown = {"objective/scores", "objective/kl", "completions/mean_length"}
        size = len(rollout.completion_ids)
        for name, value in metrics.items():
            self.log(name, float(value), prog_bar=name in shown, batch_size=size)

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._measure("val", batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._measure("test", batch, batch_idx)

    @torch.no_grad()
    def _measure(self, stage: str, batch: Any, batch_idx: int) -> Tensor:
        """One completion of each held-out prompt: score, KL, length. The training draws nothing."""
        prompts = [ids.tolist() for ids in batch.prompt_ids]
        with self._seeded(-1 - batch_idx):  # the same luck in every validation
            alone = replace(self.sampling, samples=1)
            samples = self._sample(prompts, alone)
        tokens = to_device(
            completion_batch(prompts, [s.ids for s in samples], range(len(prompts))), self.device
        )
        seen = self.look(tokens, [False] * len(samples))
        kl = (seen.logprobs - seen.reference).sum() / len(samples)
        rows = [json.loads(row) for row in batch.rows]
        scores = self._score(prompts, rows, samples, [tokens])
        score = sum(r.weight * s.mean() for r, s in zip(self.rewards, scores, strict=True))
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

    # ---- checkpoints: the rollout in hand, and what runs along ----

    def on_save_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint_)
        in_hand = self._rollout.state() if self._rollout is not None else None
        checkpoint_["online"] = {
            "rollout": self._of_every_process(in_hand),
            "update": self._update - self._pending,  # a step that broke off is made again
            "stopped": self._stopped,
            "rollouts_made": self.rollouts_made,
            "table": self._table._asdict() if self._table is not None else None,
            "seed": self._seed,
            "centre": self._centre,
            "moments": self._moments.state_dict(),
            "kl": self._kl.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint_: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint_)
        state = checkpoint_["online"]
        held = state["rollout"]
        mine = held[self.global_rank] if self.global_rank < len(held) else None
        self._rollout = Rollout.of_state(mine, self.device) if mine is not None else None
        self._update, self._stopped = state["update"], state["stopped"]
        self.rollouts_made, self._seed = state["rollouts_made"], state["seed"]
        self._centre = state["centre"]
        self._table = Table(**state["table"]) if state["table"] is not None else None
        self._moments.load_state_dict(state["moments"])
        self._kl.load_state_dict(state["kl"])

    def _of_every_process(self, state: Any) -> list[Any]:
        """Each process has sampled its own; only the first writes."""
        processes = self._trainer.world_size if self._trainer is not None else 1
        if processes == 1:
            return [state]
        states: list[Any] = [None] * processes
        torch.distributed.all_gather_object(states, state)
        return states


def peak_gib(device: torch.device) -> float:
    """The most memory this process has held: of the card, or without one of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
