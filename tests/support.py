"""What tests share beside fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[2] / "shared"
NUMBERS = [f"w{i}" for i in range(60)]


def shared(path: str) -> Path:
    """A file that lies beside some checkouts; the test that wants it skips elsewhere."""
    file = SHARED / path
    if not file.exists():
        pytest.skip(f"needs shared/{path} beside the checkout")
    return file


def number_pairs(n: int, seed: int = 0) -> list[dict[str, str]]:
    """Pairs a tiny model learns at once: the better answer repeats the prompt's last word."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    while len(rows) < n:
        length = int(torch.randint(2, 6, (1,), generator=generator))
        words = [NUMBERS[i] for i in torch.randint(0, 50, (length + 1,), generator=generator)]
        *prompt, other = words
        good = " ".join([prompt[-1]] * 2)
        bad = " ".join([other] * int(torch.randint(1, 5, (1,), generator=generator)))
        if good != bad:
            rows.append({"prompt": " ".join(prompt), "chosen": good, "rejected": bad})
    return rows
