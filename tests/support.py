"""Functions and data that tests share, beside fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_rlhf.constitution.principles import Constitution, Principle

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
