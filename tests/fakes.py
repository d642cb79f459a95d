"""An online module without a model: its metrics and rollouts are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch.utils.data import DataLoader

from lightning_rlhf.modules.samples import Table

COLUMNS = ["prompt", "completion", "score", "kl", "length", "finished"]
HEALTHY = {
    "objective/kl": 2.0,
    "objective/scores": 0.5,
    "objective/score_std": 0.4,
    "completions/mean_length": 20.0,
    "completions/eos_share": 0.95,
    "completions/distinct_2": 0.8,
    "policy/first_ratio_error": 1e-6,
    "policy/clipfrac": 0.08,
    "policy/approxkl": 0.01,
    "value/explained_variance": 0.3,
}


def rises(rollout: int) -> float:
    return 0.02 * rollout


ILL: dict[str, Callable[[int], dict[str, float]]] = {
    "not_finite": lambda i: {"objective/scores": float("nan") if i == 30 else 0.5},
    "negative_kl": lambda i: {"objective/kl": -0.3 + 0.05 * (i % 2)},
    "first_ratio": lambda i: {"policy/first_ratio_error": 0.02},
    "eos_falling": lambda i: {"completions/eos_share": 0.95 if i <= 15 else 0.6},
    "length_drifting": lambda i: {"completions/mean_length": 20.0 + i},
    "critic_useless": lambda i: {"value/explained_variance": -0.4},
    "clipping": lambda i: {"policy/clipfrac": 0.1 if i < 25 else 0.45},
    "update_too_large": lambda i: {"policy/approxkl": 0.01 if i < 25 else 0.3},
    "kl_over_budget": lambda i: {"objective/kl": 2.5 * i},
    "reward_saturating": lambda i: {
        "objective/scores": rises(i),
        "objective/score_std": 0.4 if i <= 15 else 0.01,
    },
    "reward_hacking": lambda i: {
        "objective/scores": rises(i),
        "completions/distinct_2": 0.8 if i <= 15 else 0.4,
    },
}


def figures(name: str, rollout: int) -> dict[str, float]:
    """Metrics of a rollout, counted from 1, in a run with one illness."""
    return {**HEALTHY, **ILL[name](rollout)}


class FakeOnline(LightningModule):
    """Two updates per rollout; its metrics and texts depend on the rollout's number alone."""

    def __init__(self, log: Callable[[int], dict[str, float]] | None = None, updates: int = 2):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.figures = log or (lambda rollout: HEALTHY)
        self.updates = updates
        self.rollouts_made = 0
        self.left = 0
        self.pending = False  # as OnlineModule's

    def train_dataloader(self) -> Any:
        return DataLoader(torch.zeros(8, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.left == 0:
            self.rollouts_made += 1
            self.left = self.updates
        self.left -= 1
        self.pending = True
        self.log_dict(self.figures(self.rollouts_made))
        return self.weight.sum()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.pending = False

    def rollout_table(self) -> Table:
        rollout = self.rollouts_made
        generator = torch.Generator().manual_seed(1000 * self.global_rank + rollout)
        lengths = torch.randint(1, 6, (rollout % 3 + 1,), generator=generator).tolist()
        rows = [[f"p{rollout}", "é\n" * n, n / 4, 0.1 * n, n, n < 5] for n in lengths]
        return Table(COLUMNS, rows)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["fake"] = {
            "made": self.rollouts_made,
            "left": self.left + self.pending,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.rollouts_made = checkpoint["fake"]["made"]
        self.left = checkpoint["fake"]["left"]


class Killed(Exception):
    pass
