"""docs/constitution.md: its Python runs, and its YAML is a constitution."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.constitution.gates import Gates
from lightning_rlhf.constitution.readers import load

PAGE = (Path(__file__).parents[2] / "docs" / "constitution.md").read_text()


def test_the_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (lines,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    scope: dict[str, Any] = {}
    exec(lines, scope)
    assert "the judge answers A in both orders of every pair" in capsys.readouterr().out
    assert len(scope["rows"]) == 4 and scope["labels"][0]["label"] == 0.5


def test_the_yaml_is_a_constitution(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (tmp_path / "mine.yaml").write_text(text)
    (principle,) = load(tmp_path / "mine.yaml").principles
    assert principle.id == "respect" and principle.weight == 2


def test_every_gate_is_on_the_page() -> None:
    for gate in Gates().limits:
        assert f"| `{gate}` |" in PAGE
