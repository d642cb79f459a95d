"""A recipe as it is written: defaults, overrides, and the mistakes that are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.recipes.recipe import Recipe, merge, read_recipe, set_dotted

STAGES = """
defaults:
  trainer: {max_steps: 5, accelerator: cpu}
stages:
  - {name: rows, call: some.function, args: {n: 3}}
  - name: sft
    model: {class_path: some.Module, init_args: {lr: 1e-3}}
    data: {source: {rows.pairs}}
    trainer: {max_steps: 7}
"""


def written(folder: Path, text: str = STAGES, *overrides: str) -> Recipe:
    file = folder / "small.yaml"
    file.write_text(text)
    return read_recipe(file, list(overrides))


def test_names_and_places_have_defaults(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    assert (recipe.folder, recipe.seed, recipe.title) == (Path("runs/small"), 0, "small")
    assert [(s.name, s.verb) for s in recipe.stages] == [("rows", "call"), ("sft", "fit")]


def test_defaults_lie_under_stages_of_a_trainer_alone(tmp_path: Path) -> None:
    rows, sft = written(tmp_path).stages
    assert "trainer" not in rows.spec
    assert sft.spec["trainer"] == {"max_steps": 7, "accelerator": "cpu"}


def test_a_number_and_a_reference_are_read_as_such(tmp_path: Path) -> None:
    sft = written(tmp_path).stages[1]
    assert sft.spec["model"]["init_args"]["lr"] == 1e-3
    assert sft.spec["data"]["source"] == "{rows.pairs}"  # though YAML reads a mapping


def test_overrides_go_by_the_names_of_stages(tmp_path: Path) -> None:
    recipe = written(
        tmp_path, STAGES, "folder=elsewhere", "stages.sft.trainer.max_steps=9",
        "stages.sft.model.lr=1e-4", "stages.rows.args.n=8", "defaults.trainer.devices=1",
    )  # fmt: skip
    rows, sft = recipe.stages
    assert recipe.folder == Path("elsewhere") and rows.spec["args"] == {"n": 8}
    assert sft.spec["trainer"] == {"max_steps": 9, "accelerator": "cpu", "devices": 1}
    assert sft.spec["model"]["init_args"] == {"lr": 1e-4}  # init_args may be left out


@pytest.mark.parametrize(
    ("under", "over", "expected"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),  # lists are not merged
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        (1, {"a": 2}, {"a": 2}),
    ],
)
def test_merging_is_deep_and_the_upper_value_counts(under: Any, over: Any, expected: Any) -> None:
    assert merge(under, over) == expected


def test_merging_shares_nothing_with_its_parts() -> None:
    under: dict[str, Any] = {"a": {"b": [1]}}
    merge(under, {})["a"]["b"].append(2)
    assert under == {"a": {"b": [1]}}


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("stages.sft.trainer.max_steps", "NAME=VALUE"),
        ("stages.sftt.trainer.max_steps=1", "sftt.*sft"),
        ("stages.sft=1", r"stages\.sft\.trainer\.max_steps"),
        ("seed.a=1", "seed.*a"),
    ],
)
def test_overrides_that_cannot_be_set_are_named(override: str, named: str) -> None:
    recipe = {"seed": 3, "stages": [{"name": "sft", "trainer": {}}]}
    with pytest.raises(ValueError, match=f"--set {override.split('=')[0]}.*{named}"):
        set_dotted(recipe, override)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("name: sft", "name: rows", "two stages .* rows"),
        ("name: sft", "name: s-ft", "s-ft"),
        ("name: sft", "nam: sft", "stage 2"),
        ("    data:", "    dat:", "sft.*dat.*data"),
        ("    data: {source: {rows.pairs}}\n", "", "sft.*fit needs `data:`"),
        ("args: {n: 3}", "args: [3]", r"rows.*args.*dict.*\[3\]"),
        ("args: {n: 3}", "trainer: {}", "rows.*call.*`trainer:`"),
        ("    trainer: {max_steps: 7}", "    ckpt_path: x", "sft.*`ckpt_path:`"),
        ("    trainer: {max_steps: 7}", "    verb: fitt", "sft.*fitt.*fit"),
        ("defaults:", "default:", "default.*defaults"),
        ("stages:", "stage:", "`stages:`"),
    ],
)
def test_mistakes_name_the_file_the_stage_and_the_key(
    before: str, after: str, named: str, tmp_path: Path
) -> None:
    assert STAGES.count(before) == 1
    with pytest.raises(ValueError, match=f"small.yaml.*{named}"):
        written(tmp_path, STAGES.replace(before, after))


def test_a_recipe_that_is_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml"):
        read_recipe(tmp_path / "gone.yaml")
    with pytest.raises(ValueError, match=r"small\.yaml"):
        written(tmp_path, "stages: [")
