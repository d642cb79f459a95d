"""Read the rows of published preference sets: a prompt, and its answers with their order."""

from __future__ import annotations

import re
from statistics import mean
from typing import Any

from lightning_rlhf.data.votes import (
    TIE,
    Row,
    is_empty,
    objects_of,
    parsed,
    read_cell,
    read_flag,
    sides_of_votes,
    turns_or_text,
    vote_of_index,
    vote_of_sign,
    vote_of_word,
)
from lightning_rlhf.text.messages import BadRow

ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")  # of UltraFeedback
TURN_MARK = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def with_system(row: Row, prompt: str) -> Any:
    """Read the prompt in a column, after the system text of its row, if it has any."""
    question = turns_or_text(row[prompt])
    system = row.get("system_prompt") if is_empty(row.get("system")) else row["system"]
    if is_empty(system) or is_empty(question):
        return question
    turns = question if isinstance(question, list) else [{"role": "user", "content": question}]
    return [{"role": "system", "content": system}, *turns]


# ---- UltraFeedback ----


def ratings_by(aspects: tuple[str, ...], row: Row) -> Row:
    """Rate each completion of UltraFeedback by the mean of some aspects."""
    answers = objects_of(row["completions"], "completions")
    ratings = [mean(_aspect(answer, aspect) for aspect in aspects) for answer in answers]
    return {"completions": [answer.get("response") for answer in answers], "ratings": ratings}


def _aspect(answer: Row, aspect: str) -> float:
    judged = answer.get("annotations")
    judged = judged.get(aspect) if isinstance(judged, dict) else None
    rating = judged.get("Rating") if isinstance(judged, dict) else None
    if is_empty(rating) or rating == "N/A":
        raise BadRow(f"an answer without a rating of its {aspect}")
    return read_cell(rating, f"the rating of {aspect}")


# ---- HelpSteer ----


def turns_of(prompt: Any) -> Any:
    """Read the turns of a HelpSteer 2 prompt, which stand between marks, as messages."""
    pieces = TURN_MARK.split(prompt) if isinstance(prompt, str) else [prompt]
    if len(pieces) == 1:
        return prompt
    roles = ["user", *(role.lower() for role in pieces[1::2])]
    turns = zip(roles, pieces[::2], strict=True)
    return [{"role": role, "content": text} for role, text in turns if text.strip()]


def turns_of_prompt(row: Row) -> Any:
    """Read the prompt of HelpSteer 2."""
    return turns_of(row["prompt"])


def strength(answers: str, field: str, margin: bool, row: Row) -> Row:
    """Choose a side by a preference from -3, the first is much better, to 3, the second is.

    Args:
        answers: beginning of the names of the two, which end with 1 and 2.
        field: column of the preference.
        margin: whether its size is the margin.
    """
    vote = vote_of_sign(row[field], field, 3)
    sides = sides_of_votes((row[f"{answers}1"], row[f"{answers}2"]), [vote])
    return {**sides, "margin": abs(read_cell(row[field], field))} if margin else sides


# ---- PKU-SafeRLHF ----


def safe_rlhf(label: str, safe: bool, row: Row) -> Row:
    """Choose a side by one of two labels.

    Args:
        label: "better" for the more helpful answer, "safer" for the less harmful one.
        safe: whether to drop rows whose chosen answer is marked unsafe.
    """
    vote = vote_of_index(row[f"{label}_response_id"], f"{label}_response_id")
    if safe:
        marks = [read_flag(row[f], f) for f in ("is_response_0_safe", "is_response_1_safe")]
        if not any(marks):
            raise BadRow("both answers are marked unsafe")
        if not marks[0 if vote == 1 else 1]:
            raise BadRow(f"the {label} answer is marked unsafe")
    return sides_of_votes((row["response_0"], row["response_1"]), [vote])


def safety(row: Row) -> Row:
    """Read an answer of BeaverTails, and whether it is safe as its label."""
    return {"completion": row["response"], "label": read_flag(row["is_safe"], "is_safe")}


