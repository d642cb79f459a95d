"""Floor 4. ``lightning-rlhf inspect``: rows as the model will see them, and what became of them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.cli.arguments import describe_run
from lightning_rlhf.data import statistics as figures
from lightning_rlhf.data.datamodules import (
    DemonstrationData,
    PreferenceData,
    PromptData,
    refuse_a_stream,
)
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.data.sources import Mixture, is_mixture, is_stream, load_rows
from lightning_rlhf.data.statistics import Figures, Run
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.token_table import token_row
from lightning_rlhf.data.tokens import TokenRow
from lightning_rlhf.models.loading import load_tokenizer, resolve

READERS = {"preference": PreferenceData, "demonstration": DemonstrationData, "prompt": PromptData}
COUNTS, NOT, SPECIAL, CUT = "bold green", "dim", "reverse", "bold red"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SPACES = re.compile(r"^ +| +$| {2,}| +(?=\n)|(?<=\n) +")
BINS = 10


class Look(NamedTuple):
    """A file, or a mixture of some, to inspect without a run's config."""

    source: str | Mixture
    tokenizer: str
    reader: str | None
    options: dict[str, Any]  # of the DataModule


def main(args: list[str]) -> int:
    """Show the data of a run, by the arguments of ``fit``, or of one file; no weights are read."""
    rows, args = rows_option(args)
    console, updates = Console(), 0
    if any(arg.startswith(("--config", "-c", "--data", "--model")) for arg in args):
        cli = describe_run(args)
        found = (getattr(part, "tokenizer", None) for part in cli.model.modules())
        data, tokenizer = cli.datamodule, next((t for t in found if t is not None), None)
        updates = getattr(cli.model, "updates_per_rollout", 0)
        if tokenizer is None:
            raise ValueError(f"{type(cli.model).__name__} has no tokenizer to inspect data with")
    else:
        data = data_of(look_of(args), console)
        tokenizer = data.tokenizer
    return 0 if inspect(data, tokenizer, rows, console, updates) else 1


def rows_option(args: list[str]) -> tuple[int, list[str]]:
    """How many rows to show, and the arguments of ``fit``."""
    mine, rest = _rows_parser().parse_known_args(args)
    return mine.rows, rest


def _rows_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("lightning-rlhf inspect", add_help=False, allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=2, help="how many rows to show")
    return parser


def look_of(args: list[str]) -> Look:
    """The arguments of a file's inspection."""
    parser = argparse.ArgumentParser(
        "lightning-rlhf inspect",
        description="Show rows as a model sees them. Instead of a file, give the arguments of fit: "
        "lightning-rlhf inspect --config configs/dpo.yaml",
        allow_abbrev=False,
        parents=[_rows_parser()],
    )
    parser.add_argument("source", help="a file, a folder, a hub id or {source: weight, ...}")
    parser.add_argument("--tokenizer", required=True, help="a model or the folder of a tokenizer")
    parser.add_argument("--as", dest="reader", choices=READERS, help="by the columns, if not given")
    parser.add_argument("--format", default="auto")
    parser.add_argument("--template", default="auto")
    parser.add_argument("--max_length", type=int, default=1024)
    parser.add_argument("--max_tokens", type=int)
    parser.add_argument("--batch_size", type=int, default=8)
    asked = vars(parser.parse_args(args))
    del asked["rows"]
    source, tokenizer, reader = (asked.pop(k) for k in ("source", "tokenizer", "reader"))
    return Look(_mixture(source) or source, tokenizer, reader, {**asked, "val_fraction": 0.0})


def _mixture(source: str) -> Mixture | None:
    """A mixture as it would be typed for ``--data.source``, or None."""
    if not source.startswith("{"):
        return None
    try:
        found = yaml.safe_load(source)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(w, int | float) for w in found.values()):
        raise ValueError(f"{source} is no mixture: write {{one.jsonl: 1.0, other.jsonl: 0.5}}")
    return {str(name): float(weight) for name, weight in found.items()}


def data_of(look: Look, console: Console) -> RowsData:
    """The data of a file, read by whoever its columns suit: preferences before demonstrations.

    Raises:
        ValueError: nobody can read it.
    """
    folder = Path(look.tokenizer).expanduser()
    tokenizer = load_tokenizer(str(folder) if folder.is_dir() else resolve(look.tokenizer))
    name = look.reader or _guessed(look)
    if look.reader is None:
        console.print(Text(f"read as {name} data, by its columns; --as says otherwise"))
    return READERS[name](look.source, tokenizer=tokenizer, **look.options)


def _guessed(look: Look) -> str:
    source = next(iter(look.source)) if isinstance(look.source, dict) else look.source
    rows = load_rows(source)
    columns = list(rows.column_names or [k for row in islice(rows, 1) for k in row])
    reasons: dict[str, str] = {}
    for name, reader in READERS.items():
        try:
            reader.recognised(columns, source, look.options["format"])
            return name
        except ValueError as reason:
            reasons[name] = str(reason)
    raise ValueError(reasons["preference"])


