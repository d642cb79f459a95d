"""What a report shows of stages: their figures, answers, curves and facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.recipes.prepare import PreparedStage
from lightning_rlhf.recipes.recipe import Stage
from lightning_rlhf.recipes.report import columns, curves, shown, side_by_side
from lightning_rlhf.reporting.results import Answers


def stage(name: str, verb: str = "fit", folder: Path = Path(), **spec: Any) -> PreparedStage:
    return PreparedStage(
        Stage(name, verb, spec), spec=spec, folder=folder, seed=0, outputs={}, after=[]
    )


def done(seconds: float = 1.0, answers: Any = (), **metrics: Any) -> dict[str, Any]:
    return {"seconds": seconds, "answers": answers, "metrics": metrics}


METRICS = {"train/loss": 0.5, "val/loss": 0.4, "val/acc": 0.9, "test/acc": 0.8, "kind": "words"}


@pytest.mark.parametrize(
    ("verb", "spec", "names"),
    [
        ("fit", {}, ["val/loss", "val/acc", "test/acc"]),
        ("call", {}, ["train/loss", "val/loss", "val/acc", "test/acc"]),
        ("fit", {"report": ["train/*", "*/acc"]}, ["train/loss", "val/acc", "test/acc"]),
        ("call", {"report": []}, []),
    ],
)
def test_report_selects_figures(verb: str, spec: dict[str, Any], names: list[str]) -> None:
    assert list(shown(stage("sft", verb, **spec), METRICS)) == names


def test_figures_join_the_column_of_the_stage_that_they_are_about() -> None:
    stages = [stage("sft"), stage("rows", "call"), stage("judged", "call", about="sft")]
    found = columns(
        stages,
        {"sft": done(9.0, **{"val/loss": 0.4}), "rows": done(), "judged": done(2.0, good=0.7)},
    )
    assert [(c.name, c.seconds, c.metrics) for c in found] == [
        ("sft", 9.0, {"val/loss": 0.4, "good": 0.7})
    ]  # rows has no figure: no column


def test_answers_to_one_prompt_stand_side_by_side() -> None:
    stages = [stage("first", "call"), stage("second", "call", about="dpo")]
    found = side_by_side(
        stages,
        {
            "first": done(answers=[["p", "a", 0.5], ["q", "b", 1.0]]),
            "second": done(answers=[["p", "c", 0.9]]),
        },
    )
    assert found == [
        Answers("p", {"first": "a", "dpo": "c"}, {"first": 0.5, "dpo": 0.9}),
        Answers("q", {"first": "b"}, {"first": 1.0}),
    ]


def write_log(folder: Path, version: int, text: str) -> None:
    log = folder / "log" / f"version_{version}"
    log.mkdir(parents=True)
    (log / "metrics.csv").write_text(text)


def test_a_curve_joins_the_logs_of_a_resumed_stage(tmp_path: Path) -> None:
    """Steps that were repeated count as the resumed run logged them."""
    write_log(tmp_path, 2, "epoch,step,train/loss,val/loss\n0,3,1.5,\n0,4,1.0,\n")
    write_log(tmp_path, 0, "epoch,step,train/loss,val/loss\n0,1,3.0,\n0,2,2.0,\n0,3,9.9,0.7\n")
    (curve,) = curves(stage("sft", folder=tmp_path))
    assert (curve.stage, curve.metric) == ("sft", "train/loss")  # by default the loss
    assert dict(zip(curve.steps, curve.values, strict=True)) == {1: 3.0, 2: 2.0, 3: 1.5, 4: 1.0}


def test_versions_of_logs_are_ordered_as_numbers(tmp_path: Path) -> None:
    for version in (10, 9):
        write_log(tmp_path, version, f"step,kl\n1,{version}\n2,{version}\n")
    (curve,) = curves(stage("ppo", folder=tmp_path, report=["kl"]))
    assert curve.values == [10.0, 10.0]


def test_a_figure_that_was_logged_once_has_no_curve(tmp_path: Path) -> None:
    write_log(tmp_path, 0, "step,train/loss,val/loss\n1,2.0,0.7\n2,1.0,\n")
    assert [c.metric for c in curves(stage("a", folder=tmp_path, report=["val/*"]))] == [
        "train/loss"
    ]
    assert curves(stage("without a log", folder=tmp_path / "none")) == []
