"""Runs that one process and several must bring to the same end: every method, on ragged rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

import lightning_rlhf as rlhf
from lightning_rlhf.functional import advantages, dpo
from lightning_rlhf.functional.pairs import Term
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.lora import LoRA
from lightning_rlhf.models.sampler import Sample, Sampling
from methods import METHODS, low_numbers
from support import NUMBERS

STEPS = 8
SAVED, SAVED_ONLINE = 6, 5  # steps of checkpoints; the second one is within a rollout
ROWS = 4  # of a step, in all processes


def ragged(kind: str, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of very different lengths: one word or eleven."""
    draw = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    def words(most: int) -> str:
        return " ".join(NUMBERS[number(0, 60)] for _ in range(number(1, most + 1)))

    def row() -> dict[str, Any]:
        if kind == "pairs":
            return {"prompt": words(8), "chosen": words(11), "rejected": words(11)}
        if kind == "rankings":  # of two to five, with ties
            k = number(2, 6)
            return {
                "prompt": words(8),
                "completions": [words(11) for _ in range(k)],
                "ratings": [5.0, *(float(number(0, 4)) for _ in range(k - 1))],
            }
        return {"prompt": words(8), "completion": words(11), "label": bool(number(0, 2))}

    return [row() for _ in range(n)]


class ScriptedSampler:
    """Completions that depend on the prompt and the call alone, not on the process or the place."""

    def __init__(self) -> None:
        self.calls = 0

    def sample(
        self, backbone: Backbone, role: str, prompts: Sequence[list[int]], sampling: Sampling
    ) -> list[Sample]:
        self.calls += 1
        eos = backbone.tokenizer.eos_token_id
        return [
            self.completion(prompt, k, sampling.max_new_tokens, eos)
            for prompt in prompts
            for k in range(sampling.num_samples)
        ]

    def completion(self, prompt: list[int], k: int, longest: int, eos: int) -> Sample:
        digest = hashlib.blake2b(repr((prompt, k)).encode(), digest_size=64).digest()
        length = 1 + digest[0] % longest
        ids = [3 + b % 60 for b in digest[1 : length + 1]]
        finished = length < longest
        return Sample([*ids, eos] if finished else ids, finished, [-4.0] * (length + finished))


class Case(NamedTuple):
    """A run of a method."""

    method: str
    rows: str = "pairs"
    options: Mapping[str, Any] = {}


ONLINE_OPTIONS = {
    "reward": low_numbers,
    "shaping": rlhf.Shaping(
        kl_coef=0.1, kl_target=1.0, kl_horizon=20, center=True, normalize=True, clip=2.0
    ),
}
GROUPS = {**ONLINE_OPTIONS, "sampling": Sampling(max_new_tokens=9, num_samples=3)}
SINGLE = {**ONLINE_OPTIONS, "sampling": Sampling(max_new_tokens=9)}
MIXED = [Term(dpo.dpo_loss), Term(dpo.chosen_nll_loss, weight=0.5)]
CASES = {
    "SFT": Case("sft"),
    "reward, pairs": Case("reward", options={"centering": 0.01}),
    "reward, rankings": Case("reward", "rankings"),
    "reward, Plackett-Luce": Case("reward", "rankings", {"ranking": "plackett_luce"}),
    "reward, ratings": Case("reward", "rankings", {"ranking": "rating"}),
    "DPO": Case("dpo"),
    "DPO, LD": Case("dpo", options={"ld_alpha": 0.5}),
    "DPO, length-normalized": Case("dpo", options={"loss": dpo.sigmoid_norm_loss}),
    "DPO with NLL": Case("dpo", options={"loss": MIXED}),
    "DPO, AOT": Case("dpo", options={"loss": dpo.aot_loss}),
    "DPO, WPO": Case("dpo", options={"wpo": True}),
    "KTO, labels": Case("kto", "labels", {"up_weight": 1.3}),
    "KTO, pairs": Case("kto"),
    "PPO": Case(
        "ppo",
        options={
            **SINGLE,
            "updates": rlhf.UpdateSchedule(epochs=2, entropy=0.01),
            "critic": rlhf.Critic(
                score_at="after", whiten_rewards=True, coef=0.5, warmup_updates=1
            ),
        },
    ),
    "PPO, head": Case(
        "ppo",
        options={
            **SINGLE,
            "updates": rlhf.UpdateSchedule(epochs=2),
            "critic": rlhf.Critic(kind="head"),
        },
    ),
    "GRPO": Case("grpo", options={**GROUPS, "updates": rlhf.UpdateSchedule(epochs=2)}),
    "GRPO, tokens": Case(
        "grpo",
        options={
            **GROUPS,
            "advantage": advantages.reinforce_pp_advantages,
            "loss_aggregation": "token",
            "kl": "reward",
            "updates": rlhf.UpdateSchedule(epochs=2, entropy=0.01),
        },
    ),
    "RLOO": Case(
        "rloo", options={**GROUPS, "updates": rlhf.UpdateSchedule(epochs=2, target_kl=0.5)}
    ),
}


