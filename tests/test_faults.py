"""No fault gets further than a sentence, an honest exit status, and what was finished before."""

from __future__ import annotations

from pathlib import Path

import pytest

from fault_table import FAULTS, Fault, make_place, run_fault, verdict

QUICK = [fault for fault in FAULTS if fault.quick]


@pytest.fixture(scope="module")
def home(one_layer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    make_place(folder, Path(one_layer), recipe=False)
    return folder


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.name)
def test_a_fault_ends_in_its_sentence(home: Path, fault: Fault) -> None:
    outcome = run_fault(fault, home)
    assert verdict(fault, outcome) == "", outcome.said[-1500:]
