"""Recipes from the command line: run, run again, killed, changed, with mistakes."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from kill_harness import forked
from lightning_rlhf.cli.main import main
from lightning_rlhf.reporting.palette import LIGHT
from lightning_rlhf.reporting.picture import draw_png
from lightning_rlhf.reporting.results import Results

RECIPE = """
folder: {folder}
defaults:
  model: {{init_args: {{backbone: {{class_path: lightning_rlhf.Backbone, init_args: {{
    name_or_path: {base}, dtype: float32, lora: {{r: 4}}}}}}}}}}
  trainer: {{accelerator: cpu, enable_progress_bar: false, enable_model_summary: false,
    log_every_n_steps: 1, num_sanity_val_steps: 0}}
stages:
  - name: rows
    call: recipe_parts.write_pairs
    args: {{n: 24}}
    outputs: {{pairs: rows.jsonl}}
  - name: sft
    model: {{class_path: lightning_rlhf.SFTModule, init_args: {{lr: 1e-2}}}}
    data:
      class_path: lightning_rlhf.DemonstrationData
      init_args: {{source: {{rows.pairs}}, batch_size: 4, val_fraction: 0.2}}
    trainer: {{max_steps: 6}}
  - name: dpo
    model:
      class_path: lightning_rlhf.DPOModule
      init_args: {{lr: 1e-2, backbone: {{init_args: {{adapters: {{policy: "{{sft.policy}}"}}}}}}}}
    data:
      class_path: lightning_rlhf.PreferenceData
      init_args: {{source: "{{rows.pairs}}", batch_size: 4, val_fraction: 0}}
    trainer:
      max_steps: 9
      callbacks:
        - {{class_path: recipe_parts.KillAt, init_args: {{stage: dpo}}}}
        - class_path: pytorch_lightning.callbacks.ModelCheckpoint
          init_args: {{every_n_train_steps: 2}}
    report: [train/loss]
  - name: said
    verb: predict
    model:
      class_path: lightning_rlhf.SFTModule
      init_args: {{backbone: {{init_args: {{adapters: {{policy: "{{dpo.policy}}"}}}}}}}}
    data:
      class_path: lightning_rlhf.PromptData
      init_args: {{source: "{{rows.pairs}}", max_rows: 6, batch_size: 6, val_fraction: 0}}
  - name: gate
    call: recipe_parts.gate
    args: {{source: "{{said.rows}}", least: 6}}
    about: said
"""
NAMES = ["rows", "sft", "dpo", "said", "gate"]


class Written:
    """A recipe in a file, and its outputs."""

    def __init__(self, base: str, home: Path):
        self.folder = home / "run"
        self.file = home / "recipe.yaml"
        self.file.write_text(RECIPE.format(base=base, folder=self.folder))

    def start(self, *args: str) -> None:
        main(["run", str(self.file), *args])

    def runs(self) -> dict[str, str]:
        """The run of each stage that is done."""
        return {n: self.done(n)["run"] for n in NAMES if (self.folder / n / "done.json").is_file()}

    def done(self, name: str) -> Any:
        return json.loads((self.folder / name / "done.json").read_text())


@pytest.fixture(autouse=True)
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the five pictures of a report: they take longer than all stages."""
    picture = draw_png(Results("", "", [], [], [], {}), LIGHT, narrow=True)
    monkeypatch.setattr("lightning_rlhf.reporting.page.draw_png", lambda *_, **__: picture)


@pytest.fixture
def recipe(tiny_base: str, tmp_path: Path) -> Written:
    return Written(tiny_base, tmp_path)


