"""The loss of supervised fine-tuning."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_rlhf.functional.sft import sft_loss


def test_sft_loss_is_a_mean_over_tokens() -> None:
    loss = sft_loss(torch.tensor([-1.0, -2.0, -6.0]))
    assert loss.value == 3
    assert loss.metrics["perplexity"].item() == pytest.approx(math.exp(3))
