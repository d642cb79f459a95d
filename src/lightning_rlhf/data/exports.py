"""Read exports of annotation tools: one question about two answers, asked of several people."""

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
        BadRow: there are answers to several questions, or of another kind.
    """
    kinds = [result.get("type") for result in results]
    kind = next((kind for kind in ("pairwise", "choices") if kind in kinds), None)
    if kind is None:
        raise BadRow(f"annotations has {kinds[0]}, and only pairwise and choices are read")
    found = [result for result in results if result.get("type") == kind]
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