def test_from_stage_to_stage_and_only_what_changed_again(
    recipe: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.start()
    first = recipe.runs()
    assert list(first) == NAMES
    assert recipe.done("sft")["metrics"]["val/loss"] > 0
    assert recipe.done("said")["metrics"]["rows"] == 6
    assert len((recipe.folder / "said" / "rows.jsonl").read_text().splitlines()) == 6
    assert (recipe.folder / "dpo" / "policy" / "adapter_model.safetensors").is_file()
    assert (recipe.folder / "report.html").is_file()
    told = json.loads((recipe.folder / "recipe.json").read_text())
    assert [stage["stage"] for stage in told["stages"]] == NAMES
    results = json.loads((recipe.folder / "results.json").read_text())
    columns = {stage["name"]: stage["metrics"] for stage in results["stages"]}
    assert columns["said"] == {"rows": 6.0, "kept": 6.0}
    assert {c["metric"] for c in results["curves"] if c["stage"] == "dpo"} == {"train/loss"}
    assert results["answers"][0]["scores"] == {"said": 0.5}

    capsys.readouterr()
    recipe.start()
    assert capsys.readouterr().out.count("done before, skipped") == len(NAMES)
    assert recipe.runs() == first

    recipe.start("--set", "stages.dpo.report=[train/rewards/margins]")  # changes no result
    assert recipe.runs() == first

    capsys.readouterr()
    recipe.start("--set", "stages.dpo.model.beta=0.3", "--dry")
    shown = [line for line in capsys.readouterr().out.splitlines() if "run:" in line]
    assert len(shown) == 3 and recipe.runs() == first

    recipe.start("--set", "stages.dpo.model.beta=0.3")
    second = recipe.runs()
    assert [n for n in NAMES if second[n] != first[n]] == ["dpo", "said", "gate"]
    assert (recipe.folder / "dpo.old" / "policy").is_dir()

    recipe.start("--set", "stages.dpo.model.beta=0.3", "--from", "gate")
    third = recipe.runs()
    assert [n for n in NAMES if third[n] != second[n]] == ["gate"]


def test_killed_in_a_stage_it_ends_in_the_same_bits(
    tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = []
    for name, kills in (("whole", []), ("broken", ["dpo 5"])):
        home = tmp_path / name
        home.mkdir()
        recipe = Written(tiny_base, home)
        recipe.file.write_text(recipe.file.read_text().partition("  - name: said")[0])
        for kill in kills:
            monkeypatch.setenv("KILL_AT", kill)
            assert forked(recipe.start) == -signal.SIGKILL
            assert list(recipe.runs()) == ["rows", "sft"]
        monkeypatch.delenv("KILL_AT", raising=False)
        before = recipe.runs()
        assert forked(recipe.start) == 0
        assert before.items() <= recipe.runs().items()
        adapters.append((home / "run/dpo/policy/adapter_model.safetensors").read_bytes())
    assert recipe.done("dpo")["resumed"]
    assert adapters[0] == adapters[1]
    results = json.loads((recipe.folder / "results.json").read_text())
    (curve,) = [c for c in results["curves"] if c["stage"] == "dpo"]
    assert curve["steps"][-1] == 8 and len(curve["steps"]) == 9  # of both logs


def test_a_gate_stops_what_comes_after_it(
    recipe: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    text = recipe.file.read_text()
    end = text.index("  - name: sft")
    early = (
        '  - {name: early, call: recipe_parts.gate, args: {source: "{rows.pairs}", least: 99}}\n'
    )
    recipe.file.write_text(text[:end] + early + text[end:])
    with pytest.raises(SystemExit) as stopped:
        recipe.start()
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert "error: stage early: " in errors and "24 rows, fewer than 99" in errors
    assert "Traceback" not in errors
    assert list(recipe.runs()) == ["rows"]
    assert not (recipe.folder / "sft").exists()


MISTAKES = """
"{sft.policy}" => "{sft.polcy}" => nothing is called {sft.polcy}: did you mean sft.policy?
"{sft.policy}" => "{said.rows}" => stage dpo: {said.rows} is not there yet
"{sft.policy}" => "{sft.model}" => stage dpo: nothing is called {sft.model}
"{sft.policy}" => /nowhere => stage dpo: adapters: no policy adapter at /nowhere
lr: 1e-2, backbone => lrr: 1e-2, backbone => DPOModule has no option lrr: did you mean lr?
max_steps: 9 => max_step: 9 => line 27: Trainer has no option max_step: did you mean max_steps?
lightning_rlhf.DPOModule => lightning_rlhf.DPOModul => lightning_rlhf has no DPOModul
{rows.pairs}, batch => gone.jsonl, batch => stage sft: no data file at gone.jsonl
val_fraction: 0.2 => val_fraction: 2 => stage sft: val_fraction must lie in [0, 1), got 2
least: 6 => leest: 6 => recipe_parts.gate has no option leest: did you mean least?
least: 6 => least: six => stage gate: least: expected int, got six
recipe_parts.gate => recipe_parts.gat => stage gate: call: there is no function recipe_parts.gat
about: said => abaut: said => stage gate: there is no key abaut: did you mean about?
about: said => about: sad => stage gate: about: there is no stage sad before gate
verb: predict => verb: predikt => stage said: there is no verb predikt: did you mean predict?
name: said => name: sft => two stages are called sft
accelerator: cpu => accelerator: cpu, devices: 2 => stage sft: a recipe runs in one process
"""  # text of the recipe => replacement => message


@pytest.mark.parametrize("mistake", MISTAKES.strip().splitlines())
def test_a_mistake_is_one_sentence_before_anything_runs(
    recipe: Written, capsys: pytest.CaptureFixture[str], mistake: str
) -> None:
    old, new, sentence = mistake.split(" => ")
    text = recipe.file.read_text()
    assert old in text
    recipe.file.write_text(text.replace(old, new, 1))
    with pytest.raises(SystemExit) as stopped:
        recipe.start()
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert sentence in errors
    assert "Traceback" not in errors
    assert not recipe.folder.exists()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--from", "dpp"], "there is no such stage: did you mean dpo?"),
        (["--set", "stages.dpp.seed=1"], "there is no stage dpp: did you mean dpo?"),
        (["--set", "stages.dpo"], "write NAME=VALUE"),
        (["--set", "stages.said.ckpt_path=gone.ckpt"], "stage said: no checkpoint at gone.ckpt"),
        (["--set", "sed=1"], "there is no key sed: did you mean seed?"),
        (["--dri"], "run has no option --dri: did you mean --dry?"),
    ],
)
def test_a_mistake_in_what_was_typed(
    recipe: Written, capsys: pytest.CaptureFixture[str], args: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit):
        recipe.start(*args)
    assert sentence in capsys.readouterr().err
    assert not recipe.folder.exists()


def test_a_recipe_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "nowhere.yaml"])
    assert "no recipe at nowhere.yaml" in capsys.readouterr().err
    main(["run", "--help"])
    assert "--set" in capsys.readouterr().out
