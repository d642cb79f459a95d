"""What a start runs, resumes and skips, on recipes of functions: fast, and nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf.cli.main import main
from lightning_rlhf.recipes.prepare import prepare
from lightning_rlhf.recipes.recipe import read_recipe
from lightning_rlhf.recipes.run import run
from lightning_rlhf.recipes.state import plan, write
from lightning_rlhf.reporting.palette import LIGHT
from lightning_rlhf.reporting.picture import draw_png
from lightning_rlhf.reporting.results import Results

RECIPE = """
folder: {folder}
stages:
  - {{name: one, call: recipe_parts.write_number, args: {{n: 2}}, outputs: {{number: number.txt}}}}
  - name: two
    call: recipe_parts.double
    args: {{source: "{{one.number}}"}}
    outputs: {{number: number.txt}}
  - {{name: other, call: recipe_parts.write_number, args: {{n: 5}}}}
  - name: three
    call: recipe_parts.double
    args: {{source: "{{two.number}}"}}
    outputs: {{number: number.txt}}
"""
NAMES = ["one", "two", "other", "three"]


@pytest.fixture(scope="module")
def picture() -> bytes:
    return draw_png(Results("", "", [], [], [], {}), LIGHT, narrow=True)


@pytest.fixture(autouse=True)
def sketched(monkeypatch: pytest.MonkeyPatch, picture: bytes) -> None:
    """The pictures of a report take longer than all the stages."""
    monkeypatch.setattr("lightning_rlhf.reporting.page.draw_png", lambda *_, **__: picture)


class Written:
    """A recipe in a file, and its state on disk."""

    def __init__(self, home: Path, text: str = RECIPE):
        self.folder = home / "run"
        self.file = home / "recipe.yaml"
        self.file.write_text(text.format(folder=self.folder))

    def edit(self, before: str, after: str) -> None:
        text = self.file.read_text()
        assert text.count(before) == 1
        self.file.write_text(text.replace(before, after))

    def start(self, *overrides: str, fresh_from: str | None = None) -> list[str]:
        """Run it; return the stages that ran, sorted."""
        before = self.runs()
        run(read_recipe(self.file, list(overrides)), fresh_from)
        return [name for name, id in self.runs().items() if before.get(name) != id]

    def actions(self, *overrides: str) -> dict[str, str]:
        steps = plan(prepare(read_recipe(self.file, list(overrides))))
        return {s.stage.name: f"{s.action}: {s.reason}" for s in steps}

    def runs(self) -> dict[str, str]:
        names = sorted(file.parent.name for file in self.folder.glob("*/done.json"))
        return {name: self.done(name)["run"] for name in names if not name.endswith(".old")}

    def done(self, name: str) -> Any:
        return json.loads((self.folder / name / "done.json").read_text())

    def number(self, name: str) -> int:
        return int((self.folder / name / "number.txt").read_text())


@pytest.fixture
def recipe(tmp_path: Path) -> Written:
    return Written(tmp_path)


def test_stages_read_the_outputs_of_earlier_ones(recipe: Written) -> None:
    assert recipe.start() == sorted(NAMES)
    assert [recipe.number(name) for name in NAMES] == [2, 4, 5, 8]
    assert recipe.done("two")["outputs"] == {"number": str(recipe.folder / "two" / "number.txt")}
    assert recipe.done("three")["inputs"] == {"two": recipe.done("two")["run"]}


def test_a_second_start_runs_nothing(recipe: Written) -> None:
    recipe.start()
    assert recipe.actions() == dict.fromkeys(NAMES, "skip: done")
    assert recipe.start() == []


def test_a_changed_stage_reruns_its_dependents_and_nothing_else(recipe: Written) -> None:
    recipe.start()
    assert recipe.actions("stages.one.args.n=3") == {
        "one": "run: changed", "two": "run: one runs", "other": "skip: done",
        "three": "run: two runs",
    }  # fmt: skip
    assert recipe.start("stages.one.args.n=3") == ["one", "three", "two"]
    assert [recipe.number(name) for name in NAMES] == [3, 6, 5, 12]
    assert int((recipe.folder / "one.old" / "number.txt").read_text()) == 2
    assert recipe.start("stages.other.args.n=6", "stages.one.args.n=3") == ["other"]


def test_an_override_is_part_of_the_config(recipe: Written) -> None:
    recipe.start("stages.one.args.n=3")
    assert recipe.start("stages.one.args.n=3") == []
    assert recipe.start() == ["one", "three", "two"]


def test_report_and_about_do_not_change_results(recipe: Written) -> None:
    recipe.start()
    recipe.edit('{source: "{two.number}"}', '{source: "{two.number}"}\n    about: two')
    assert recipe.start("stages.other.report=[n]", "title=Another") == []
    assert json.loads((recipe.folder / "recipe.json").read_text())["title"] == "Another"


def test_needs_is_a_dependency(recipe: Written) -> None:
    recipe.edit('{source: "{two.number}"}', '{source: "{two.number}"}\n    needs: [other]')
    recipe.start()
    assert set(recipe.done("three")["inputs"]) == {"two", "other"}
    assert recipe.start("stages.other.args.n=7") == ["other", "three"]


def test_a_changed_file_from_outside_reruns_its_reader(recipe: Written) -> None:
    outside = recipe.file.with_name("outside.txt")
    outside.write_text("10")
    recipe.edit('"{one.number}"', str(outside))
    recipe.start()
    assert recipe.number("three") == 40
    outside.write_text("11")
    assert recipe.start() == ["three", "two"]
    assert recipe.number("three") == 44


def test_a_missing_output_reruns_its_stage_and_its_readers(recipe: Written) -> None:
    recipe.start()
    (recipe.folder / "two" / "number.txt").unlink()
    assert recipe.actions()["two"].endswith("two/number.txt is gone")
    assert recipe.start() == ["three", "two"]


def test_a_stage_that_ran_alone_makes_its_readers_run(recipe: Written) -> None:
    """By another start, say: the run's id has changed, the config has not."""
    recipe.start()
    done = {**recipe.done("one"), "run": "another"}
    (recipe.folder / "one" / "done.json").write_text(json.dumps(done))
    assert recipe.actions()["two"] == "run: a stage it depends on ran again"
    assert recipe.start() == ["three", "two"]


