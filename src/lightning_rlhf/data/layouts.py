"""Detect common data-set layouts by their columns and convert rows to ours.

A layout is detected from the columns alone, before any row is read, so it can be logged and
overridden. ``formats`` then reads the converted rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any, NamedTuple

from lightning_rlhf.data.common_sets import COMMON_SETS
from lightning_rlhf.data.fields import read_number, read_text
from lightning_rlhf.data.gathering import Gather
from lightning_rlhf.data.hints import hint
from lightning_rlhf.data.layout import BESIDE, Layout
from lightning_rlhf.text.display import quoted
from lightning_rlhf.text.messages import BadRow, Message, read_messages

Row = dict[str, Any]
OURS = "ours"
SIDES = ("chosen", "rejected")
OTHER_ORDERS = frozenset(  # columns beside completions that are not ours, and may order them
    "labels label scores score rewards reward rating rank ranking preference preferences winner "
    "best votes".split()
)


class Format(NamedTuple):
    """A layout of columns."""

    name: str
    columns: frozenset[str]  # it applies where all of them are there
    gives: frozenset[str]  # our columns
    read: Callable[[Row], Row]  # its row -> our row
    asked: bool = False  # used only if it is asked for by name
    gather: Gather | None = None  # rows of a source -> rows that are read
    unless: frozenset[str] = frozenset()  # it does not apply where one of them is there


def _ours(*columns: str) -> Format:
    return Format(OURS, frozenset(columns), frozenset(columns), dict)


# ---- rows ----


def _judgment(row: Row) -> Row:
    """Keep the soft label and the margin of a pair."""
    return {name: row[name] for name in ("label", "margin") if row.get(name) is not None}


def _turns(value: Any, system: Any = None) -> list[Message]:
    """Read the turns of a conversation as messages, after the system column."""
    if not isinstance(value, list) or not value:
        raise BadRow("conversations is not a list of turns")
    before = [{"role": "system", "content": read_text(system, "system")}] if system else []
    return [*before, *read_messages(value)]


def _sharegpt(row: Row) -> Row:
    return {"messages": _turns(row["conversations"], row.get("system"))}


def _sharegpt_feedback(row: Row) -> Row:
    return {**_sharegpt(row), "label": row["label"]}


def _sharegpt_pair(row: Row) -> Row:
    prompt = _turns(row["conversations"], row.get("system"))
    return {"prompt": prompt, **{side: row[side] for side in SIDES}, **_judgment(row)}


def _asked(row: Row) -> str | list[Message]:
    """Read Alpaca's instruction and input, after the system text and earlier turns, if any."""
    question = read_text(row["instruction"], "instruction")
    if row.get("input"):
        question += "\n\n" + read_text(row["input"], "input")
    before: list[Message] = []
    if row.get("system"):
        before.append({"role": "system", "content": read_text(row["system"], "system")})
    for turn in row.get("history") or []:
        if not isinstance(turn, list) or len(turn) != 2:
            raise BadRow("history is not a list of (question, answer)")
        before.append({"role": "user", "content": read_text(turn[0], "history")})
        before.append({"role": "assistant", "content": read_text(turn[1], "history")})
    return [*before, {"role": "user", "content": question}] if before else question


def _alpaca(row: Row) -> Row:
    return {"prompt": _asked(row), "completion": row["output"]}


def _alpaca_pair(row: Row) -> Row:
    sides = {"chosen": row["chosen"], "rejected": row["rejected"]}
    return {"prompt": _asked(row), **sides, **_judgment(row)}


def _alpaca_feedback(row: Row) -> Row:
    answer = row["response"] if row.get("response") is not None else row["output"]
    return {"prompt": _asked(row), "completion": answer, "label": row["label"]}


def _alpaca_response(row: Row) -> Row:
    return {"prompt": _asked(row), "completion": row["response"]}


def _response_j_k(row: Row) -> Row:
    sides = {"chosen": row["response_j"], "rejected": row["response_k"]}
    return {"prompt": row["question"], **sides, **_judgment(row)}


def _scored_pair(row: Row) -> Row:
    """Use the difference of the scores as the margin."""
    chosen, rejected = (read_number(row[f"score_{s}"], f"score_{s}") for s in SIDES)
    return {**row, "margin": chosen - rejected}


