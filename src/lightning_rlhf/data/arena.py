"""Read the votes of Chatbot Arena and MT-bench: two conversations, of which one won."""

from __future__ import annotations

from typing import Any

from lightning_rlhf.data.votes import (
    TIE,
    Row,
    Vote,
    is_empty,
    parsed,
    read_cell,
    read_flag,
    sides_of_votes,
    vote_of_word,
)
from lightning_rlhf.text.messages import BadRow

MARKS = ("winner_model_a", "winner_model_b", "winner_tie")


def conversations(row: Row) -> tuple[Any, Any]:
    """Read both conversations; a vote is about their turn ``turn``, if the row has one."""
    turn = row.get("turn")
    first, second = (_until(parsed(row[f"conversation_{side}"]), turn) for side in "ab")
    return first, second


def votes(row: Row) -> Row:
    """Choose a conversation by ``winner``."""
    if is_empty(row["winner"]):
        raise BadRow("nobody voted")
    vote = vote_of_word(row["winner"], ("model_a", "model_b"))
    return sides_of_votes(conversations(row), [vote])


def first_conversation(row: Row) -> Row:
    """Read the first conversation, whose prompt is what stands before its last answer."""
    return {"chosen": conversations(row)[0]}


def _until(conversation: Any, turn: Any) -> Any:
    """Cut a conversation after a number of answers."""
    if is_empty(turn) or not isinstance(conversation, list):
        return conversation
    number = read_cell(turn, "turn")
    ends = [
        i
        for i, message in enumerate(conversation, 1)
        if isinstance(message, dict) and message.get("role") == "assistant"
    ]
    if not 1 <= number <= len(ends):
        raise BadRow(f"turn {number:g} of a conversation with {len(ends)} answers")
    return conversation[: ends[int(number) - 1]]


# ---- as a table of texts ----


def table_conversations(row: Row) -> tuple[Any, Any]:
    """Read both conversations from JSON lists of the prompts and the answers of all turns."""
    turns = [_texts(row[column]) for column in ("prompt", "response_a", "response_b")]
    if len({len(texts) for texts in turns}) != 1:
        raise BadRow("prompt, response_a and response_b have different numbers of turns")
    return _conversation(turns[0], turns[1]), _conversation(turns[0], turns[2])


def table_votes(row: Row) -> Row:
    """Choose a conversation by the one of three columns that is 1."""
    marks = [read_flag(row[column], column) for column in MARKS]
    if sum(marks) != 1:
        raise BadRow(f"{sum(marks)} of {', '.join(MARKS)} are 1")
    vote: Vote = (1.0, 0.0, TIE)[marks.index(True)]
    return sides_of_votes(table_conversations(row), [vote])


def first_table_conversation(row: Row) -> Row:
    """Read the first conversation, whose prompt is what stands before its last answer."""
    return {"chosen": table_conversations(row)[0]}


def _texts(value: Any) -> list[Any]:
    value = parsed(value)
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise BadRow("a turn without text")
    return texts


def _conversation(questions: list[str], answers: list[str]) -> list[Row]:
    turns = []
    for question, answer in zip(questions, answers, strict=True):
        turns.append({"role": "user", "content": question})
        turns.append({"role": "assistant", "content": answer})
    return turns
