"""Bad inputs of every kind: the first of what ``benchmarks/bad_inputs.py`` tries by thousands."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import datasets
import pytest

from data.conftest import byte_level
from input_kinds import ROWS, SURFACE, Kind, Place, outcome, prepared
from lightning_rlhf.data.tables import from_memory

COUNTS = {"configs": 4, "recipes": 12, "command_lines": 10, "row_files": 20, "damaged_files": 5,
          "overrides": 20, "row_lists": 25, "single_rows": 20}  # fmt: skip


@pytest.fixture(scope="module")
def place(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return prepared(tmp_path_factory.mktemp("inputs"), tiny_base, byte_level())


@pytest.mark.parametrize("kind", [*ROWS, *SURFACE], ids=lambda kind: kind.__name__)
def test_a_bad_input_is_used_or_refused_in_a_sentence(
    kind: Kind, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path(place.folder / "cache"))
    counts: Counter[str] = Counter()
    for seed in range(COUNTS.get(kind.__name__, 40)):
        found = outcome(kind, seed, place)
        assert found.word in ("used", "dropped", "refused"), (seed, found)
        counts[found.word] += 1
    assert counts["refused"]


@pytest.mark.parametrize("value", [2**70, -(10**400), [2**70], {"a": [-(2**64)]}])
def test_a_large_number_is_not_read_as_text(value: object) -> None:
    """It would be trained on: ``datasets`` returns JSON that it cannot read as it is written."""
    read = from_memory([{"a": value}, {"a": "text"}, {"a": 1}], "rows")[0]["a"]
    assert not isinstance(read, str) and type(read) in (float, type(value))
