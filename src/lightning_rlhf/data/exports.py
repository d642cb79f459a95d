"""Convert exports of annotation tools and rows of other trainers to ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lightning_rlhf.data.preference_sets import objects_of, with_system
from lightning_rlhf.data.votes import (
    TIE,
    Row,
    Vote,
    is_empty,
    pair_of_votes,
    parsed,
    read_cell,
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


def voted(names: tuple[str, str], question: str) -> Callable[[Row], Row]:
    """Make the reader of two answers beside the votes of one or several annotators.

    Args:
        names: of the columns of the answers.
        question: column of the votes: a word, a number, or a list with one for each annotator.
    """

    def read(row: Row) -> Row:
        statuses = parsed(row.get(f"{question}.status"))
        votes = [vote for cell in _cells(row[question], statuses) for vote in _votes(cell, names)]
        answers = row[names[0]], row[names[1]]
        return pair_of_votes(with_system(row, row["prompt"]), answers, votes)

    return read


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


def label_studio(row: Row) -> Row:
    """Read a task of Label Studio's JSON export with the annotations of all annotators.

    Raises:
        BadRow: nobody voted, or the texts of the answers are not in ``data``.
    """
    data = parsed(row["data"])
    if not isinstance(data, dict):
        raise BadRow("data is not an object")
    results = [
        result
        for annotation in objects_of(row["annotations"], "annotations")
        if not annotation.get("was_cancelled") and annotation.get("result")
        for result in _asked(objects_of(annotation["result"], "result"))
    ]
    names = _answers_of(data, results)
    votes = [vote for result in results for vote in _votes(result.get("value"), names)]
    answers = data[names[0]], data[names[1]]
    return pair_of_votes(with_system(data, _prompt_of(data)), answers, votes)


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


def _prompt_of(data: Row) -> Any:
    found = [parsed(data[name]) for name in PROMPTS if not is_empty(data.get(name))]
    if not found:
        raise BadRow(f"data has none of {', '.join(PROMPTS)}")
    return found[0]


# ---- distilabel ----


def distilabel(ratings: str, instruction: str) -> Callable[[Row], Row]:
    """Make the reader of generations with a rating each."""

    def read(row: Row) -> Row:
        texts, given = parsed(row["generations"]), parsed(row[ratings])
        if not isinstance(texts, list) or not isinstance(given, list):
            raise BadRow(f"generations or {ratings} is not a list")
        if any(is_empty(rating) for rating in given):
            raise BadRow("a generation without a rating")
        numbers = [read_cell(rating, "a rating") for rating in given]
        prompt = with_system(row, row[instruction])
        return {"prompt": prompt, "completions": texts, "ratings": numbers}

    return read


def judged_pair(question: str) -> Callable[[Row], Row]:
    """Make the reader of pairs like Orca's: a system text, a question and its two answers."""

    def read(row: Row) -> Row:
        if row.get("status") == "tie":  # the judge's verdict, in distilabel's version
            raise BadRow("judged a tie")
        sides = {side: row[side] for side in ("chosen", "rejected")}
        judged = {k: row[k] for k in ("label", "margin") if row.get(k) is not None}
        return {"prompt": with_system(row, row[question]), **sides, **judged}

    return read


# ---- other trainers ----


def openai_preferences(row: Row) -> Row:
    """Read OpenAI's preference format: messages and tools, the preferred output, the other."""
    given = parsed(row["input"])
    if not isinstance(given, dict):
        raise BadRow("input is not an object with messages")
    sides = {"chosen": parsed(row["preferred_output"])}
    sides["rejected"] = parsed(row["non_preferred_output"])
    pair = {"prompt": given.get("messages"), **sides}
    return {**pair, "tools": given["tools"]} if given.get("tools") else pair


def rejected_response(row: Row) -> Row:
    """Read messages that end with the chosen answer, and the text of a rejected one."""
    messages = parsed(row["messages"])
    if not isinstance(messages, list) or not messages:
        raise BadRow("messages is not a list of turns")
    last = messages[-1]
    if not isinstance(last, dict) or last.get("role") != "assistant":
        raise BadRow("the last turn is not an assistant's answer")
    sides = {"chosen": [last], "rejected": row["rejected_response"]}
    return {"prompt": with_system(row, messages[:-1]), **sides}


def several_sides(row: Row) -> Row:
    """Read RewardBench 2: lists of good and of bad answers; those of a list are tied."""
    sides = [parsed(row[side]) for side in ("chosen", "rejected")]
    if not all(isinstance(side, list) and side for side in sides):
        raise BadRow("chosen or rejected is not a list of answers")
    ranks = [rank for rank, side in enumerate(sides) for _ in side]
    return {"prompt": row["prompt"], "completions": [*sides[0], *sides[1]], "ranks": ranks}


def stack_exchange(row: Row) -> Row:
    """Read a question with answers and the score of each by its votes."""
    answers = objects_of(row["answers"], "answers")
    scores = [read_cell(a.get("pm_score"), "pm_score") for a in answers]
    texts = [a.get("text") for a in answers]
    return {"prompt": row["question"], "completions": texts, "ratings": scores}


def red_team(row: Row) -> Row:
    """Read the prompt of a red-team transcript: all turns before its last answer."""
    return {"prompt": row["transcript"]}
