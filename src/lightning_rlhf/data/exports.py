"""Read exports of annotation tools and rows of other trainers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning_rlhf.data.preference_sets import with_system
from lightning_rlhf.data.votes import (
    TIE,
    Row,
    Vote,
    is_empty,
    objects_of,
    parsed,
    read_cell,
    sides_of_votes,
    vote_of_word,
)
from lightning_rlhf.text.messages import BadRow

PROMPTS = ("prompt", "instruction", "question", "input", "context", "messages")
ANSWERS = tuple(
    (f"{word}{one}", f"{word}{two}")
    for word in ("answer", "response", "completion", "text", "output")
    for one, two in (("1", "2"), ("_1", "_2"), ("-1", "-2"), ("_a", "_b"), ("_0", "_1"))
)  # names of two answers side by side


# ---- one question about two answers: Argilla, Label Studio's flat exports ----


def votes(names: tuple[str, str], question: str, row: Row) -> Row:
    """Choose one of two answers by the votes of one or several annotators.

    Args:
        names: of the columns of the answers.
        question: column of the votes: a word, a number, or a list with one for each annotator.
    """
    statuses = parsed(row.get(f"{question}.status"))
    found = [vote for cell in _cells(row[question], statuses) for vote in _votes(cell, names)]
    return sides_of_votes((row[names[0]], row[names[1]]), found)


def _cells(value: Any, statuses: Any) -> Iterator[Any]:
    """Yield the answers of the annotators; drafts and discarded ones do not count."""
    value = parsed(value)
    if not isinstance(value, list):
        value = [value]
    for index, cell in enumerate(value):
        status = cell.get("status") if isinstance(cell, dict) else None
        if isinstance(statuses, list) and index < len(statuses):
            status = statuses[index]
        if status in (None, "submitted"):
            yield cell


def _votes(cell: Any, names: tuple[str, str]) -> list[Vote]:
    """Read one annotator's answer: a word, ``{"value": word}``, or a ranking of the answers."""
    cell = parsed(cell)
    if isinstance(cell, dict) and "status" in cell:  # Argilla 1
        cell = parsed(cell.get("value"))
    if isinstance(cell, dict):
        if "rank" in cell:
            return [_vote_of_ranks(cell["rank"], cell.get("value"), names)]
        cell = next((cell[key] for key in ("selected", "choices", "value") if cell.get(key)), None)
    elif isinstance(cell, list) and cell and all(isinstance(one, dict) for one in cell):
        ranks, values = ([one.get(key) for one in cell] for key in ("rank", "value"))
        return [_vote_of_ranks(ranks, values, names)]
    elif isinstance(cell, list) and len(cell) == 2:  # the names in order, the best first
        return [_vote_of_ranks([1, 2], cell, names)]
    if isinstance(cell, list) and len(cell) == 1:
        cell = cell[0]
    return [] if is_empty(cell) or cell == [] else [vote_of_word(cell, names)]


def _vote_of_ranks(ranks: Any, values: Any, names: tuple[str, str]) -> Vote:
    """Read a ranking of the two answers; lower is better."""
    if isinstance(ranks, list) and isinstance(values, list) and len(ranks) == len(values) == 2:
        by_vote = {
            vote_of_word(value, names): read_cell(rank, "rank")
            for rank, value in zip(ranks, values, strict=True)
        }
        if by_vote.keys() == {0.0, 1.0}:
            return TIE if by_vote[0.0] == by_vote[1.0] else float(by_vote[1.0] < by_vote[0.0])
    raise BadRow(f"a ranking that does not order {names[0]} and {names[1]}")


# ---- Label Studio ----


def task_prompt(row: Row) -> Any:
    """Read the prompt of a task of Label Studio's JSON export."""
    data = _data_of(row)
    name = next((name for name in PROMPTS if not is_empty(data.get(name))), None)
    if name is None:
        raise BadRow(f"data has none of {', '.join(PROMPTS)}")
    return with_system(data, name)


