"""From token log-probs to pairs, and from pairs to one loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_rlhf.functional import dpo
from lightning_rlhf.functional.pairs import completion_sums, preference_loss, reward_metrics
from support import some_pairs


def test_soft_labels_are_cdpo() -> None:
    pairs, p = some_pairs(4), torch.tensor([1.0, 0.7, 0.5, 0.2], dtype=torch.float64)
    mixed = preference_loss(pairs, 0.1, [(1, dpo.dpo_loss)], label=p).value
    x = 0.1 * pairs.delta
    by_hand = -(p * F.logsigmoid(x) + (1 - p) * F.logsigmoid(-x)).mean()
    torch.testing.assert_close(mixed, by_hand)


def test_losses_across_pairs_refuse_soft_labels() -> None:
    with pytest.raises(ValueError, match="aot_loss compares across pairs"):
        preference_loss(some_pairs(2), 0.1, [(1, dpo.aot_loss)], label=torch.tensor([0.5, 1.0]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=8), st.floats(0, 1), st.integers(0, 99))
def test_completion_sums_against_a_double_loop(lengths: list[int], alpha: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logprobs = torch.randn(sum(lengths), generator=g, dtype=torch.float64)
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    short = torch.randint(1, 7, (len(lengths),), generator=g)
    wanted = [
        sum(float(lp) * (1.0 if t < s else alpha) for t, lp in enumerate(part))
        for part, s in zip(logprobs.split(lengths), short, strict=True)
    ]
    found = completion_sums(logprobs, sequence, len(lengths), short, alpha)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_a_tie_counts_as_wrong() -> None:
    pairs = some_pairs(4, same=True)
    assert reward_metrics(pairs, 0.1)["rewards/accuracies"] == 0
