"""Stopped anywhere, a fit leaves its last whole step, and goes on to the same bits."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_rlhf.callbacks import SaveOnStop, SaveRoles
from lightning_rlhf.cli.main import how_to_go_on
from lightning_rlhf.training.step_guard import NotFinite
from lightning_rlhf.training.stopping import Stopped
from runs import Runs


class Broken(Exception):
    pass


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Tests that were started in the background of a shell ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def runs(light: Runs) -> Runs:
    return light


def options(folder: Path, **more: Any) -> dict[str, Any]:
    saver = ModelCheckpoint(folder, save_top_k=0, every_n_train_steps=1000)
    return {
        "max_epochs": 2,
        "enable_checkpointing": True,
        "callbacks": [SaveOnStop(), saver],
        **more,
    }


# what is wrapped, whether it has run when the fault comes, the call at which it comes
MOMENTS = [("training_step", True, 6), ("backward", True, 5)]


@pytest.mark.parametrize(
    ("method", "moment", "fault", "accumulate"),
    [
        ("sft", MOMENTS[0], "error", 3),
        ("dpo", MOMENTS[1], "SIGTERM", 1),
        ("kto", MOMENTS[0], "nan", 1),
        ("grpo", ("_score", False, 5), "SIGINT", 1),
    ],
)
def test_a_stopped_fit_goes_on_to_the_same_bits(
    runs: Runs, method: str, moment: tuple[str, bool, int], fault: str, accumulate: int
) -> None:
    more = {"accumulate_grad_batches": accumulate}
    rows = 24
    whole, data = runs.make(method, rows=rows)
    runs.trainer(**options(runs.folder / "a", **more)).fit(whole, data)

    stopped, data = runs.make(method, rows=rows)
    name, has_run, at = moment
    work, calls = getattr(stopped, name), [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] != at:
            return work(*args, **kwargs)
        result = work(*args, **kwargs) if has_run else None
        if fault == "error":
            raise Broken
        if fault == "nan":
            return result * float("nan")
        for _ in range(1 if has_run else 2):  # the second one does not wait for the step
            os.kill(os.getpid(), getattr(signal, fault))
        return result

    setattr(stopped, name, wrapped)
    raised = {"error": Broken, "nan": NotFinite}.get(fault, Stopped)
    with pytest.raises(raised) as error:
        runs.trainer(**options(runs.folder / "b", **more)).fit(stopped, data)
    with pytest.raises(KeyboardInterrupt):  # signals are again whose they were
        os.kill(os.getpid(), signal.SIGINT)
    (saved,) = (runs.folder / "b").glob("stopped-step=*.ckpt")
    if raised is Stopped:
        assert error.value.code == {"SIGTERM": 143, "SIGINT": 130}[fault]
        assert error.value.checkpoint == saved

    resumed, data = runs.make(method, rows=rows)
    torch.manual_seed(5)
    runs.trainer(**options(runs.folder / "c", **more)).fit(resumed, data, ckpt_path=str(saved))
    expected, found = runs.weights(whole), runs.weights(resumed)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_no_role_is_saved_of_weights_that_are_not_finite(runs: Runs) -> None:
    module, data = runs.make("sft", rows=12)
    trainer = runs.trainer(max_steps=1, callbacks=[SaveRoles(str(runs.folder / "roles"))])

    def spoil(*_: Any) -> None:
        with torch.no_grad():
            module.backbone.role_parameters("policy")[0].fill_(float("inf"))

    module.on_train_end = spoil  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="the policy holds NaN or infinite weights"):
        trainer.fit(module, data)
    assert not (runs.folder / "roles" / "policy").exists()


def test_the_command_that_goes_on_is_exact() -> None:
    stopped = Stopped(signal.SIGTERM)
    stopped.checkpoint = Path("a b/stopped-step=3.ckpt")
    typed = ["fit", "--config", "x.yaml", "--ckpt_path=old.ckpt", "--trainer.max_steps", "3"]
    assert how_to_go_on(stopped, typed).endswith(
        "go on with: lightning-rlhf fit --config x.yaml --trainer.max_steps 3 "
        "--ckpt_path 'a b/stopped-step=3.ckpt'"
    )
    typed = ["run", "r.yaml", "--from", "sft", "--set", "seed=1"]
    assert how_to_go_on(stopped, typed).endswith("with: lightning-rlhf run r.yaml --set seed=1")
    assert stopped.code == 143
    again = how_to_go_on(Stopped(signal.SIGINT), ["fit", "--config", "x.yaml"])
    assert again == "stopped by Ctrl-C; start again with: lightning-rlhf fit --config x.yaml"
