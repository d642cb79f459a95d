"""Every configuration builds its module, data and Trainer, alone and under overlays."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_rlhf.callbacks import SampleTable, SaveRoles
from lightning_rlhf.parsing.parser import AlignmentCLI, cli_options
from lightning_rlhf.recipes.prepare import prepare
from lightning_rlhf.recipes.recipe import read_recipe
from methods import TITLES

CONFIGS = Path(__file__).parents[1] / "configs"
FOUND = sorted(CONFIGS.glob("*.yaml"))
CARDS = sorted((CONFIGS / "cards").glob("*.yaml"))
RECIPES = [c for c in FOUND if "\nstages:" in c.read_text()]
RUNNABLE = [c for c in FOUND if "class_path: lightning_rlhf" in c.read_text() and c not in RECIPES]

TRAINED = {
    "rlhf": ["sft", "reward", "ppo"],
    "constitutional": ["start", "sl", "dpo"],
    "smollm2_constitutional": ["sl", "dpo"],
}


def build(*args: str) -> AlignmentCLI:
    return AlignmentCLI(
        LightningModule, LightningDataModule, **{**cli_options(), "run": False}, args=list(args)
    )


def with_configs(*configs: Path) -> list[str]:
    return [f"--config={c}" for c in configs]


@pytest.mark.parametrize("config", RUNNABLE, ids=lambda c: c.stem)
def test_builds(config: Path) -> None:
    accelerator = ["--trainer.accelerator=cpu"] if "gb" in config.stem else []  # no GPU here
    cli = build(*with_configs(config), *accelerator)
    method = next(part for part in config.stem.split("_") if part in TITLES)
    assert type(cli.model).__name__ == TITLES[method]
    assert not cli.model.backbone.is_loaded  # a description costs nothing
    kinds = {type(c) for c in cli.trainer.callbacks}
    assert {SampleTable, SaveRoles, ModelCheckpoint} <= kinds


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda c: c.stem)
def test_every_stage_of_a_recipe_builds(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text('{"prompt": "why ?"}\n')  # the user's own
    stages = prepare(read_recipe(recipe, ["folder=run"]))
    fits = [stage.name for stage in stages if stage.stage.verb == "fit"]
    assert fits == TRAINED[recipe.stem]
    assert any(stage.after for stage in stages)
    assert not Path("run").exists()


@pytest.mark.parametrize("card", CARDS, ids=lambda c: c.stem)
@pytest.mark.parametrize("method", TITLES)
def test_cards_lie_over_any_method(method: str, card: Path) -> None:
    # a GPU cannot be built here: the Trainer's accelerator is the one value put back
    cli = build(
        *with_configs(CONFIGS / f"{method}.yaml", card), "--trainer.accelerator=cpu",
    )  # fmt: skip
    assert type(cli.model).__name__ == TITLES[method]
    assert cli.model.backbone.quantization == "nf4"
    assert cli.model.backbone.lora is not None
    assert cli.datamodule.max_tokens * cli.trainer.accumulate_grad_batches == 16384


def test_swap_by_class_path_and_loss_by_name() -> None:
    config = with_configs(CONFIGS / "dpo.yaml")
    cli = build(*config, "--model.loss=lightning_rlhf.functional.dpo.ipo_loss", "--model.beta=0.2")
    assert cli.model.loss.__name__ == "ipo_loss"
    assert cli.model.beta == 0.2
    optimizer = build(
        *config, "--model.optimizer=torch.optim.SGD", "--model.optimizer.momentum=0.5"
    )
    assert optimizer.model.optimizer is not None


def test_dpo_becomes_ppo_by_class_path() -> None:
    """The same config, another module and data by name, and PPO's own arguments."""
    cli = build(
        *with_configs(CONFIGS / "dpo.yaml"),
        "--model=lightning_rlhf.PPOModule", "--data=lightning_rlhf.PromptData",
        "--model.reward=os.path.join", "--model.critic.kind=head",
        "--model.sampling.max_new_tokens=24", "--model.updates.minibatches=2",
    )  # fmt: skip
    assert type(cli.model).__name__ == "PPOModule"
    assert type(cli.datamodule).__name__ == "PromptData"
    assert cli.model.sampling.max_new_tokens == 24
    assert cli.model.updates_per_rollout == 8
    assert cli.model.backbone.name_or_path == "runs/quickstart/sft/policy"
    assert [r.name for r in cli.model.rewards] == ["join"]


def test_a_mix_of_losses_in_yaml(tmp_path: Path) -> None:
    overlay = tmp_path / "mix.yaml"
    overlay.write_text(
        """
model:
  init_args:
    loss:
      - {loss: lightning_rlhf.functional.dpo.dpo_loss, weight: 0.8}
      - loss: lightning_rlhf.functional.dpo.robust_loss
        weight: 0.2
        options: {label_smoothing: 0.2}
    divergence:
      class_path: lightning_rlhf.functional.divergences.AlphaDivergence
      init_args: {alpha: 0.3}
"""
    )
    cli = build(*with_configs(CONFIGS / "dpo.yaml", overlay))
    assert [share for share, _ in cli.model.terms] == [0.8, 0.2]
    assert cli.model.divergence.alpha == 0.3


def test_wandb_overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    cli = build(*with_configs(CONFIGS / "dpo.yaml", CONFIGS / "wandb.yaml"))
    assert type(cli.trainer.logger).__name__ == "WandbLogger"


def test_the_seed_of_a_recipe_reaches_what_draws_by_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a number: a draw from "7" is another than one from 7."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text('{"prompt": "why ?"}\n')
    stages = prepare(read_recipe(CONFIGS / "smollm2_constitutional.yaml", ["seed=7"]))
    models = {s.name: s.spec["model"]["init_args"] for s in stages if "model" in s.spec}
    assert models["critique"]["loop"]["init_args"]["seed"] == 7
    assert models["labels"]["feedback"]["init_args"]["seed"] == 7
