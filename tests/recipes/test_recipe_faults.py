"""A recipe knows its outputs from its inputs, always reports, and loses nothing finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from lightning_rlhf.cli.main import main
from support import number_pairs

TRAINER = (
    "{accelerator: cpu, enable_progress_bar: false, enable_model_summary: false, max_steps: 2, "
    "num_sanity_val_steps: 0, log_every_n_steps: 1}"
)
CALLS = """
folder: {folder}
stages:
  - name: one
    call: recipe_parts.write_number
    args: {{n: 3}}
    outputs: {{number: number.txt}}
  - name: two
    call: recipe_parts.double
    args: {{source: "{{one.number}}"}}
"""
FIT = """
folder: {folder}
stages:
  - name: dpo
    model:
      class_path: lightning_rlhf.DPOModule
      init_args:
        reference_cache: {cache}
        backbone:
          class_path: lightning_rlhf.Backbone
          init_args: {{name_or_path: {base}, dtype: float32, lora: {{r: 4}}}}
    data:
      class_path: lightning_rlhf.PreferenceData
      init_args: {{source: {rows}, batch_size: 4, val_fraction: 0}}
    trainer: {trainer}
"""


def run(tmp_path: Path, text: str, *args: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    main(["run", str(tmp_path / "recipe.yaml"), *args])


def calls(tmp_path: Path) -> str:
    return CALLS.format(folder=tmp_path / "run")


def test_a_file_that_a_stage_writes_is_no_input_of_it(
    one_layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in number_pairs(12)))
    cache = tmp_path / "cache.sqlite"
    cache.touch()  # it was there before
    text = FIT.format(
        folder=tmp_path / "run", cache=cache, base=one_layer, rows=rows, trainer=TRAINER
    )
    run(tmp_path, text)
    assert cache.stat().st_size > 0
    assert (
        tmp_path / "run" / "report.html"
    ).is_file()  # a curve, and no figure: finding of its own
    capsys.readouterr()
    run(tmp_path, text)
    assert "done before, skipped" in capsys.readouterr().out
    rows.write_text(rows.read_text() + json.dumps(number_pairs(20)[-1]) + "\n")
    run(tmp_path, text)  # an input that changed
    assert "fit (changed)" in capsys.readouterr().out


def test_a_file_that_a_call_writes_is_no_input_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"""
folder: {tmp_path / "run"}
stages:
  - {{name: rows, call: recipe_parts.write_file, args: {{to: {tmp_path / "made.txt"}}}}}
"""
    run(tmp_path, text)
    run(tmp_path, text)
    assert "rows: done before, skipped" in capsys.readouterr().out
    assert (tmp_path / "made.txt").read_text() == "once\n"


BROKEN = {
    "empty": "",
    "half": '{"key": "a',
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "without a key": "{}",
    "another shape": '{"key": 3, "inputs": []}',
    "not UTF-8": b"\xff\xfe{}",
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", ["done.json", "begun.json"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_state_is_one_sentence_with_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    run(tmp_path, calls(tmp_path))
    file = tmp_path / "run" / "one" / name
    content = BROKEN[kind]
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    if name == "begun.json":  # it is read where there is no done.json
        (file.parent / "done.json").unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, calls(tmp_path))
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and said.count("\n") == 0 and len(said) < 600
    assert f"one/{name}" in said and "delete the file, and the stage runs again" in said
    file.unlink()
    run(tmp_path, calls(tmp_path))
    assert (tmp_path / "run" / "report.html").is_file()


def test_one_process_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".recipe.lock"), pytest.raises(SystemExit):
        run(tmp_path, calls(tmp_path))
    assert "another process is writing" in capsys.readouterr().err
    run(tmp_path, calls(tmp_path))


def test_a_finished_stage_is_kept_until_another_is_finished(tmp_path: Path) -> None:
    run(tmp_path, calls(tmp_path))
    text = calls(tmp_path).replace("n: 3", "n: 4")
    for _ in range(2):  # the second start of a stage that failed leaves the finished one alone
        with pytest.raises(SystemExit):
            run(tmp_path, text.replace("{number: number.txt}", "{number: lost.txt}"))
        assert (tmp_path / "run" / "one.old" / "number.txt").read_text() == "3"
    run(tmp_path, text)
    assert (tmp_path / "run" / "one" / "number.txt").read_text() == "4"
    assert (tmp_path / "run" / "one.old" / "number.txt").read_text() == "3"
    run(tmp_path, text, "--from", "one")
    assert (tmp_path / "run" / "one.old" / "number.txt").read_text() == "4"


@pytest.mark.parametrize(
    "answers",
    [[["p", "a", "good"]], [["p", "a"]], {"p": "a"}, "text", [["p", 3, 0.5]]],
    ids=["a score of text", "pairs", "a dict", "a text", "a number"],
)
def test_answers_of_another_shape_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: Any
) -> None:
    returned = json.dumps({"answers": answers})
    text = f"""
folder: {tmp_path / "run"}
stages:
  - {{name: said, call: recipe_parts.return_this, args: {{returned: {returned}}}}}
"""
    with pytest.raises(SystemExit):
        run(tmp_path, text)
    assert "returned answers that are not [prompt, answer, score] each" in capsys.readouterr().err


def test_the_report_survives_a_log_that_a_kill_left_and_answers_alone(
    one_layer: str, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in number_pairs(12)))
    fit = FIT.format(
        folder=tmp_path / "run", cache=tmp_path / "c", base=one_layer, rows=rows, trainer=TRAINER
    )
    said = json.dumps({"answers": [["p", "a", 0.5]], "big": 1e308})
    text = f"""{fit}
  - {{name: said, call: recipe_parts.return_this, args: {{returned: {said}}}, about: dpo}}
  - {{name: more, call: recipe_parts.return_this, args: {{returned: {said}}}, about: said}}
"""
    run(tmp_path, text)
    for path in (tmp_path / "run").glob("dpo/log/version_*/metrics.csv"):
        path.write_text(path.read_text() + "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17\nx,\0y\nhal")
    (tmp_path / "run" / "report.html").unlink()
    run(tmp_path, text)
    assert (tmp_path / "run" / "report.html").is_file()
