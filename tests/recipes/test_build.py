"""What a stage is made of: its Trainer's section, its outputs, its function and the arguments."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_rlhf.callbacks import SaveRoles, WriteRows
from lightning_rlhf.recipes.build import (
    build,
    function_of,
    named_function,
    outputs_of,
    trainer_section,
)
from lightning_rlhf.recipes.files import check_files

HOME = Path("runs/small/sft")
SAVER = "pytorch_lightning.callbacks.ModelCheckpoint"
KEPT = {
    "dirpath": str(HOME / "checkpoints"), "save_last": True, "enable_version_counter": False,
}  # fmt: skip


def callbacks(section: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = section["callbacks"]
    return found


def test_a_fit_gets_a_log_and_a_checkpoint() -> None:
    section = trainer_section({"max_steps": 3}, HOME, "fit")
    assert section["max_steps"] == 3
    assert section["logger"]["init_args"] == {"save_dir": str(HOME), "name": "log"}
    (saver,) = callbacks(section)
    assert saver["init_args"] == {"every_n_train_steps": 50, "save_top_k": 0, **KEPT}


def test_a_given_checkpoint_keeps_its_options_but_not_its_folder() -> None:
    given = {"class_path": SAVER, "init_args": {"every_n_train_steps": 2, "dirpath": "elsewhere"}}
    section = trainer_section({"callbacks": ["some.Other", given]}, HOME, "fit")
    assert callbacks(section)[0] == {"class_path": "some.Other"}
    assert callbacks(section)[1]["init_args"] == {"every_n_train_steps": 2, **KEPT}
    assert given["init_args"]["dirpath"] == "elsewhere"  # type: ignore[index]  # not written into


def test_one_callback_needs_no_list() -> None:
    section = trainer_section({"callbacks": {"class_path": "some.Other"}}, HOME, "fit")
    assert [c["class_path"] for c in callbacks(section)] == ["some.Other", SAVER]


@pytest.mark.parametrize(
    ("trainer", "verb"), [({"enable_checkpointing": False}, "fit"), ({}, "predict"), ({}, "test")]
)
def test_there_is_no_checkpoint_where_none_is_written(trainer: dict[str, Any], verb: str) -> None:
    assert "callbacks" not in trainer_section(trainer, HOME, verb)


def test_a_given_logger_stays() -> None:
    assert trainer_section({"logger": False}, HOME, "validate") == {"logger": False}


def spec(base: str, rows: Any, module: str = "SFTModule", **backbone: Any) -> dict[str, Any]:
    described = {"name_or_path": base, "dtype": "float32", **backbone}
    whole = {"class_path": "lightning_rlhf.Backbone", "init_args": described}
    model = {"class_path": f"lightning_rlhf.{module}", "init_args": {"backbone": whole}}
    data = {"class_path": "lightning_rlhf.PreferenceData", "init_args": {"source": rows}}
    if module == "SFTModule":
        data["class_path"] = "lightning_rlhf.DemonstrationData"
    return {"model": model, "data": data, "trainer": {"accelerator": "cpu"}}


@pytest.mark.parametrize(
    ("module", "lora", "names"),
    [
        ("SFTModule", {"r": 4}, ["checkpoint", "policy"]),
        ("SFTModule", None, ["checkpoint", "model"]),
        ("RewardModule", {"r": 4}, ["checkpoint", "reward"]),
    ],
)
def test_a_fit_writes_its_roles(
    module: str, lora: Any, names: list[str], tiny_base: str, tmp_path: Path
) -> None:
    cli = build(spec(tiny_base, "rows.jsonl", module, lora=lora), "fit", tmp_path, 3)
    outputs = outputs_of(cli, "fit", tmp_path)
    assert list(outputs) == names
    assert outputs["checkpoint"] == str(tmp_path / "checkpoints/last.ckpt")
    assert not cli.model.backbone.is_loaded
    kinds = [type(c) for c in cli.trainer.callbacks]
    assert SaveRoles in kinds and ModelCheckpoint in kinds and WriteRows not in kinds
    assert outputs_of(cli, "validate", tmp_path) == {}


def test_a_predict_stage_writes_rows_unless_its_module_does(tiny_base: str, tmp_path: Path) -> None:
    given = spec(tiny_base, "rows.jsonl")
    cli = build(given, "predict", tmp_path, 0)
    assert outputs_of(cli, "predict", tmp_path) == {"rows": str(tmp_path / "rows.jsonl")}
    assert WriteRows in map(type, cli.trainer.callbacks)
    cli = build({**given, "outputs": {"rows": "kept.jsonl"}}, "predict", tmp_path, 0)
    assert WriteRows not in map(type, cli.trainer.callbacks)


def test_files_have_to_exist_or_be_outputs(tiny_base: str, tmp_path: Path) -> None:
    rows, adapter = str(tmp_path / "rows.jsonl"), str(tmp_path / "sft" / "policy")
    built = [
        build(spec(tiny_base, source, adapters={"policy": adapter}), "fit", tmp_path, 0)
        for source in (rows, f"stream:{rows}", {rows: 1.0})
    ]
    for cli in built:
        with pytest.raises(FileNotFoundError, match=f"no policy adapter at {adapter}"):
            check_files(cli, None, [rows])
        with pytest.raises(FileNotFoundError, match=f"no data file at {rows}"):
            check_files(cli, None, [adapter])
        check_files(cli, None, [rows, adapter])
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at gone\.ckpt"):
        check_files(built[0], "gone.ckpt", [rows, adapter])
    check_files(built[0], "gone.ckpt", [rows, adapter, "gone.ckpt"])


def test_a_function_gets_the_stages_folder_and_seed() -> None:
    call = {"call": "recipe_parts.write_number", "args": {"n": "3"}}
    function = function_of(call, HOME, 11)
    assert function.keywords == {"folder": str(HOME), "seed": 11, "n": 3}  # by their types
    call = {"call": "recipe_parts.gate", "args": {"source": "rows.jsonl"}}
    assert function_of(call, HOME, 11).keywords == {"source": "rows.jsonl", "least": 1}


def test_what_the_stage_says_of_folder_and_seed_counts() -> None:
    call = {"call": "recipe_parts.write_number", "args": {"seed": 5, "folder": "mine"}}
    assert function_of(call, HOME, 11).keywords == {"folder": "mine", "seed": 5, "n": 1}


@pytest.mark.parametrize("args", [{"n": "three"}, {"m": 3}])
def test_wrong_arguments_of_a_function_are_refused(args: dict[str, Any]) -> None:
    with pytest.raises(argparse.ArgumentError):
        function_of({"call": "recipe_parts.write_number", "args": args}, HOME, 0)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("recipe_parts.gone", "there is no function recipe_parts.gone"),
        ("no_such_module.function", "there is no function no_such_module.function"),
        ("recipe_parts.json.__name__", "is not a function: give the dotted path of one"),
    ],
)
def test_a_path_that_is_not_a_function_is_named(path: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^call: .*{sentence}"):
        named_function(path)


def test_a_function_is_found_by_its_dotted_path() -> None:
    assert named_function("os.path.join")("a", "b") == "a/b"