# ---- comparisons of two answers ----


def shp(row: Row) -> Row:
    """Choose a side of SHP: 1 in ``labels`` says that answer A is better."""
    vote = 1.0 - float(vote_of_index(row["labels"], "labels"))
    scores = [row.get("score_A"), row.get("score_B")]
    if not any(is_empty(score) for score in scores):
        first, second = (read_cell(score, "a score") for score in scores)
        if (first - second) * (vote - 0.5) < 0:
            raise BadRow("labels contradicts score_A and score_B")
    return sides_of_votes((row["human_ref_A"], row["human_ref_B"]), [vote])


def webgpt_question(row: Row) -> Any:
    """Read the question of WebGPT's comparisons."""
    question = parsed(row["question"])
    return question.get("full_text") if isinstance(question, dict) else row["question"]


def webgpt(row: Row) -> Row:
    """Choose the answer with the positive score."""
    scores = [read_cell(row[f], f) for f in ("score_0", "score_1")]
    if scores[0] * scores[1] > 0:
        raise BadRow("score_0 and score_1 prefer both answers or none")
    vote = TIE if scores[0] == scores[1] else float(scores[0] > scores[1])
    return sides_of_votes((row["answer_0"], row["answer_1"]), [vote])


def to_summarize(row: Row) -> str:
    """Write the post or the article that is to be summarized, in the form of the paper."""
    info = parsed(row["info"])
    if not isinstance(info, dict):
        raise BadRow("info is not an object")
    body = "post" if not is_empty(info.get("post")) else "article"
    if is_empty(info.get(body)):
        raise BadRow("info has neither a post nor an article")
    lines = [f"{body.upper()}: {info[body]}", "TL;DR:"]
    if not is_empty(info.get("title")):
        lines.insert(0, f"TITLE: {info['title']}")
    if not is_empty(info.get("subreddit")):
        lines.insert(0, f"SUBREDDIT: r/{info['subreddit']}")
    return "\n".join(lines)


def summaries(row: Row) -> Row:
    """Choose one of two summaries."""
    both = objects_of(row["summaries"], "summaries")
    if len(both) != 2:
        raise BadRow(f"{len(both)} summaries, not 2")
    texts = both[0].get("text"), both[1].get("text")
    return sides_of_votes(texts, [vote_of_index(row["choice"], "choice")])


def alpaca_farm_prompt(row: Row) -> Any:
    """Read the instruction of AlpacaFarm, and its input."""
    question = row["instruction"]
    if is_empty(row.get("input")) or not isinstance(question, str):
        return question
    return f"{question}\n\n{row['input']}"


def alpaca_farm(row: Row) -> Row:
    """Choose an output by its number, 1 or 2."""
    if is_empty(row["preference"]):
        raise BadRow("nobody voted")
    vote = vote_of_word(row["preference"], ("output_1", "output_2"))
    return sides_of_votes((row["output_1"], row["output_2"]), [vote])


def several_sides(row: Row) -> Row:
    """Rank RewardBench 2's lists of good and of bad answers; those of a list are tied."""
    sides = [parsed(row[side]) for side in ("chosen", "rejected")]
    if not all(isinstance(side, list) and side for side in sides):
        raise BadRow("chosen or rejected is not a list of answers")
    ranks = [rank for rank, side in enumerate(sides) for _ in side]
    return {"completions": [*sides[0], *sides[1]], "ranks": ranks}


def stack_exchange(row: Row) -> Row:
    """Rate answers by the score that their votes gave."""
    answers = objects_of(row["answers"], "answers")
    scores = [read_cell(answer.get("pm_score"), "pm_score") for answer in answers]
    return {"completions": [answer.get("text") for answer in answers], "ratings": scores}


def transcript(row: Row) -> Row:
    """Read a red-team transcript, whose prompt is what stands before its last answer."""
    return {"chosen": row["transcript"]}