VERDICT = {1: 1.0, 2: 0.0, 0: 0.5}  # the output that is better; 0 is a tie


def _judged(prompt: Any, first: Any, second: Any, verdicts: Sequence[Any]) -> Row:
    """Make a pair of two outputs by the judges' majority; the label is its share."""
    for verdict in verdicts:
        if not isinstance(verdict, int | float) or verdict not in VERDICT:
            raise BadRow(f"verdict {quoted(verdict)} is not one of 1, 2 and 0 for a tie")
    share = mean(VERDICT[verdict] for verdict in verdicts)
    if share == 0.5:
        raise BadRow("judged a tie")
    if share < 0.5:
        first, second, share = second, first, 1 - share
    row = {"prompt": prompt, "chosen": first, "rejected": second}
    return row if share == 1 else {**row, "label": share}


def _two_outputs(row: Row) -> Row:
    prompt = _asked(row) if row.get("instruction") else row["input"]
    return _judged(prompt, row["output_1"], row["output_2"], [row["label"]])


def _annotated(row: Row) -> Row:
    verdicts = [row[f"annotator{i}"] for i in (1, 2, 3)]
    return _judged(_asked(row), row["response1"], row["response2"], verdicts)


def _rated(row: Row) -> Row:
    """Read a list of ``{"response", "overall_score"}``, the layout of UltraFeedback."""
    return {"prompt": _asked(row), "completions": row["completions"]}


def _answered(row: Row) -> Row:
    return {"prompt": row["prompt"], "completions": row["answers"]}


def _question(row: Row) -> Row:
    """Read a question with its worked answer; the text after "####" can be checked."""
    solution = read_text(row["answer"], "answer")
    final = solution.rsplit("####", 1)[-1].strip()
    return {"prompt": row["question"], "completion": solution, "answer": final}


def _format(
    name: str, columns: str, gives: str, read: Callable[[Row], Row], asked: bool = False
) -> Format:
    return Format(name, frozenset(columns.split()), frozenset(gives.split()), read, asked)


# Of those whose columns are all there, the one with the most columns is used; of equals, the first.
FORMATS = (
    _format("sharegpt-pairs", "conversations chosen rejected", "prompt chosen rejected",
            _sharegpt_pair),
    _format("sharegpt-feedback", "conversations label", "messages label", _sharegpt_feedback),
    _format("sharegpt", "conversations", "messages", _sharegpt),
    _format("annotated", "instruction response1 response2 annotator1 annotator2 annotator3",
            "prompt chosen rejected", _annotated),
    _format("two-outputs", "input output_1 output_2 label", "prompt chosen rejected", _two_outputs),
    _format("ultrafeedback", "instruction completions", "prompt completions", _rated),
    _format("ranked-answers", "prompt answers", "prompt completions", _answered),
    _format("alpaca-pairs", "instruction chosen rejected", "prompt chosen rejected", _alpaca_pair),
    _format("alpaca-feedback", "instruction response label", "prompt completion label",
            _alpaca_feedback),
    _format("alpaca-feedback", "instruction output label", "prompt completion label",
            _alpaca_feedback),
    _format("alpaca", "instruction output", "prompt completion", _alpaca),
    _format("instructions", "instruction response", "prompt completion", _alpaca_response),
    _format("response-j-k", "question response_j response_k", "prompt chosen rejected",
            _response_j_k),
    _format("scored-pairs", "prompt chosen rejected score_chosen score_rejected",
            "prompt chosen rejected", _scored_pair, asked=True),  # it changes a reward model's loss
    _format("questions", "question answer", "prompt completion answer", _question),
    *(Format(*common) for common in COMMON_SETS),
)  # fmt: skip
NAMES = (OURS, *dict.fromkeys(f.name for f in FORMATS))