def test_a_folder_that_was_moved_is_done_all_the_same(recipe: Written, tmp_path: Path) -> None:
    recipe.start()
    recipe.folder = recipe.folder.rename(tmp_path / "moved")
    assert recipe.start(f"folder={tmp_path / 'moved'}") == []


def test_from_reruns_a_stage_and_all_after_it(recipe: Written) -> None:
    recipe.start()
    assert recipe.start(fresh_from="other") == ["other", "three"]
    with pytest.raises(ValueError, match=r"--from thre: .* did you mean three\?"):
        recipe.start(fresh_from="thre")


def test_dry_shows_what_would_run_and_runs_nothing(
    recipe: Written, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main(["run", str(recipe.file), "--dry"])
    assert capsys.readouterr().out.count("run: new") == len(NAMES)
    assert not recipe.folder.exists()
    recipe.start()
    before = recipe.runs()
    main(["run", str(recipe.file), "--dry", "--from", "other"])
    shown = capsys.readouterr().out
    assert (shown.count("run: asked for"), shown.count("skip")) == (2, 2)
    assert recipe.runs() == before


def test_a_stage_has_a_seed_by_its_name(recipe: Written) -> None:
    recipe.start()
    one, other = recipe.done("one")["seed"], recipe.done("other")["seed"]
    assert one != other and recipe.done("one")["metrics"]["seed"] == one
    recipe.start("seed=1")
    assert recipe.done("one")["seed"] != one
    recipe.start("stages.one.seed=7")
    assert recipe.done("one")["seed"] == recipe.done("one")["metrics"]["seed"] == 7
    assert recipe.done("other")["seed"] == other  # its own, whatever the others have


def test_the_seed_does_not_depend_on_the_order_of_stages(recipe: Written) -> None:
    recipe.start()
    other = recipe.done("other")["seed"]
    recipe.edit(
        "  - name: two\n", "  - {name: new, call: recipe_parts.write_number}\n  - name: two\n"
    )
    assert recipe.start() == ["new"]
    assert recipe.done("other")["seed"] == other


FAILS = """
folder: {folder}
stages:
  - {{name: one, call: recipe_parts.write_number}}
  - {{name: two, call: recipe_parts.fail_once}}
  - {{name: three, call: recipe_parts.write_number}}
"""


def test_a_failed_stage_stops_the_recipe_and_is_resumed(tmp_path: Path) -> None:
    recipe = Written(tmp_path, FAILS)
    with pytest.raises(ValueError, match=r"^stage two: not yet$"):
        recipe.start()
    assert list(recipe.runs()) == ["one"]
    assert recipe.actions()["two"] == "resume: stopped in the middle"
    assert recipe.start() == ["three", "two"]  # with its folder: tried.txt is there
    assert recipe.done("two")["resumed"] and not recipe.done("three")["resumed"]


def test_a_stage_that_was_stopped_and_changed_starts_anew(tmp_path: Path) -> None:
    recipe = Written(tmp_path, FAILS)
    with pytest.raises(ValueError, match="not yet"):
        recipe.start()
    recipe.edit("fail_once}", "fail_once, seed: 3}")
    assert recipe.actions()["two"] == "run: changed"
    with pytest.raises(ValueError, match="not yet"):  # in an empty folder: it fails again
        recipe.start()
    assert (recipe.folder / "two.old" / "tried.txt").is_file()


def test_a_broken_state_is_named_with_what_to_do(recipe: Written) -> None:
    recipe.start()
    done = recipe.folder / "two" / "done.json"
    done.write_text('{"key": ')
    with pytest.raises(ValueError, match=r"two/done\.json line 1 is broken JSON.*delete the file"):
        recipe.actions()
    done.unlink()
    assert recipe.start() == ["three", "two"]


def test_an_output_that_was_not_written_is_named(recipe: Written) -> None:
    recipe.edit("args: {n: 5}}", "args: {n: 5}, outputs: {rows: rows.jsonl}}")
    with pytest.raises(ValueError, match=r"^stage other: it did not write .*rows\.jsonl"):
        recipe.start()
    assert "other" not in recipe.runs()


def test_a_function_has_to_return_what_json_can_hold(recipe: Written) -> None:
    recipe.edit("recipe_parts.write_number, args: {n: 5}", "recipe_parts.returns_no_json")
    with pytest.raises(ValueError, match="returns_no_json has to return a dict of figures"):
        recipe.start()


def test_a_state_file_is_complete_or_absent(tmp_path: Path) -> None:
    file = tmp_path / "done.json"
    write(file, {"a": 1})
    with pytest.raises(TypeError):
        write(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}
