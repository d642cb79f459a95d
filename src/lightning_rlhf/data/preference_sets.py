"""Convert rows of published preference sets to ours: each function reads one shape."""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import mean
from typing import Any

from lightning_rlhf.data.votes import (
    TIE,
    Row,
    Vote,
    is_empty,
    pair_of_votes,
    parsed,
    read_cell,
    read_flag,
    sides_of_votes,
    vote_of_index,
    vote_of_sign,
    vote_of_word,
)
from lightning_rlhf.text.messages import BadRow

ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")  # of UltraFeedback
TURN_MARK = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def with_system(row: Row, prompt: Any) -> Any:
    """Put the system text of a row, if it has any, before a prompt."""
    system = row.get("system_prompt") if is_empty(row.get("system")) else row["system"]
    if is_empty(system):
        return prompt
    turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return [{"role": "system", "content": system}, *turns]


# ---- UltraFeedback ----


def ultrafeedback(aspects: tuple[str, ...]) -> Callable[[Row], Row]:
    """Make the reader of the raw set that rates each completion by the mean of some aspects."""

    def read(row: Row) -> Row:
        answers = objects_of(row["completions"], "completions")
        ratings = [mean(_aspect(answer, aspect) for aspect in aspects) for answer in answers]
        texts = [answer.get("response") for answer in answers]
        return {"prompt": row["instruction"], "completions": texts, "ratings": ratings}

    return read


def _aspect(answer: Row, aspect: str) -> float:
    judged = answer.get("annotations")
    judged = judged.get(aspect) if isinstance(judged, dict) else None
    rating = judged.get("Rating") if isinstance(judged, dict) else None
    if is_empty(rating) or rating == "N/A":
        raise BadRow(f"an answer without a rating of its {aspect}")
    return read_cell(rating, f"the rating of {aspect}")


def objects_of(value: Any, field: str) -> list[Row]:
    """Read a list of objects that is not empty."""
    value = parsed(value)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadRow(f"{field} is not a list of objects")
    if not value:
        raise BadRow(f"{field} is empty")
    return value


# ---- HelpSteer ----


def turns_of(prompt: Any) -> Any:
    """Read the turns of a HelpSteer 2 prompt, which stand between marks, as messages."""
    pieces = TURN_MARK.split(prompt) if isinstance(prompt, str) else [prompt]
    if len(pieces) == 1:
        return prompt
    roles = ["user", *(role.lower() for role in pieces[1::2])]
    turns = zip(roles, pieces[::2], strict=True)
    return [{"role": role, "content": text} for role, text in turns if text.strip()]


def preference_strength(margin: bool) -> Callable[[Row], Row]:
    """Make the reader of the preferences of HelpSteer 2, from -3 to 3."""

    def read(row: Row) -> Row:
        answers = row["response_1"], row["response_2"]
        strength, field = row["preference_strength"], "preference_strength"
        return _preferred(turns_of(row["prompt"]), answers, strength, field=field, margin=margin)

    return read


def overall_preference(margin: bool) -> Callable[[Row], Row]:
    """Make the reader of the preferences of HelpSteer 3, from -3 to 3."""

    def read(row: Row) -> Row:
        answers = row["response1"], row["response2"]
        strength, field = row["overall_preference"], "overall_preference"
        return _preferred(parsed(row["context"]), answers, strength, field=field, margin=margin)

    return read


def _preferred(
    prompt: Any, answers: tuple[Any, Any], strength: Any, *, field: str, margin: bool
) -> Row:
    pair = pair_of_votes(prompt, answers, [vote_of_sign(strength, field, 3)])
    return {**pair, "margin": abs(read_cell(strength, field))} if margin else pair


# ---- PKU-SafeRLHF ----


def safe_rlhf(label: str, safe: bool) -> Callable[[Row], Row]:
    """Make the reader of one of the two labels.

    Args:
        label: "better" for the more helpful answer, "safer" for the less harmful one.
        safe: whether to drop rows whose chosen answer is marked unsafe.
    """

    def read(row: Row) -> Row:
        answers = row["response_0"], row["response_1"]
        vote = vote_of_index(row[f"{label}_response_id"], f"{label}_response_id")
        if safe:
            marks = [read_flag(row[f], f) for f in ("is_response_0_safe", "is_response_1_safe")]
            if not any(marks):
                raise BadRow("both answers are marked unsafe")
            if not marks[0 if vote == 1 else 1]:
                raise BadRow(f"the {label} answer is marked unsafe")
        return pair_of_votes(row["prompt"], answers, [vote])

    return read


