"""`lightning-rlhf inspect`: what is said is what the batches hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lightning_rlhf import Backbone, DemonstrationData, PreferenceData
from lightning_rlhf.cli.main import main
from lightning_rlhf.data import collate
from lightning_rlhf.data.sources import load_rows
from lightning_rlhf.data.statistics import loss_masks, runs
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.token_table import token_row
from lightning_rlhf.reporting.data_view import show_data
from lightning_rlhf.reporting.rows_view import IN_LOSS, row_lines
from lightning_rlhf.text.display import printable
from support import number_pairs

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def said(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    with pytest.raises(SystemExit) as end:
        main(["inspect", *args])
    found = capsys.readouterr()
    return end.value.code, found.out + (found.err if end.value.code == 2 else "")


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


CONVERSATION = [
    {"role": role, "content": text}
    for role, text in (("user", "w1"), ("assistant", "w2 w3"), ("user", "w4"), ("assistant", "w5"))
]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("max_length", [5, 9, 64])
def test_the_colored_tokens_are_those_the_mask_counts(
    tiny_base: str, max_length: int, plain: bool
) -> None:
    tokenizer = Backbone(tiny_base).tokenizer
    chat, special = ChatTemplate(tokenizer), {*tokenizer.all_special_ids}
    talks: list[dict[str, Any]] = [{"messages": CONVERSATION}]
    for data in (
        PreferenceData(number_pairs(6), val_fraction=0, max_length=max_length),
        DemonstrationData(talks, val_fraction=0, max_length=max_length),
        DemonstrationData([{"text": "w1 w2"}], val_fraction=0, max_length=max_length),
    ):
        data.tokenizer = tokenizer
        data.setup()
        for raw in data.train_rows or []:
            row = token_row(raw)
            counted = [
                run
                for ids, counts in zip(row.completion_ids, loss_masks(row), strict=True)
                for run in runs(ids, counts, special)
                if run.in_loss
            ]
            target = collate.token_batch([row]).target_ids.tolist()
            assert [i for run in counted for i in run.ids] == target
            lines = row_lines(row, chat, special, plain)
            words = " ".join(tokenizer.convert_ids_to_tokens(target))
            colored = " ".join(
                line.plain[span.start : span.end].replace("·", " ").strip(" ‹›")
                for line in lines
                for span in line.spans
                if str(span.style).startswith(IN_LOSS)
            )
            assert colored.split() == words.split()
            bracketed = "".join(line.plain for line in lines).count("⟦")
            assert bracketed == (len(list(_joined(row, special))) if plain else 0)


def _joined(row: Any, special: set[int]) -> list[None]:
    """One for each unbroken run of counted tokens of a completion."""
    return [
        None
        for flags in loss_masks(row)
        for a, b in zip([False, *flags], flags, strict=False)
        if b and not a
    ]


def test_a_file_by_its_columns(
    tiny_base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*number_pairs(20), {"prompt": "w1", "chosen": "w2", "rejected": "w2"}]
    args = [write(tmp_path, rows), "--tokenizer", tiny_base, "--max_tokens", "40"]
    code, text = said(args, capsys)
    assert code == 0
    flat = " ".join(text.split())
    for part in (
        "read as preference data", "21 rows read, 20 kept",
        "1 dropped: identical pair, first row 21",
        "chosen: ⟦", "›⟧", "20 rows to train on", "tokens are under the loss mask (",
        "duplicates: 0 identical rows;", "(max_tokens 40)", "filled:", "padded they",
    ):  # fmt: skip
        assert part in flat, part
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    code, text = said([*args, "--as", "demonstration"], capsys)
    assert code == 0 and "DemonstrationData" in text


def test_one_row_and_none(
    tiny_base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write(tmp_path, [{"text": "w1 w2"}])
    code, text = said([one, "--tokenizer", tiny_base, "--rows", "9"], capsys)
    assert code == 0 and "read as demonstration data" in text and "row 2" not in text
    (tmp_path / "bad").mkdir()
    bad = write(tmp_path / "bad", [{"prompt": "w1", "chosen": "w2", "rejected": "w2"}])
    code, text = said([bad, "--tokenizer", tiny_base], capsys)
    assert code == 1
    flat = " ".join(text.split())
    assert "1 dropped: identical pair, first row 1" in flat and "no row can be used" in flat
    code, text = said([write(tmp_path, [{"odd": "w1"}]), "--tokenizer", tiny_base], capsys)
    assert code == 2 and "has the columns {odd}" in text


def test_the_config_of_a_run(
    tiny_base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = said(
        [
            f"--config={ROOT / 'configs/dpo.yaml'}",
            f"--model.backbone.name_or_path={tiny_base}",
            f"--data.source={write(tmp_path, number_pairs(30))}",
            "--rows=1",
        ],
        capsys,
    )
    assert code == 0 and "batch_size 24" in text and "row 1, as" in text and "row 2," not in text


def test_a_stream(tiny_base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its first block is looked at, and said to be it."""
    rows = [*number_pairs(20), {"prompt": "w1", "chosen": "w2", "rejected": "w2"}]
    file = write(tmp_path, rows)
    code, text = said([f"stream:{file}", "--tokenizer", tiny_base, "--rows", "1"], capsys)
    assert code == 0
    flat = " ".join(text.split())
    for part in (
        "read as preference data", "our own columns", "the first 21 rows read, 20 kept",
        "1 dropped: identical pair, first row 21", "row 1, as",
        "batches an epoch of its first rows",
    ):  # fmt: skip
        assert part in flat, part
    data = PreferenceData(load_rows(f"stream:{file}"), val_fraction=0)
    assert show_data(data, Backbone(tiny_base).tokenizer, 0, console=Console(width=80))
    assert "the first 21 rows read, 20 kept" in capsys.readouterr().out
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    code, text = said([f"stream:{empty}", "--tokenizer", tiny_base], capsys)
    assert code == 2 and "holds no rows" in text