def inspect(
    data: Any, tokenizer: PreTrainedTokenizerBase, rows: int, console: Console, updates: int = 0
) -> bool:
    """Print what a run would be trained on; whether there is any of it.

    Args:
        data: not set up.
        tokenizer: of the model.
        rows: how many to show.
        console: where to; without colour, tokens that count stand in ⟦ ⟧.
        updates: of each rollout, where a module makes its own completions.

    Raises:
        ValueError: data that is not ours, or cannot be read, or not so by such a module.
    """
    if not isinstance(data, RowsData):
        raise ValueError(f"inspect knows our own data, not {type(data).__name__}")
    if updates:
        refuse_a_stream(data.source)
    data.tokenizer = tokenizer
    try:
        data.setup()
    except ValueError as reason:
        if not any(reading.report.kept == 0 for reading in data.readings.values()):
            raise
        _say_readings(data, console)
        console.print(Text(clean(str(reason)), style=CUT))
        return False
    _say_readings(data, console)
    table = data.train_rows
    assert table is not None, "setup has run"
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    chat = ChatTemplate(tokenizer, data.template)
    for number in range(min(rows, len(table))):
        console.rule(f"row {number + 1}, as the model sees it", align="left")
        for line in shown(token_row(table[number]), chat, special, plain=not console.color_system):
            console.print(line, soft_wrap=False)
    found = figures.figures(table)
    console.print(_lengths(found), _histogram(found, data.max_length, console.width))
    held = len(data.val_rows) if data.val_rows is not None else 0
    _say_counts(found, held, console)
    _say_plan(data, found, updates, console)
    return True


# ---- rows ----


def clean(text: str) -> str:
    """Control characters, and those that turn the direction of text, are shown, not obeyed."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def visible(text: str) -> str:
    """A text whose whitespace can be seen: ends of lines, tabs, spaces at edges or in a row."""
    dotted = SPACES.sub(lambda found: "·" * len(found.group()), clean(text))
    return dotted.replace("\t", "⇥").replace("\n", "↵\n")


def shown(row: TokenRow, chat: ChatTemplate, special: set[int], plain: bool) -> list[Text]:
    """A row's prompt, then each completion under its rank or label; a cut stands where it was."""
    first = row.prompt_ids[:1] if row.cut in ("prompt", "both") else []
    rest = row.prompt_ids[len(first) :]
    prompt = _coloured(chat.tokenizer, figures.runs(first, [False] * len(first), special), plain)
    if first:
        prompt.append("[…cut…]", CUT)
    body = figures.runs(rest, [False] * len(rest), special)
    prompt.append_text(_coloured(chat.tokenizer, body, plain, first))
    lines = [Text("prompt: ", "bold").append_text(prompt)]
    ends = figures.cut_ends(row, chat.end_ids)
    for i, (ids, counts) in enumerate(
        zip(row.completion_ids, figures.loss_masks(row), strict=True)
    ):
        found = figures.runs(ids, counts, special)
        text = _coloured(chat.tokenizer, found, plain, row.prompt_ids[-1:])
        if ends[i]:
            text.append("[…cut…]", CUT)
        lines.append(Text(f"{_called(row, i)}: ", "bold").append_text(text))
    return lines


def _called(row: TokenRow, i: int) -> str:
    if len(row.ranks) == 1:
        return "completion" if row.label is None else f"completion, label {row.label:g}"
    rated = f", rated {row.ratings[i]:g}" if row.ratings is not None else ""
    if row.ratings is None and row.ranks == [0, 1]:
        sure = f", label {row.label:g}" if row.label is not None and i == 0 else ""
        return ("chosen", "rejected")[i] + sure
    return f"rank {row.ranks[i] + 1}{rated}"


def _coloured(
    tokenizer: PreTrainedTokenizerBase, found: list[Run], plain: bool, before: Sequence[int] = ()
) -> Text:
    text, context, open_ = Text(), list(before), False
    for run in found:
        if plain and run.in_loss != open_:
            text.append("⟦" if run.in_loss else "⟧")
            open_ = run.in_loss
        said = visible(run_text(tokenizer, run, context))
        said = said.replace("⟦", "[").replace("⟧", "]") if plain else said
        if run.special and plain:
            said = f"‹{said}›"
        style = f"{COUNTS if run.in_loss else NOT}{' ' + SPECIAL if run.special else ''}"
        text.append(said, style)
        context = [*context, *run.ids][-4:]
    return text.append("⟧") if open_ else text


def run_text(tokenizer: PreTrainedTokenizerBase, run: Run, context: list[int]) -> str:
    """What a run says behind its context: a special token its name, else the text it adds."""
    if run.special:
        return str(tokenizer.convert_ids_to_tokens(run.ids[0]))
    before, whole = (
        str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        for ids in (context, [*context, *run.ids])
    )
    if context and whole.startswith(before):
        return whole[len(before) :]
    return str(tokenizer.decode(run.ids, clean_up_tokenization_spaces=False))


