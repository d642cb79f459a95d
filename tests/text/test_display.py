"""What models, files and servers say cannot move a terminal, wherever it is printed."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lightning_rlhf import PreferenceData
from lightning_rlhf.cli.main import main
from lightning_rlhf.reporting.page import print_results, write_report
from lightning_rlhf.reporting.results import Answers, Curve, ReportColumn, Results
from lightning_rlhf.text.display import (
    CONTROL,
    PrintableConsole,
    printable,
    quoted,
    sentence_of,
    shortened,
)
from structure import FILES, tree
from support import number_pairs

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\x85\u202e\u2066\u200f\u061c\x08\x7f\r"
HOSTILE = f"[/bold] [red]:smile: {ESCAPES} end"
BAR = re.compile(r"\r(?=(Generating|tokenizing|Loading|Map)\b)")  # the bars of libraries
NAME = "rows\x1b[31m\u202e\x9b[red].jsonl"  # a file's name may hold all but "/" and NUL


@pytest.fixture
def place(tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, hostile rows, a hostile template and a recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    Path("base").symlink_to(tiny_base)
    pairs = number_pairs(12)
    write(NAME, [{**pairs[0], "chosen": HOSTILE}, *pairs])
    write("columns.jsonl", [{f"a{ESCAPES}": "x", "b": "y"}])
    write("extra.jsonl", [{**row, f"more{ESCAPES}": HOSTILE} for row in pairs])
    write("kinds.jsonl", [{**pairs[0], "label": ESCAPES}, *pairs])
    story = {"prompt": HOSTILE, "completion": HOSTILE, "source_id": HOSTILE, "gates": [HOSTILE]}
    write(f"story{ESCAPES}.jsonl".replace("/", ""), [{"id": f"a{ESCAPES}", **story}])
    raising = f"{{{{ raise_exception({HOSTILE!r}) }}}}"
    Path("raise.jinja").write_text(raising)
    Path("recipe[").mkdir()
    stage = {"name": "one", "call": "recipe_parts.write_number", "outputs": {HOSTILE: "number.txt"}}
    Path("recipe[/x].yaml").write_text(json.dumps({"stages": [stage], "title": HOSTILE}))
    return tmp_path


def write(name: str, rows: list[dict[str, object]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


LOADED = ["--tokenizer", "base"]
LINES = {
    "a conversation": ["chat", "base", "--prompt", HOSTILE.strip("\r"), "--template", "plain"],
    "a row's story": ["trace", f"a{ESCAPES}", "."],
    "a row that is not there": ["trace", HOSTILE, "."],
    "rows": ["inspect", NAME, *LOADED],
    "columns that nobody reads": ["inspect", "columns.jsonl", *LOADED],
    "columns that are left": ["inspect", "extra.jsonl", *LOADED],
    "reasons": ["inspect", "kinds.jsonl", *LOADED],
    "a file that is not there": ["inspect", f"no{ESCAPES}.jsonl", *LOADED],
    "a split that is not there": ["inspect", f"{NAME}:{ESCAPES}", *LOADED],
    "a template's own message": ["inspect", "extra.jsonl", *LOADED, "--template", "raise.jinja"],
    "a template that is not there": ["inspect", "extra.jsonl", *LOADED, "--template", HOSTILE],
    "a recipe's stages": ["run", "recipe[/x].yaml", "--dry"],
    "a recipe's run and report": ["run", "recipe[/x].yaml"],
    "an override": ["run", "recipe[/x].yaml", "--set", f"{HOSTILE}=1"],
    "a verb": [HOSTILE],
    "an option": ["fit", f"--{HOSTILE}=1"],
    "a config": ["fit", "--config", NAME],
    "a judge's rows": ["judge-eval", NAME, "base", "--max_new_tokens=1"],
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_no_verb_prints_what_moves_a_terminal(
    line: list[str],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """And brackets in a path or an answer are not markup."""
    monkeypatch.setattr(PreTrainedTokenizerFast, "decode", lambda *_, **__: HOSTILE)
    status: object = 0
    try:
        main(line)
    except SystemExit as stopped:
        status = stopped.code
    said = capfd.readouterr()
    for text in (said.out, BAR.sub("", said.err)):
        assert not CONTROL.search(text), CONTROL.findall(text)
        assert "Traceback" not in text
    assert said.out + said.err and status in (0, 1, 2, None)


def test_a_log_of_hostile_columns_is_printable(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In Python too, where no verb has made the log so."""
    caplog.set_level(logging.INFO)
    tokenizer = AutoTokenizer.from_pretrained("base")
    PreferenceData(NAME, tokenizer=tokenizer, template="plain").setup()
    with pytest.raises(ValueError, match="label has the value") as label:
        PreferenceData("kinds.jsonl", tokenizer=tokenizer, template="plain").setup()
    with pytest.raises(ValueError, match="no row can be used") as refused:
        PreferenceData("extra.jsonl", tokenizer=tokenizer, template="raise.jinja").setup()
    assert not CONTROL.search(caplog.text + str(label.value) + str(refused.value))