def test_a_mixture(tiny_base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a file's verb and of a run's config: each source counted, and what is drawn of them."""
    names = []
    for name, n in (("a", 20), ("b", 10)):
        (tmp_path / name).mkdir()
        names.append(write(tmp_path / name, number_pairs(n)))
    mixture = f"{{{names[0]}: 1.0, {names[1]}: 0.5}}"
    config = [f"--config={ROOT / 'configs/dpo.yaml'}", f"--data.source={mixture}"]
    config += [f"--model.backbone.name_or_path={tiny_base}", "--data.val_fraction=0"]
    for args in ([mixture, "--tokenizer", tiny_base], config):
        code, text = said([*args, "--rows", "0"], capsys)
        flat = " ".join(text.split())
        assert code == 0, text
        assert "20 rows read, 20 kept; weight 1 " in flat
        assert "10 rows read, 10 kept; weight 0.5 " in flat
        assert "25 rows to train on" in flat
    code, text = said(["{a.jsonl, b.jsonl}", "--tokenizer", tiny_base], capsys)
    assert code == 2 and "{a.jsonl, b.jsonl} is not a mixture: write {one.jsonl: 1.0" in text


@pytest.mark.parametrize(("method", "steps"), [("ppo", 8), ("grpo", 2)])
def test_prompts_of_a_module_that_completes_them(
    tiny_base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, steps: int
) -> None:
    file = write(tmp_path, [{"prompt": "w1 w2"}, {"prompt": "w3"}, {"prompt": "w3"}])
    args = [f"--config={ROOT / f'configs/{method}.yaml'}", "--rows=1", "--data.batch_size=2"]
    args += [f"--model.backbone.name_or_path={tiny_base}", "--data.val_fraction=0"]
    code, text = said([*args, f"--data.source={file}"], capsys)
    flat = " ".join(text.split())
    assert code == 0
    for part in (
        "PromptData", "prompt: w1 w2", "4 tokens of prompts; only completions are trained on",
        "duplicates: 1 row repeats an earlier prompt",
        f"rollouts an epoch: 2 (batch_size 2), {steps} steps each", "rows a rollout: 1 to 2",
    ):  # fmt: skip
        assert part in flat, part
    code, text = said([*args, f"--data.source=stream:{file}"], capsys)
    assert code == 2 and "a stream cannot yield its prompts again" in text  # as fit says


def test_text_of_data_gives_no_orders(tiny_base: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable("a\x1b[31m\x9bb\u202ec\td\n") == "a\ufffd[31m\ufffdb\ufffdc\td\n"
    rows = [{"prompt": "w1", "chosen": "w2", "rejected": "w3", "[red]\x1b[0m": "x"}] * 2
    console = Console(width=80, color_system="truecolor", force_terminal=True)
    data = PreferenceData(rows, val_fraction=0)
    assert show_data(data, Backbone(tiny_base).tokenizer, 1, console=console)
    text = capsys.readouterr().out
    assert "[red]\ufffd[0m" in text and "\x1b[1;32m" in text and "⟦" not in text


def test_rows_are_compared_with_the_tokenizers_own_template(
    tiny_base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal where they are equal; else what either has alone is marked, and a refusal is said."""
    file = write(tmp_path, [{"messages": CONVERSATION}, {"messages": CONVERSATION[:2]}])
    same = tmp_path / "same.jinja"
    same.write_text("{% for m in messages %}{{ m['content'] + ' ' + eos_token }} {% endfor %}")
    args = [file, "--tokenizer", tiny_base, "--as", "demonstration", "--compare", "--template"]
    code, out = said([*args, str(same)], capsys)
    assert code == 0
    assert "row 1: the same 9 tokens" in out
    assert "row 2: the same 5 tokens" in out
    pairs = write(tmp_path, [{"prompt": "w1", "chosen": "w2", "rejected": "w3"}])
    more = tmp_path / "more.jinja"
    more.write_text(same.read_text() + "{% if not add_generation_prompt %}w7{% endif %}")
    _, out = said([pairs, *args[1:3], "--compare", "--template", str(more)], capsys)
    assert out.count("[-w7-]") == 2
    assert "row 1: the same" not in out
    with pytest.raises(SystemExit):
        main(["inspect", *args, "raw"])
    assert "--compare needs a chat template" in capsys.readouterr().err
