"""Show token rows in a terminal: which tokens are under the loss mask, what was cut."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.text import Text
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data import statistics
from lightning_rlhf.data.comparison import Compared
from lightning_rlhf.data.statistics import Run
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.tokens import TokenRow
from lightning_rlhf.text.display import printable

IN_LOSS, NOT_IN_LOSS, SPECIAL, CUT = "bold green", "dim", "reverse", "bold red"
SPACES = re.compile(r"^ +| +$| {2,}| +(?=\n)|(?<=\n) +")


def visible(text: str) -> str:
    """Mark the whitespace of a text: line ends, tabs, spaces at an edge or in a row."""
    dotted = SPACES.sub(lambda found: "·" * len(found.group()), printable(text))
    return dotted.replace("\t", "⇥").replace("\n", "↵\n")


def row_lines(row: TokenRow, chat: ChatTemplate, special: set[int], plain: bool) -> list[Text]:
    """Render a row's prompt and its completions, with marks where they were cut.

    Args:
        row: to show.
        chat: of its tokenizer.
        special: ids of the special tokens.
        plain: mark tokens by brackets, for a console without color.
    """
    is_cut = row.cut.endswith(("prompt", "both"))
    first = row.prompt_ids[: int(chat.keeps_first(row.prompt_ids))] if is_cut else []
    rest = row.prompt_ids[len(first) :]
    prompt = _colored(chat.tokenizer, statistics.runs(first, [False] * len(first), special), plain)
    if is_cut:
        prompt.append("[…cut…]", CUT)
    body = statistics.runs(rest, [False] * len(rest), special)
    prompt.append_text(_colored(chat.tokenizer, body, plain, first))
    lines = [Text("prompt: ", "bold").append_text(prompt)]
    ends = statistics.cut_ends(row, chat.end_ids)
    masked = zip(row.completion_ids, statistics.loss_masks(row), strict=True)
    for i, (ids, loss_mask) in enumerate(masked):
        runs = statistics.runs(ids, loss_mask, special)
        text = _colored(chat.tokenizer, runs, plain, row.prompt_ids[-1:])
        if ends[i]:
            text.append("[…cut…]", CUT)
        lines.append(Text(f"{_title(row, i)}: ", "bold").append_text(text))
    return lines


def comparison_line(number: int, compared: Compared, tokenizer: PreTrainedTokenizerBase) -> Text:
    """Render a row's text beside the chat template's own: what either has alone is marked.

    Args:
        number: of the row.
        compared: its tokens and the template's.
        tokenizer: decodes them.
    """
    line = Text(f"row {number}: ", "bold")
    if compared.refused:
        return line.append(printable(compared.refused), CUT)
    if compared.same:
        (piece,) = compared.pieces
        return line.append(f"the same {len(piece.ids)} tokens")
    for kind, ids in compared.pieces:
        text = visible(str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)))
        if kind == "both":
            line.append(text, NOT_IN_LOSS)
        else:
            mark = "+" if kind == "ours" else "-"
            line.append(f"[{mark}{text}{mark}]", IN_LOSS if kind == "ours" else CUT)
    return line.append("\n[+here alone+] [-in the template's text alone-]", NOT_IN_LOSS)


def _title(row: TokenRow, i: int) -> str:
    """Name a completion by its label, side or rank."""
    if len(row.ranks) == 1:
        return "completion" if row.label is None else f"completion, label {row.label:g}"
    if row.ratings is None and row.ranks == [0, 1]:
        label = f", label {row.label:g}" if row.label is not None and i == 0 else ""
        return ("chosen", "rejected")[i] + label
    rating = f", rated {row.ratings[i]:g}" if row.ratings is not None else ""
    return f"rank {row.ranks[i] + 1}{rating}"


def _colored(
    tokenizer: PreTrainedTokenizerBase, runs: list[Run], plain: bool, before: Sequence[int] = ()
) -> Text:
    text, context, open_ = Text(), list(before), False
    for run in runs:
        if plain and run.in_loss != open_:
            text.append("⟦" if run.in_loss else "⟧")
            open_ = run.in_loss
        shown = visible(run_text(tokenizer, run, context))
        shown = shown.replace("⟦", "[").replace("⟧", "]") if plain else shown
        if run.special and plain:
            shown = f"‹{shown}›"
        style = f"{IN_LOSS if run.in_loss else NOT_IN_LOSS}{' ' + SPECIAL if run.special else ''}"
        text.append(shown, style)
        context = [*context, *run.ids][-4:]
    return text.append("⟧") if open_ else text


def run_text(tokenizer: PreTrainedTokenizerBase, run: Run, context: list[int]) -> str:
    """Decode a run after its context: the name of a special token, else the text that it adds."""
    if run.special:
        return str(tokenizer.convert_ids_to_tokens(run.ids[0]))
    before, whole = (
        str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        for ids in (context, [*context, *run.ids])
    )
    if context and whole.startswith(before):
        return whole[len(before) :]
    return str(tokenizer.decode(run.ids, clean_up_tokenization_spaces=False))