def test_a_report_of_hostile_names_and_answers(tmp_path: Path) -> None:
    name = f"SFT{ESCAPES} $\\frac"
    results = Results(
        title=f"$\\x {HOSTILE}", subtitle=HOSTILE, stages=[ReportColumn(name, 1.0, {name: 0.5})],
        answers=[Answers(HOSTILE, {name: HOSTILE}, {})], curves=[Curve(name, name, [1], [0.5])],
        facts={HOSTILE: HOSTILE},
    )  # fmt: skip
    file = io.StringIO()
    print_results(results, PrintableConsole(file=file, width=100))
    report = write_report(results, tmp_path)
    assert not CONTROL.search(file.getvalue() + report.html.read_text(encoding="utf-8"))


RENDERABLES: list[Callable[[str], object]] = [
    lambda s: s, Text, Panel, lambda s: Panel(Text(s), title=s),
    lambda s: Table(s, Column(Text(s)), title=s, caption=s),
]  # fmt: skip


@given(st.text(st.characters(), max_size=40), st.sampled_from(RENDERABLES))
def test_the_console_prints_any_text(text: str, made: Callable[[str], object]) -> None:
    file = io.StringIO()
    console = PrintableConsole(file=file, width=60)
    console.print(made(text))
    console.rule(text)
    file.getvalue().encode()
    assert not CONTROL.search(file.getvalue())


def test_a_console_with_color_still_has_its_own_escapes() -> None:
    file = io.StringIO()
    console = PrintableConsole(file=file, force_terminal=True, color_system="standard", width=40)
    console.print(Text("\x1b[2Jred", "red"))
    assert file.getvalue() == "\x1b[31m\N{REPLACEMENT CHARACTER}[2Jred\x1b[0m\n"


@given(st.text(max_size=100), st.integers(20, 70))
def test_a_short_text_keeps_its_beginning_and_its_end(text: str, most: int) -> None:
    short = shortened(text, most)
    assert len(short) <= max(most, 0) and (short == text) == (len(text) <= most)
    assert short[:8] == text[:8] and short[-6:] == text[-6:]


def test_a_sentence_hides_what_a_url_holds() -> None:
    said = sentence_of("no https://me:pw1@host/x?a=1&api-key=pw2&b=2 and http://host/a@b \x1b[2J")
    assert said.startswith("no https://***@host/x?a=1&api-key=***&b=2 and http://host/a@b \ufffd")


def test_a_quote_is_short_whatever_it_quotes() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    for value in ("x" * 5000, {"a": "y" * 5000}, 10**5000, nested, "\x1b[31m"):
        assert len(quoted(value)) <= 80 and printable(quoted(value)) == quoted(value)


def test_nobody_prints_beside_the_printable_console() -> None:
    """Verbs make the printable console; ``print`` is for help and for errors."""
    for file in FILES:
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != Console.__name__, f"{file}:{node.lineno}"
                if node.func.id == "print":
                    assert file.parent.name == "cli", f"{file}:{node.lineno}"