# ---- figures ----


def _say_readings(data: RowsData, console: Console) -> None:
    weights: Any = data.source if is_mixture(data.source) else {}
    for name, (columns, layout, report, streamed) in data.readings.items():
        console.print(Text(clean(name), "bold"))
        head = f"  {type(data).__name__}; {layout or 'our own columns; '}"
        console.print(Text(clean(f"{head}columns: {', '.join(columns)}")))
        some = "the first " if streamed else ""
        weight = f"; weight {weights[name]:g}" if name in weights else ""
        console.print(Text(f"  {some}{report.read:,} rows read, {report.kept:,} kept{weight}"))
        for side, n in report.cut.most_common():
            console.print(Text(f"  {n:,} cut to max_length {data.max_length} ({side})"))
        for reason, n in report.dropped.most_common(12):
            first = report.first.get(reason)
            where = f", first row {first:,}" if first else ""
            console.print(Text(clean(f"  {n:,} dropped: {reason}{where}")))
        if len(report.dropped) > 12:
            console.print(Text(f"  and {len(report.dropped) - 12:,} other reasons"))


def _lengths(found: Figures) -> Table:
    table = Table("tokens", *("min", "50%", "90%", "99%", "max", "mean"), title="Lengths")
    for name in ("prompt", "completion", "row"):
        values = getattr(found, name)
        if len(values):
            ranks = [int(np.percentile(values, q, method="higher")) for q in (0, 50, 90, 99, 100)]
            table.add_row(name, *(f"{v:,}" for v in ranks), f"{values.mean():.1f}")
    return table


def _histogram(found: Figures, max_length: int, width: int) -> Table:
    """Bins down, three columns of bars; a row is a prompt with its longest completion."""
    kinds = [found.prompt, found.completion, found.row]
    top = max(int(found.row.max()), 1)
    step = -(-(top + 1) // BINS)
    bins = [np.bincount(k // step, minlength=BINS) for k in kinds]
    room = max(min((width - 32) // 3 - 8, 30), 4)
    table = Table("tokens", "prompt", "completion", "row", box=None, title_justify="left")
    for b in range(top // step + 1):
        cells = []
        for counts in bins:
            n, most = int(counts[b]), max(int(counts.max()), 1)
            cells.append(f"{'█' * max(round(room * n / most), n > 0)} {n:,}" if n else "")
        mark = " ◂max" if b * step <= max_length < (b + 1) * step else ""
        table.add_row(f"{b * step:,}-{(b + 1) * step - 1:,}{mark}", *cells)
    beyond = " (beyond all)" if max_length >= (top // step + 1) * step else " (◂max)"
    table.caption = f"max_length {max_length:,}{beyond}"
    return table


def _say_counts(found: Figures, held_out: int, console: Console) -> None:
    total, rows = int(found.tokens.sum()), len(found.row)
    console.print(Text(f"{rows:,} rows to train on, {held_out:,} held out"))
    if not len(found.completion):
        console.print(Text(f"{total:,} tokens of prompts; only completions count"))
        console.print(Text(f"duplicates: {found.same_prompts:,} prompts are there before"))
        return
    console.print(
        Text(
            f"{found.loss_tokens:,} of {total:,} tokens count "
            f"({found.loss_tokens / max(total, 1):.1%})"
        )
    )
    console.print(
        Text(
            f"duplicates: {found.same_rows:,} rows are there before, prompt and completions alike; "
            f"{found.same_prompts:,} have a prompt that is there before"
        )
    )


def _say_plan(data: RowsData, found: Figures, updates: int, console: Console) -> None:
    plan = figures.batch_plan(found, data.partition())
    tokens, padded = int(plan.tokens.sum()), int(plan.padded.sum())
    budget = (
        f"max_tokens {data.max_tokens:,}" if data.max_tokens else f"batch_size {data.batch_size}"
    )
    first = " of its first rows" if is_stream(data.source) else ""
    steps = f", {updates} steps each" if updates else ""
    what = "rollouts" if updates else "batches"
    console.print(Text(f"{what} an epoch{first}: {len(plan.rows):,} ({budget}){steps}"))
    for name, values in (("rows", plan.rows), ("tokens", plan.tokens)):
        low, high = int(values.min()), int(values.max())
        each = "rollout" if updates else "step"
        console.print(Text(f"  {name} a {each}: {low:,} to {high:,}, mean {values.mean():,.1f}"))
    if data.max_tokens:
        console.print(Text(f"  filled: {tokens / (data.max_tokens * len(plan.rows)):.1%}"))
    console.print(
        Text(
            f"  packed {tokens:,} tokens; padded they would be {padded:,} ({padded / tokens:.2f}×)"
        )
    )
