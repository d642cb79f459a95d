"""A run that kills itself where it is told to, resumed until it is through.

    python tests/killed.py JOB.json

Each leg is a process of its own, forked from one that has imported everything and computed nothing:
so a leg costs its steps, and not its imports.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_rlhf import (
    Backbone,
    LoRA,
    PPOModule,
    PromptData,
    RLOOModule,
    Sampling,
    Shaping,
    Updates,
    Value,
)
from lightning_rlhf.cli.main import quiet
from lightning_rlhf.modules.online import OnlineModule
from support import number_pairs


class Kill(NamedTuple):
    """When a process dies."""

    phase: str  # "_sample", "_score" or "update_loss"
    call: int  # of this process, from 1
    done: bool  # after the phase's work, and not before it


class Job(NamedTuple):
    """What a test asks for."""

    base: str
    reward: str  # folder of a reward role
    folder: str
    method: str
    kills: list[list[Any]]


def low_numbers(prompts: list[str], completions: list[str], rows: list[dict]) -> list[float]:
    """Share of words below 25, and a little for an answer that begins as its prompt does."""
    scores = []
    for prompt, completion in zip(prompts, completions, strict=True):
        numbers = [int(word[1:]) for word in completion.split() if word[1:].isdigit()]
        copied = completion.split()[:1] == prompt.split()[:1]
        scores.append(sum(n < 25 for n in numbers) / max(1, len(numbers)) + 0.5 * copied)
    return scores


def make(job: Job) -> OnlineModule:
    """A module with everything in it that a checkpoint must carry."""
    sampling = Sampling(max_new_tokens=6, num_samples=2)
    shaping = Shaping(kl_target=0.5, kl_horizon=50, centre=True, normalize=True, clip=3.0)
    backbone = Backbone(job.base, lora=LoRA(r=4), dtype="float32", adapters={"reward": job.reward})
    if job.method == "rloo":
        backbone.adapters.clear()
        updates = Updates(epochs=2, minibatches=2, target_kl=0.1)
        return RLOOModule(backbone, low_numbers, sampling, shaping, updates, lr=1e-2)
    return PPOModule(
        backbone, sampling=sampling, shaping=shaping, updates=Updates(epochs=2, minibatches=2),
        value=Value(warmup_updates=3, lr=5e-3), lr=1e-2,
    )  # fmt: skip


def leg(job: Job, name: str, kill: Kill | None) -> None:
    """From the newest checkpoint of a name to the end, or to the kill."""
    torch.set_num_threads(1)
    home = Path(job.folder) / name
    found = sorted(home.glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    seed_everything(len(found), verbose=False)  # what came before a resume must not matter
    module = make(job)
    if kill is not None:
        setattr(module, kill.phase, deadly(getattr(module, kill.phase), kill))
    trainer = Trainer(
        max_steps=48, max_epochs=-1, accelerator="cpu", logger=False, gradient_clip_val=1.0,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ModelCheckpoint(home, every_n_train_steps=3, save_top_k=-1, filename="{step}")],
    )  # fmt: skip
    data = PromptData(number_pairs(20), val_fraction=0.0, batch_size=4)
    trainer.fit(module, data, ckpt_path=str(found[-1]) if found else None)
    weights = {
        f"{role}.{i}": p.detach().clone()
        for role in module.trained
        for i, p in enumerate(module.backbone.role_parameters(role))
    }
    state = {"kl": module._kl.coef, "moments": module._moments.state_dict()}
    torch.save({"weights": weights, **state}, home / "end.pt")


def deadly(work: Callable[..., Any], kill: Kill) -> Callable[..., Any]:
    """Work in which one call ends the process, as a power cut would."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == kill.call and not kill.done:
            os.kill(os.getpid(), signal.SIGKILL)
        result = work(*args, **kwargs)
        if calls == kill.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


def forked(work: Callable[[], None]) -> int:
    """How a process that does the work ended: 0, or minus the signal that killed it."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main(file: str) -> None:
    quiet()
    job = Job(**json.loads(Path(file).read_text()))
    ends = [forked(lambda: leg(job, "whole", None))]
    for kill in [*(Kill(*k) for k in job.kills), None]:
        ends.append(forked(lambda kill=kill: leg(job, "killed", kill)))  # type: ignore[misc]
    Path(job.folder, "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(sys.argv[1])
