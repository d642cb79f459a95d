"""Reward modeling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.classification import BinaryCalibrationError

from lightning_rlhf.batches import PreferenceBatch, RankingBatch
from lightning_rlhf.data.collate import (
    example_rows,
    preference_batch,
    ranking_batch,
    token_batch,
)
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.functional.loss import Loss
from lightning_rlhf.functional.reward import (
    ordered_pairs,
    plackett_luce_loss,
    ranking_loss,
    rating_loss,
    reward_loss,
)
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.layout import unpacked
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.modules.samples import Table
from lightning_rlhf.training.optim import OptimizerOptions, Unpack

REWARD = "reward"


class RewardModule(AlignmentModule):
    """A scalar reward from preferences: an adapter and an fp32 head, read at the last real token.

    Pairs train Bradley-Terry (margins and soft labels where the rows have them); rankings of K
    train the loss named by ``ranking``.

    Args:
        backbone: the base and its roles.
        centering: weight of the pull of a pair's rewards to a sum of 0; 0.01 keeps rewards near 0.
        ranking: for rows of K: "pairs" (every ordered pair, InstructGPT), "plackett_luce", or
            "rating" (regress to the rows' ratings).
        lr: peak learning rate.
        **optim: ``warmup``, ``optimizer`` and ``lr_scheduler``, see ``AlignmentModule``.
    """

    trained = (REWARD,)
    row_completions = None

    def __init__(
        self,
        backbone: Backbone,
        centering: float = 0.0,
        ranking: Literal["pairs", "plackett_luce", "rating"] = "pairs",
        *,
        lr: float = 1e-4,
        **optim: Unpack[OptimizerOptions],
    ):
        super().__init__(backbone, lr=lr, **optim)
        self.centering = centering
        self.ranking = ranking
        self.calibration = BinaryCalibrationError(n_bins=10)

    def add_roles(self) -> None:
        self.backbone.add_role(REWARD, head=True)

    def objective(self, batch: PreferenceBatch | RankingBatch) -> Loss:
        scores = self.backbone.scores(batch.tokens, REWARD)
        if isinstance(batch, RankingBatch):
            loss = self._rank(scores, batch)
            better, worse = ordered_pairs(batch.group, batch.rank)
        else:
            better, worse = batch.chosen, batch.rejected
            loss = reward_loss(
                scores[better],
                scores[worse],
                margin=batch.margin,
                label=batch.label,
                centering=self.centering,
            )
        if not self.training:
            self._calibrate(scores[better] - scores[worse])
        return loss

    def _rank(self, scores: Tensor, batch: RankingBatch) -> Loss:
        if self.ranking == "pairs":
            return ranking_loss(scores, batch.group, batch.rank)
        if self.ranking == "plackett_luce":
            return plackett_luce_loss(scores, batch.group, batch.rank)
        if batch.rating is None:
            raise ValueError(
                'ranking="rating" needs rows with ratings; these have ranks only: use "pairs"'
            )
        return rating_loss(scores, batch.rating)

    def _calibrate(self, margin: Tensor) -> None:
        """Update the folded calibration: confidence against accuracy.

        P(chosen) against all-ones would call a perfectly calibrated model wrong.
        """
        self.calibration.update(margin.detach().abs().sigmoid(), (margin > 0).long())

    def example_batch(self, groups: Sequence[Sequence[int]]) -> PreferenceBatch | RankingBatch:
        pairs = all(len(group) == 3 for group in groups)
        return (preference_batch if pairs else ranking_batch)(example_rows(groups))

    def batch_weight(self, batch: PreferenceBatch | RankingBatch) -> int:
        if isinstance(batch, RankingBatch):
            return int(batch.group[-1]) + 1
        return len(batch.chosen)

    def on_validation_epoch_end(self) -> None:
        self._log_calibration("val")

    def on_test_epoch_end(self) -> None:
        self._log_calibration("test")

    def _log_calibration(self, stage: str) -> None:
        if self.calibration.update_called:
            self.log(f"{stage}/calibration_error", self.calibration.compute(), sync_dist=True)
            self.calibration.reset()

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Any]]:
        """Score completions: a row of text and score for each."""
        if not isinstance(batch, PreferenceBatch | RankingBatch):
            raise ValueError(f"RewardModule scores PreferenceData, not {type(batch).__name__}")
        tokens = unpacked(batch.tokens)
        scores = self.backbone.scores(batch.tokens, REWARD).tolist()
        texts = [
            self.decode(ids[mask].tolist())
            for ids, mask in zip(tokens.input_ids, tokens.attention_mask, strict=True)
        ]
        return [{"text": t, "score": s} for t, s in zip(texts, scores, strict=True)]

    @torch.no_grad()
    def sample_table(self, data: RowsData, n: int, max_new_tokens: int) -> Table:
        """Scores of the first n held-out rows."""
        rows = data.sample_rows(n)
        tokens = token_batch(rows)
        tokens = self.transfer_batch_to_device(tokens, self.device, 0)
        scores = iter(self.backbone.scores(tokens, REWARD).tolist())
        table = [
            [self.decode(row.prompt_ids), self.decode(ids[:max_new_tokens]), rank, next(scores)]
            for row in rows
            for ids, rank in zip(row.completion_ids, row.ranks, strict=True)
        ]
        return Table(["prompt", "completion", "rank", "score"], table)
