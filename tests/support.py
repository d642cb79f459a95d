"""Functions and data that tests share, beside fixtures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.constitution.principles import Constitution, Principle
from lightning_rlhf.functional.pairs import PairLogprobs

SHARED = Path(__file__).parents[2] / "shared"
NUMBERS = [f"w{i}" for i in range(60)]
RULES = Constitution(  # in the words of the tiny base
    "tiny",
    "1",
    tuple(Principle(f"p{i}", f"w{i}", f"w{i + 1}", comparison=f"w{i + 2}") for i in range(4)),
)


def shared(path: str) -> Path:
    """Find a file that lies beside some checkouts; skip the test where it is missing."""
    file = SHARED / path
    if not file.exists():
        pytest.skip(f"needs shared/{path} beside the checkout")
    return file


def number_pairs(n: int, seed: int = 0) -> list[dict[str, str]]:
    """Pairs that a tiny model learns at once: low numbers are chosen, high ones rejected."""
    generator = torch.Generator().manual_seed(seed)

    def words(low: int, high: int) -> str:
        length = int(torch.randint(2, 5, (1,), generator=generator))
        numbers = torch.randint(low, high, (length,), generator=generator)
        return " ".join(NUMBERS[i] for i in numbers)

    return [
        {"prompt": words(0, 50), "chosen": words(0, 25), "rejected": words(25, 50)}
        for _ in range(n)
    ]


def pad_rows(sequences: Sequence[tuple[list[int], list[bool]]], pad_id: int) -> TokenBatch:
    """Lay out one sequence per row, padded on the right: the reference for packed batches.

    Padding is told by length, not by id, so that pad == eos loses no end token.

    Args:
        sequences: (ids, loss mask) of each row; the first token has no predictor.
        pad_id: fills up rows.
    """
    length = max(len(ids) for ids, _ in sequences)
    input_ids = torch.full((len(sequences), length), pad_id, dtype=torch.long)
    attention = torch.zeros(len(sequences), length, dtype=torch.bool)
    masked = torch.zeros(len(sequences), length, dtype=torch.bool)
    for row, (ids, loss_mask) in enumerate(sequences):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        attention[row, : len(ids)] = True
        masked[row, 1 : len(ids)] = torch.tensor(loss_mask[1:], dtype=torch.bool)
    sequence, place = masked.nonzero(as_tuple=True)
    lengths = attention.sum(1)
    return TokenBatch(
        input_ids=input_ids,
        attention_mask=attention,
        position_ids=torch.arange(length).repeat(len(sequences), 1),
        predictor_index=sequence * length + place - 1,
        target_ids=input_ids[sequence, place],
        completion_index=sequence,
        last_index=torch.arange(len(sequences)) * length + lengths - 1,
    )


def some_pairs(n: int = 4, seed: int = 0, same: bool = False) -> PairLogprobs:
    """Draw log-probs of n pairs; with ``same`` the reference is the policy."""
    g = torch.Generator().manual_seed(seed)
    c, r, rc, rr = (-10 * torch.rand(4, n, generator=g, dtype=torch.float64) - 0.5).unbind()
    lengths = torch.randint(1, 9, (2, n), generator=g)
    return PairLogprobs(c, r, c if same else rc, r if same else rr, *lengths.unbind())
