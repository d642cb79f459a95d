"""Read rows in the forms of other trainers and of tools that make data."""

from __future__ import annotations

from typing import Any

from lightning_rlhf.data.preference_sets import with_system
from lightning_rlhf.data.votes import (
    Row,
    is_empty,
    objects_of,
    parsed,
    read_cell,
    sides_of_votes,
    turns_or_text,
    vote_of_word,
)
from lightning_rlhf.text.messages import BadRow, read_turns

# ---- distilabel, Orca ----


def ratings(column: str, row: Row) -> Row:
    """Read generations and the rating of each."""
    texts, given = parsed(row["generations"]), parsed(row[column])
    if not isinstance(texts, list) or not isinstance(given, list):
        raise BadRow(f"generations or {column} is not a list")
    if any(is_empty(rating) for rating in given):
        raise BadRow("a generation without a rating")
    return {"completions": texts, "ratings": [read_cell(rating, "a rating") for rating in given]}


def prompt_before(column: str, row: Row) -> Any:
    """Read the prompt in a column, or of the chosen side, if that is a whole conversation."""
    turns = _whole(row["chosen"])
    return with_system(row, column) if turns is None else turns[:-1]


def sides_after(column: str, row: Row) -> Row:
    """Read the sides of a pair after the prompt in a column, or sides that have their own."""
    if row.get("status") == "tie":  # distilabel's judge
        raise BadRow("judged a tie")
    sides = {side: turns_or_text(row[side]) for side in ("chosen", "rejected")}
    more = {k: row[k] for k in ("label", "margin") if row.get(k) is not None}
    if any(_whole(side) is not None for side in sides.values()):
        return {**sides, **more}
    return {"prompt": with_system(row, column), **sides, **more}


def messages_and_chosen(row: Row) -> Row:
    """Read messages as a demonstration, with the chosen side if they end before the answer."""
    messages, chosen = with_system(row, "messages"), turns_or_text(row["chosen"])
    turns = read_turns(messages)
    if not turns or turns[-1]["role"] == "assistant":
        return {"messages": messages}
    if isinstance(chosen, str):
        chosen = {"role": "assistant", "content": chosen}
    return {"messages": [*turns, *(chosen if isinstance(chosen, list) else [chosen])]}


def _whole(side: Any) -> list[Any] | None:
    """Read a side that is a whole conversation; None for an answer alone."""
    turns = read_turns(turns_or_text(side))
    return turns if turns is not None and len(turns) > 1 else None


# ---- OpenAI, ms-swift ----


def input_messages(row: Row) -> Any:
    """Read the messages of OpenAI's preference format."""
    given = parsed(row["input"])
    if not isinstance(given, dict):
        raise BadRow("input is not an object with messages")
    return given.get("messages")


def outputs(row: Row) -> Row:
    """Read the preferred and the other output of OpenAI's preference format, and the tools."""
    tools = parsed(row["input"]).get("tools")
    sides = {"chosen": turns_or_text(row["preferred_output"])}
    sides["rejected"] = turns_or_text(row["non_preferred_output"])
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


def query(row: Row) -> Any:
    """Read ms-swift's query after the system text and the earlier turns."""
    turns: list[Row] = []
    for turn in parsed(row.get("history")) or []:
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise BadRow("history is not a list of (question, answer)")
        turns.append({"role": "user", "content": turn[0]})
        turns.append({"role": "assistant", "content": turn[1]})
    if not turns:
        return with_system(row, "query")
    turns.append({"role": "user", "content": row["query"]})
    return with_system({**row, "query": turns}, "query")


def responses(row: Row) -> Row:
    """Read ms-swift's two responses to a query."""
    return {"chosen": row["response"], "rejected": row["rejected_response"]}


# ---- axolotl, NeMo, sets about steps ----


def ranked_completions(row: Row) -> Row:
    """Read NeMo's list of completions, each with its messages and its rank, 0 the best."""
    entries = objects_of(row["completions"], "completions")
    ranks = [read_cell(entry.get("rank"), "rank") for entry in entries]
    return {"completions": [entry.get("completion") for entry in entries], "ranks": ranks}


def first_steps(row: Row) -> Any:
    """Read a prompt and the beginning of its answer, which the sides continue."""
    prompt, steps = row["prompt"], row["initial_reason_steps"]
    if is_empty(steps):
        return prompt
    if not isinstance(prompt, str) or not isinstance(steps, str):
        raise BadRow("prompt or initial_reason_steps is not text")
    begun = {"role": "assistant", "content": steps, "prefix": True}
    return [{"role": "user", "content": prompt}, begun]


def both_sides(row: Row) -> Row:
    """Read the sides of a pair."""
    return {"chosen": row["chosen"], "rejected": row["rejected"]}


def labeled(row: Row) -> Row:
    """Read a completion and its label."""
    return {"completion": row["completion"], "label": row["label"]}


def preference_collection(row: Row) -> Row:
    """Choose one of the Preference Collection's two responses, A or B."""
    if is_empty(row["orig_preference"]):
        raise BadRow("nobody voted")
    names = "orig_response_A", "orig_response_B"
    vote = vote_of_word(row["orig_preference"], names)
    return sides_of_votes((row[names[0]], row[names[1]]), [vote])
