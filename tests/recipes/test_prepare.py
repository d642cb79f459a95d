"""A recipe is checked before anything runs, and a mistake carries the stage's name."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lightning_rlhf.recipes.prepare import PreparedStage, naming_stage, prepare, quiet_lightning
from lightning_rlhf.recipes.recipe import Stage, read_recipe

RECIPE = """
folder: runs/x
seed: 4
stages:
  - {name: one, call: recipe_parts.write_number, outputs: {number: number.txt}}
  - {name: two, call: recipe_parts.double, args: {source: "{one.number}"}}
  - {name: three, call: recipe_parts.double, args: {source: "{folder}/x{seed}"}, needs: [two]}
"""


def prepared(folder: Path, text: str = RECIPE) -> dict[str, PreparedStage]:
    file = folder / "recipe.yaml"
    file.write_text(text)
    return {stage.name: stage for stage in prepare(read_recipe(file))}


def test_references_and_needs_are_dependencies(tmp_path: Path) -> None:
    stages = prepared(tmp_path)
    assert {name: stage.after for name, stage in stages.items()} == {
        "one": [], "two": ["one"], "three": ["two"],
    }  # fmt: skip
    assert stages["two"].spec["args"] == {"source": "runs/x/one/number.txt"}
    assert stages["three"].spec["args"] == {"source": "runs/x/x4"}
    assert stages["one"].outputs == {"number": "runs/x/one/number.txt"}
    assert not Path("runs/x").exists()


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("needs: [two]", "needs: [four]", "stage three: needs: there is no stage four before"),
        ("needs: [two]", "about: three", "stage three: about: there is no stage three before"),
        ("{one.number}", "{one.nmber}", r"stage two: .*did you mean one\.number\?"),
        ("{one.number}", "{three.x}", "stage two: .* refer to a stage before this one"),
        ("outputs: {number: number.txt}", "seed: 1", "stage two: .*no stage before it has outputs"),
        ('args: {source: "{one.number}"}', "seed: 1", "stage two: source .*missing"),
    ],
)
def test_a_mistake_names_its_stage(before: str, after: str, sentence: str, tmp_path: Path) -> None:
    assert RECIPE.count(before) == 1
    with pytest.raises(ValueError, match=sentence):
        prepared(tmp_path, RECIPE.replace(before, after))


def test_lightning_is_quiet_only_inside() -> None:
    logger = logging.getLogger("pytorch_lightning")
    before = logger.level
    with quiet_lightning():
        assert logger.level == logging.WARNING
    assert logger.level == before


GATE = Stage("gate", "call", {"call": "some.function"})
SFT = Stage("sft", "fit", {})


@pytest.mark.parametrize(
    ("stage", "error", "message"),
    [
        (GATE, ValueError("too few"), "^stage gate: too few$"),
        (GATE, KeyError("a fault"), "^'a fault'$"),
        (SFT, ValueError("too few"), "^too few$"),  # raised by neither us nor Lightning: a fault
    ],
)
def test_a_gate_stops_a_recipe_by_its_message_and_a_fault_by_a_traceback(
    stage: Stage, error: Exception, message: str
) -> None:
    with pytest.raises(type(error), match=message), naming_stage(stage, Path("recipe.yaml")):
        raise error