def task_votes(row: Row) -> Row:
    """Choose one of a task's two answers by the annotations of all annotators.

    Raises:
        BadRow: nobody voted, or the texts of the answers are not in ``data``.
    """
    data = _data_of(row)
    results = [
        result
        for annotation in objects_of(row["annotations"], "annotations")
        if not annotation.get("was_cancelled") and annotation.get("result")
        for result in _asked(objects_of(annotation["result"], "result"))
    ]
    names = _answers_of(data, results)
    found = [vote for result in results for vote in _votes(result.get("value"), names)]
    return sides_of_votes((data[names[0]], data[names[1]]), found)


def _data_of(row: Row) -> Row:
    data = parsed(row["data"])
    if not isinstance(data, dict):
        raise BadRow("data is not an object")
    return data


def _asked(results: list[Row]) -> list[Row]:
    """Select an annotator's answer to the question which answer is better.

    Raises:
        BadRow: there are answers to several questions.
    """
    found = [r for r in results if r.get("type") == "pairwise"] or [
        r for r in results if r.get("type") == "choices"
    ]
    if len(found) > 1:
        asked = ", ".join(str(r.get("from_name")) for r in found)
        raise BadRow(f"annotations answers several questions ({asked}); export one of them")
    return found


def _answers_of(data: Row, results: list[Row]) -> tuple[str, str]:
    """Find the names of the two answers: those that were compared, else known ones."""
    for result in results:
        compared = str(result.get("to_name") or "").split(",")
        if len(compared) == 2 and all(not is_empty(data.get(name)) for name in compared):
            return compared[0], compared[1]
    found = [names for names in ANSWERS if not any(is_empty(data.get(name)) for name in names)]
    if len(found) != 1:
        raise BadRow(
            "data does not name its two answers: call them answer1 and answer2, or as the "
            "labeling interface calls them"
        )
    return found[0]


# ---- distilabel, Orca ----


def ratings(column: str, row: Row) -> Row:
    """Read generations and the rating of each."""
    texts, given = parsed(row["generations"]), parsed(row[column])
    if not isinstance(texts, list) or not isinstance(given, list):
        raise BadRow(f"generations or {column} is not a list")
    if any(is_empty(rating) for rating in given):
        raise BadRow("a generation without a rating")
    return {"completions": texts, "ratings": [read_cell(rating, "a rating") for rating in given]}


def judged_sides(row: Row) -> Row:
    """Read the sides of a pair, unless the judge found them equal."""
    if row.get("status") == "tie":
        raise BadRow("judged a tie")
    more = {k: row[k] for k in ("label", "margin") if row.get(k) is not None}
    return {"chosen": row["chosen"], "rejected": row["rejected"], **more}


# ---- other trainers ----


def input_messages(row: Row) -> Any:
    """Read the messages of OpenAI's preference format."""
    given = parsed(row["input"])
    if not isinstance(given, dict):
        raise BadRow("input is not an object with messages")
    return given.get("messages")


def outputs(row: Row) -> Row:
    """Read the preferred and the other output of OpenAI's preference format, and the tools."""
    tools = parsed(row["input"]).get("tools")
    sides = {"chosen": parsed(row["preferred_output"])}
    sides["rejected"] = parsed(row["non_preferred_output"])
    return {**sides, "tools": tools} if tools else sides


def earlier_messages(row: Row) -> Any:
    """Read the prompt of messages that end with the chosen answer."""
    messages = with_system(row, "messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        raise BadRow("the last turn is not an assistant's answer")
    return messages[:-1]


def last_and_rejected(row: Row) -> Row:
    """Read the last message as the chosen side, beside the text of the rejected one."""
    return {"chosen": parsed(row["messages"])[-1:], "rejected": row["rejected_response"]}


def whole_messages(row: Row) -> Row:
    """Read the messages with the chosen answer, as a demonstration."""
    return {"messages": with_system(row, "messages")}


def transcript(row: Row) -> Row:
    """Read a red-team transcript, whose prompt is what stands before its last answer."""
    return {"chosen": row["transcript"]}
