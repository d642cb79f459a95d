"""Show the data of a run in a terminal: its rows, lengths, counts and batches."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data.comparison import compare
from lightning_rlhf.data.datamodules import refuse_a_stream
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.data.sources import is_mixture, is_stream
from lightning_rlhf.data.statistics import Figures, batch_plan, figures_of
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.token_table import cut_sentence, token_row
from lightning_rlhf.reporting.rows_view import CUT, comparison_line, row_lines
from lightning_rlhf.text.display import printable
from lightning_rlhf.text.messages import BadRow

BINS = 10
REASONS = 12  # for dropped rows, the most frequent


def show_data(
    data: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: int,
    *,
    console: Console,
    updates: int = 0,
    against_template: bool = False,
) -> bool:
    """Print what a run would be trained on, and return False if that is nothing.

    Args:
        data: a data module that is not set up.
        tokenizer: of the model.
        rows: number of rows to show.
        console: to print on; without color, tokens under the loss mask stand in ⟦ ⟧.
        updates: of each rollout, where a module samples its own completions.
        against_template: compare each row with the tokenizer's own ``apply_chat_template``.

    Raises:
        ValueError: it is not a data module of this package, or it cannot be read.
    """
    if not isinstance(data, RowsData):
        raise ValueError(
            f"inspect cannot show {type(data).__name__}: give PreferenceData, DemonstrationData "
            "or PromptData"
        )
    if updates:
        refuse_a_stream(data.source)
    data.tokenizer = tokenizer
    try:
        data.setup()
    except ValueError as reason:
        if not any(reading.report.kept == 0 for reading in data.readings.values()):
            raise
        _print_readings(data, console)
        console.print(Text(printable(str(reason)), style=CUT))
        return False
    _print_readings(data, console)
    table = data.train_rows
    assert table is not None, "setup has run"
    _print_rows(table.select(range(min(rows, len(table)))), data, console)
    if against_template:
        _print_comparison(data, rows, console)
    figures = figures_of(table)
    console.print(_lengths(figures), _histogram(figures, data.max_length, console.width))
    held_out = len(data.val_rows) if data.val_rows is not None else 0
    _print_counts(figures, held_out, console)
    _print_plan(data, figures, updates, console)
    return True


def _print_readings(data: RowsData, console: Console) -> None:
    weights: Any = data.source if is_mixture(data.source) else {}
    for name, reading in data.readings.items():
        report = reading.report
        console.print(Text(printable(name), "bold"))
        head = f"  {type(data).__name__}; {reading.layout or 'our own columns; '}"
        console.print(Text(printable(f"{head}{reading.account}")))
        part = "the first " if reading.streamed else ""
        weight = f"; weight {weights[name]:g}" if name in weights else ""
        console.print(Text(f"  {part}{report.read:,} rows read, {report.kept:,} kept{weight}"))
        for side, n in report.cut.most_common():
            clause = cut_sentence(side, n, f"max_length {data.max_length}")
            console.print(Text(f"  {clause}"))
        for reason, n in report.dropped.most_common(REASONS):
            first = report.first.get(reason)
            where = f", first row {first:,}" if first else ""
            console.print(Text(printable(f"  {n:,} dropped: {reason}{where}")))
        if len(report.dropped) > REASONS:
            console.print(Text(f"  and {len(report.dropped) - REASONS:,} other reasons"))


def _print_rows(rows: Dataset, data: RowsData, console: Console) -> None:
    tokenizer = data.tokenizer
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    chat = ChatTemplate(tokenizer, data.template)
    for number, row in enumerate(rows, 1):
        console.rule(f"row {number}, as the model sees it", align="left")
        for line in row_lines(token_row(row), chat, special, plain=not console.color_system):
            console.print(line, soft_wrap=False)


def _print_comparison(data: RowsData, rows: int, console: Console) -> None:
    """Compare the first rows of each source with the tokenizer's own chat template."""
    for name, reading in data.readings.items():
        title = f"{name}, beside the tokenizer's apply_chat_template"
        console.rule(Text(printable(title)), align="left")
        for number, row in enumerate(islice(reading.rows, rows), 1):
            try:
                texts = compare(row, reading.maker, data.template)
            except BadRow as reason:
                console.print(Text(printable(f"row {number} is dropped: {reason}")))
                continue
            for text in texts:
                console.print(comparison_line(number, text, data.tokenizer), soft_wrap=False)


def _lengths(figures: Figures) -> Table:
    table = Table("tokens", *("min", "50%", "90%", "99%", "max", "mean"), title="Lengths")
    for name in ("prompt", "completion", "row"):
        values = getattr(figures, name)
        if len(values):
            ranks = [int(np.percentile(values, q, method="higher")) for q in (0, 50, 90, 99, 100)]
            table.add_row(name, *(f"{v:,}" for v in ranks), f"{values.mean():.1f}")
    return table


def _histogram(figures: Figures, max_length: int, width: int) -> Table:
    """Draw one line per bin, with three bars; a row is a prompt with its longest completion."""
    kinds = [figures.prompt, figures.completion, figures.row]
    top = max(int(figures.row.max()), 1)
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


def _print_counts(figures: Figures, held_out: int, console: Console) -> None:
    total, rows = int(figures.tokens.sum()), len(figures.row)
    console.print(Text(f"{rows:,} rows to train on, {held_out:,} held out"))
    same = figures.same_prompts
    repeated = f"{same:,} row{'s repeat' if same != 1 else ' repeats'} an earlier prompt"
    if not len(figures.completion):
        console.print(Text(f"{total:,} tokens of prompts; only completions are trained on"))
        console.print(Text(f"duplicates: {repeated}"))
        return
    share = figures.loss_tokens / max(total, 1)
    console.print(
        Text(f"{figures.loss_tokens:,} of {total:,} tokens are under the loss mask ({share:.1%})")
    )
    identical = f"{figures.same_rows:,} identical row{'s' if figures.same_rows != 1 else ''}"
    console.print(Text(f"duplicates: {identical}; {repeated}"))


def _print_plan(data: RowsData, figures: Figures, updates: int, console: Console) -> None:
    plan = batch_plan(figures, data.partition())
    tokens, padded = int(plan.tokens.sum()), int(plan.padded.sum())
    budget = (
        f"max_tokens {data.max_tokens:,}" if data.max_tokens else f"batch_size {data.batch_size}"
    )
    first = " of its first rows" if is_stream(data.source) else ""
    steps = f", {updates} steps each" if updates else ""
    name = "rollouts" if updates else "batches"
    console.print(Text(f"{name} an epoch{first}: {len(plan.rows):,} ({budget}){steps}"))
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