def recognize(
    columns: Sequence[str], accepts: Sequence[set[str]], source: str, *, reader: str, forced: str
) -> Layout:
    """Choose the layout that accounts for most columns of a source; of equals, ours.

    Of several sets of our own columns the first in ``accepts`` is read.

    Args:
        columns: of the source, renamed.
        accepts: the sets of our columns that can be read.
        source: its name, for messages.
        reader: name of the class that reads it, for messages.
        forced: "auto", "ours" or the name of a format.

    Raises:
        ValueError: no format fits, or the forced one does not, or two claim the label.
    """
    there = set(columns)
    if forced not in ("auto", *NAMES):
        raise ValueError(f'format must be "auto" or one of {", ".join(NAMES)}, got {forced!r}')
    ours = [wanted for wanted in accepts if wanted <= there and forced in ("auto", OURS)]
    named = [f for f in FORMATS if forced == f.name or (forced == "auto" and not f.asked)]
    fitting = [f for f in named if f.columns <= there and not f.unless & there]
    usable = [f for f in fitting if any(wanted <= f.gives for wanted in accepts)]
    best = max(usable, key=lambda f: len(f.columns), default=None)
    if ours and (best is None or max(map(len, ours)) >= len(best.columns)):
        _refuse_two_labels(ours, source)
        _refuse_unread_order(ours[0], there if forced == "auto" else set(), source)
        return _layout(_ours(*ours[0]), ours[0], accepts)
    if best is not None:
        return _layout(best, next(w for w in accepts if w <= best.gives), accepts)
    raise ValueError(
        _mismatch(columns, accepts, source, reader=reader, forced=forced, fitting=fitting)
    )


def _layout(format: Format, gives: set[str], accepts: Sequence[set[str]]) -> Layout:
    labels = any("label" in wanted for wanted in accepts)  # else labels are not looked at
    beside = {name for column in gives for name in BESIDE.get(column, ())}
    keeps = {*gives, *beside, "tools"} - (set() if labels else {"label", "margin"})
    return Layout(
        name=format.name,
        columns=tuple(sorted(format.columns)),
        gives=tuple(sorted(gives)),
        keeps=None if {"prompt"} in accepts else tuple(sorted(keeps)),
        convert=format.read,
        gather=format.gather,
    )


def _refuse_two_labels(ours: Sequence[set[str]], source: str) -> None:
    """Refuse a label that may be of the pair or of the completion beside it."""
    if {"prompt", "chosen", "rejected"} in ours and {"prompt", "completion", "label"} in ours:
        raise ValueError(
            f"{source} has a pair, and a completion with a label: leave one out by another name, "
            "columns={'completion': 'unused'} or columns={'chosen': 'unused'}"
        )


def _refuse_unread_order(read: set[str], there: set[str], source: str) -> None:
    """Refuse completions that would be read as sorted beside a column that may order them."""
    beside = sorted(there & OTHER_ORDERS) if read == {"prompt", "completions"} else []
    if beside:
        raise ValueError(
            f"{source} has completions beside {', '.join(beside)}: if it orders them, say so with "
            f"columns={{'{beside[0]}': 'ratings'}} (higher is better) or 'ranks' (lower is); if "
            "they stand from best to worst, with format=ours"
        )


def _mismatch(
    columns: Sequence[str],
    accepts: Sequence[set[str]],
    source: str,
    *,
    reader: str,
    forced: str,
    fitting: list[Format],
) -> str:
    """Say why columns cannot be read."""
    there = f"{source} has the columns {{{', '.join(columns)}}}"
    ours = " or ".join("{" + ", ".join(sorted(s)) + "}" for s in accepts)
    chosen = [f for f in FORMATS if f.asked and f.columns <= set(columns) and forced == "auto"]
    chosen = [f for f in chosen if any(wanted <= f.gives for wanted in accepts)]
    if chosen:
        names = " or ".join(dict.fromkeys(f.name for f in chosen))
        return f"{there}: say what of them is read, with format={names}"
    if fitting:
        gives = ", ".join(sorted(fitting[0].gives))
        return f"{there}: {fitting[0].name}, which gives {{{gives}}}, but {reader} needs {ours}"
    named = next((f for f in FORMATS if f.name == forced), None)
    if named is not None:
        lacking = ", ".join(sorted(named.columns - set(columns)))
        return f"{there}, so it is not {forced}: {{{lacking}}} is missing"
    known = hint(columns) or "rename them with columns={'yours': 'ours'}"
    return f"{there} but {reader} needs {ours}; {known}"