def is_safe(row: Row) -> Row:
    """Read BeaverTails: an answer and whether it is safe."""
    label = read_flag(row["is_safe"], "is_safe")
    return {"prompt": row["prompt"], "completion": row["response"], "label": label}


# ---- comparisons of two answers ----


def shp(row: Row) -> Row:
    """Read SHP: 1 in ``labels`` says that answer A is better."""
    vote = 1.0 - float(vote_of_index(row["labels"], "labels"))
    scores = [row.get("score_A"), row.get("score_B")]
    if not any(is_empty(score) for score in scores):
        first, second = (read_cell(score, "a score") for score in scores)
        if (first - second) * (vote - 0.5) < 0:
            raise BadRow("labels contradicts score_A and score_B")
    return pair_of_votes(row["history"], (row["human_ref_A"], row["human_ref_B"]), [vote])


def webgpt(row: Row) -> Row:
    """Read WebGPT's comparisons: the answer with the positive score is better."""
    question = parsed(row["question"])
    if isinstance(question, dict):
        question = question.get("full_text")
    scores = [read_cell(row[f], f) for f in ("score_0", "score_1")]
    if scores[0] * scores[1] > 0:
        raise BadRow("score_0 and score_1 prefer both answers or none")
    vote = TIE if scores[0] == scores[1] else float(scores[0] > scores[1])
    return pair_of_votes(question, (row["answer_0"], row["answer_1"]), [vote])


def summaries(row: Row) -> Row:
    """Read comparisons of two summaries of a post or an article."""
    info = parsed(row["info"])
    both = objects_of(row["summaries"], "summaries")
    if not isinstance(info, dict):
        raise BadRow("info is not an object")
    if len(both) != 2:
        raise BadRow(f"{len(both)} summaries, not 2")
    texts = both[0].get("text"), both[1].get("text")
    return pair_of_votes(_to_summarize(info), texts, [vote_of_index(row["choice"], "choice")])


def _to_summarize(info: Row) -> str:
    """Write what is to be summarized, in the form of the paper."""
    body = "post" if not is_empty(info.get("post")) else "article"
    if is_empty(info.get(body)):
        raise BadRow("info has neither a post nor an article")
    lines = [f"{body.upper()}: {info[body]}", "TL;DR:"]
    if not is_empty(info.get("title")):
        lines.insert(0, f"TITLE: {info['title']}")
    if not is_empty(info.get("subreddit")):
        lines.insert(0, f"SUBREDDIT: r/{info['subreddit']}")
    return "\n".join(lines)


def alpaca_farm(row: Row) -> Row:
    """Read AlpacaFarm's preferences: the number of the better output, 1 or 2."""
    question = row["instruction"]
    if not is_empty(row.get("input")) and isinstance(question, str):
        question += f"\n\n{row['input']}"
    if is_empty(row["preference"]):
        raise BadRow("nobody voted")
    vote = vote_of_word(row["preference"], ("output_1", "output_2"))
    return pair_of_votes(with_system(row, question), (row["output_1"], row["output_2"]), [vote])


# ---- Chatbot Arena, MT-bench ----


def arena(row: Row) -> Row:
    """Read a vote between two conversations; it is about the turn ``turn``, if the row has one."""
    if is_empty(row["winner"]):
        raise BadRow("nobody voted")
    vote = vote_of_word(row["winner"], ("model_a", "model_b"))
    sides = [_until(parsed(row[f"conversation_{x}"]), row.get("turn")) for x in "ab"]
    return sides_of_votes((sides[0], sides[1]), [vote])


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


def arena_table(row: Row) -> Row:
    """Read a vote as three columns of 0 and 1; prompts and answers are JSON lists of turns."""
    columns = ("winner_model_a", "winner_model_b", "winner_tie")
    marks = [read_flag(row[column], column) for column in columns]
    if sum(marks) != 1:
        raise BadRow(f"{sum(marks)} of {', '.join(columns)} are 1")
    vote: Vote = (1.0, 0.0, TIE)[marks.index(True)]
    turns = [_texts(row[column]) for column in ("prompt", "response_a", "response_b")]
    if len({len(texts) for texts in turns}) != 1:
        raise BadRow("prompt, response_a and response_b have different numbers of turns")
    if len(turns[0]) == 1:
        return pair_of_votes(turns[0][0], (turns[1][0], turns[2][0]), [vote])
    first, second = (_conversation(turns[0], answers) for answers in turns[1:])
    return sides_of_votes((first, second), [vote])


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