class Watch(Callback):
    """Gradients as the optimizer gets them, what was logged at each step, and what was sent."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []
        self.logged: list[dict[str, float]] = []
        self.sent: list[int] = []  # bytes of each gathering in a step, without gradients

    def on_train_batch_start(self, *_: Any) -> None:
        self.gather = torch.distributed.all_gather

        def counted(into: list[torch.Tensor], values: torch.Tensor) -> None:
            self.sent.append(values.numel() * values.itemsize)
            self.gather(into, values)

        torch.distributed.all_gather = counted

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.parameters = pl_module._trained_parameters()
        module_hook = pl_module.on_before_optimizer_step

        def on_before_optimizer_step(optimizer: Any) -> None:
            module_hook(optimizer)
            self.look()

        pl_module.on_before_optimizer_step = on_before_optimizer_step

    def look(self) -> None:
        parts = [torch.zeros(p.numel()) if p.grad is None else p.grad for p in self.parameters]
        self.gradients.append(torch.cat([part.flatten().clone() for part in parts]))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        torch.distributed.all_gather = self.gather
        metrics = {n: float(v) for n, v in trainer.callback_metrics.items()}
        self.logged.append({n: v for n, v in metrics.items() if not n.startswith("val/")})


def make(name: str, base: str, eps: float, dropout: float) -> Any:
    case = CASES[name]
    seed_everything(0, verbose=False)
    options = dict(case.options)
    if case.method in ("ppo", "grpo", "rloo"):
        options["sampler"] = ScriptedSampler()
    adam = partial(torch.optim.Adam, eps=eps)
    backbone = Backbone(base, dtype="float32", lora=LoRA(r=4, dropout=dropout))
    return METHODS[case.method].module(backbone, lr=5e-3, optimizer=adam, **options)


def fit(
    folder: Path,
    rank: int,
    processes: int,
    *,
    name: str,
    base: str,
    saves: str,
    resume: str | None = None,
    eps: float = 1e-5,
    dropout: float = 0.0,
    rows: int = 5 * ROWS,
    source: str | None = None,
    data: dict[str, Any] | None = None,
    **trainer: Any,
) -> None:
    """Train one case for eight steps and write what came of it to ``saves.RANK.pt``.

    Args:
        folder: of checkpoints and results.
        rank: of this process.
        processes: number of them, which share the rows of a step.
        name: of the case.
        base: folder of the model.
        saves: name of the results.
        resume: checkpoint, by its name.
        eps: of Adam; an entry whose gradient is rounding alone does not move where it is larger.
        dropout: of LoRA.
        rows: number of them; five steps an epoch.
        source: a file to stream them from.
        data: further options of the data.
        **trainer: further flags.
    """
    case, watch = CASES[name], Watch()
    module = make(name, base, eps, dropout)
    online = case.method in ("ppo", "grpo", "rloo")
    options = {"batch_size": ROWS // processes, **(data or {})}
    held_out = ragged(case.rows, 6, seed=1)
    train = ragged(case.rows, rows) if source is None else f"stream:{folder / source}"
    given = METHODS[case.method].data(train, held_out, **options)
    every = SAVED_ONLINE if online else SAVED
    keep = ModelCheckpoint(
        folder / saves, every_n_train_steps=every, save_top_k=-1, filename="{step}"
    )
    flags = {
        "max_steps": STEPS, "max_epochs": -1, "val_check_interval": 5,
        "accelerator": "cpu", "logger": False,
        "enable_progress_bar": False, "enable_model_summary": False,
        "devices": processes, "strategy": "ddp" if processes > 1 else "auto",
        "default_root_dir": folder,
    }  # fmt: skip
    fitting = Trainer(**{**flags, **trainer}, callbacks=[watch, keep])
    fitting.fit(module, given, ckpt_path=str(folder / resume) if resume else None)
    result = {
        "weights": torch.cat([p.detach().flatten() for p in module._trained_parameters()]),
        "gradients": torch.stack(watch.gradients),
        "logged": watch.logged,
        "steps": fitting.global_step,
        "sent": watch.sent,
        "metrics": {n: float(v) for n, v in fitting.callback_metrics.items()},
    }
    if online:
        result["shaper"] = module._shaper.state_dict()
    torch.save(result, folder / f"{saves}.{rank}.pt")


def fit_all(folder: Path, rank: int, processes: int, *, runs: list[dict[str, Any]]) -> None:
    """Fit one run after another in the same processes."""
    for run in runs:
        fit(folder, rank, processes, **run)


def result(folder: Path, saves: str, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / f"{saves}.{rank}.pt", weights_only=True)
    return found
