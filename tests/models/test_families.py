"""A family of models behaves as every other: the whole table is `make bench-families`."""

from __future__ import annotations

from pathlib import Path

import pytest

from families import COLUMNS, families, walk

# attention, fused experts, latent attention, state spaces, a recurrence without a mask, Conv1D
KINDS = ["qwen3_moe", "deepseek_v3", "mamba", "rwkv", "gpt2", "llama4_text"]


@pytest.mark.parametrize("family", KINDS)
def test_every_method_and_every_form_of_saving(family: str, tmp_path: Path) -> None:
    cells = walk(family, tmp_path)
    assert set(cells) == set(COLUMNS)
    broken = {column: text for column, text in cells.items() if text.startswith("broken")}
    assert not broken
    refused = {c for c, text in cells.items() if text.startswith("refused")}
    assert refused <= {"classifier", "planned", "nf4"}
    for column in ("saved", "gap"):
        assert float(cells[column]) < 1e-3


def test_the_families_are_many() -> None:
    assert len(families()) > 100
