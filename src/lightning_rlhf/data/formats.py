"""Read rows as people store them into one shape each: conversation, pair, feedback, ranking."""

from __future__ import annotations

from typing import Any, NamedTuple

from lightning_rlhf.data.fields import (
    ranks_of,
    read_label,
    read_number,
    read_numbers,
    read_order,
    read_share,
    read_text,
)
from lightning_rlhf.text.messages import (
    BadRow,
    Message,
    Prompt,
    is_transcript,
    parse_transcript,
    read_messages,
    read_prompt,
)

# names of the text and the rating in the entries of a list of answers
TEXTS = ("response", "answer", "completion", "text", "content")
RATINGS = ("overall_score", "score", "rating", "reward")


class Demonstration(NamedTuple):
    """A prompt and the reply to imitate."""

    prompt: Prompt  # "" where the whole text is trained on
    reply: str


class Conversation(NamedTuple):
    """Many turns, of which every assistant turn is to be imitated."""

    messages: list[Message]


class Pair(NamedTuple):
    """Two answers to one prompt."""

    prompt: Prompt
    chosen: str
    rejected: str
    label: float | None  # probability that chosen is better
    margin: float | None


class Feedback(NamedTuple):
    """One answer and its label."""

    prompt: Prompt
    completion: str
    label: float  # probability that it is good


class Ranking(NamedTuple):
    """K answers to one prompt."""

    prompt: Prompt
    completions: list[str]
    ranks: list[int]  # lower is better, equal is a tie
    ratings: list[float] | None


def read_demonstration(row: dict[str, Any]) -> Demonstration | Conversation:
    """Read ``messages``, ``prompt`` + ``completion``, ``text``, or the better side of a pair."""
    if row.get("messages") is not None:
        return _conversation(read_messages(row["messages"]))
    if row.get("completion") is not None:
        return Demonstration(
            read_prompt(row.get("prompt")), _filled(read_text(row["completion"], "completion"))
        )
    if row.get("text") is not None:
        if is_transcript(row["text"]):
            return _conversation(parse_transcript(row["text"]))
        return Demonstration("", _filled(read_text(row["text"], "text")))
    pair = read_pair(row, allow_equal=True)
    return Demonstration(pair.prompt, pair.chosen)


def _conversation(messages: list[Message]) -> Conversation:
    if not any(
        m["role"] == "assistant" and (m["content"].strip() or m.get("tool_calls")) for m in messages
    ):
        raise BadRow("no assistant turn")
    return Conversation(messages)


def read_pair(row: dict[str, Any], allow_equal: bool = False) -> Pair:
    """Read ``prompt`` + ``chosen`` + ``rejected``, or two conversations that share their prompt.

    A prompt beside two whole conversations is ignored: it repeats their beginning.
    """
    sides = row.get("chosen"), row.get("rejected")
    prompt: Prompt
    if row.get("prompt") is None or any(isinstance(s, list) and len(s) > 1 for s in sides):
        prompt, chosen, rejected = _split_conversations(*sides)
    else:
        prompt = read_prompt(row["prompt"])
        chosen, rejected = read_text(sides[0], "chosen"), read_text(sides[1], "rejected")
    if chosen == rejected and not allow_equal:
        raise BadRow("identical pair")
    label, margin = (
        None if row.get(field) is None else read(row[field], field)
        for field, read in (("label", read_share), ("margin", read_number))
    )
    return Pair(prompt, _filled(chosen), _filled(rejected), label, margin)


def _split_conversations(chosen: Any, rejected: Any) -> tuple[list[Message], str, str]:
    """Split two conversations that differ only in their last turn.

    The cut is between turns, never inside a token.
    """
    sides = [
        parse_transcript(side) if is_transcript(side) else read_messages(side)
        for side in (chosen, rejected)
        if is_transcript(side) or isinstance(side, list)
    ]
    if len(sides) != 2:
        raise BadRow("without a prompt column, both sides must be messages or transcripts")
    if sides[0][:-1] != sides[1][:-1]:
        raise BadRow("the two sides differ before their last turn")
    if not sides[0][:-1] or {sides[0][-1]["role"], sides[1][-1]["role"]} != {"assistant"}:
        raise BadRow("the last turn is not an assistant's answer")
    return sides[0][:-1], sides[0][-1]["content"], sides[1][-1]["content"]


def read_feedback(row: dict[str, Any]) -> Feedback:
    """Read ``prompt`` + ``completion`` + ``label``, or ``messages`` whose last turn is labeled.

    The label: true, 1 or a word such as "thumbs_up", against false, 0, -1 or "thumbs_down".
    """
    label = read_label(row.get("label"), "label")
    if row.get("completion") is None and row.get("messages") is not None:
        messages = read_messages(row["messages"])
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise BadRow("the last turn is not an assistant's answer")
        return Feedback(messages[:-1], _filled(messages[-1]["content"]), label)
    completion = _filled(read_text(row["completion"], "completion"))
    return Feedback(read_prompt(row.get("prompt")), completion, label)


def read_ranking(row: dict[str, Any]) -> Ranking:
    """Read ``prompt`` + ``completions`` and their order.

    The order comes from ``ratings`` (higher is better), ``ranks`` (lower is better) or an ``order``
    ("B>A=C"). Without these columns the completions are sorted from best to worst, tie in groups
    ``[["a"], ["b", "c"]]``, or have their own: ``{"response", "rating"}``, ``{"answer", "rank"}``.
    The ranks returned are 0, 1, 2...
    """
    completions, ratings, ranks = _answers(row["completions"])
    if row.get("ratings") is not None:
        ratings = read_numbers(row["ratings"], "ratings")
    elif row.get("ranks") is not None:
        ranks = read_numbers(row["ranks"], "ranks")
    elif row.get("order") is not None:
        ranks = [float(rank) for rank in read_order(row["order"], len(completions))]
    order = ranks_of(ranks if ratings is None else [-rating for rating in ratings])
    if len(order) != len(completions):
        raise BadRow(f"{len(completions)} completions but {len(order)} ranks")
    if len(set(order)) < 2:
        raise BadRow("no completion is better than another")
    return Ranking(read_prompt(row.get("prompt")), completions, order, ratings)


def _answers(value: Any) -> tuple[list[str], list[float] | None, list[float]]:
    """Read texts, their ratings if any, and their ranks: their own, or by their positions."""
    if not isinstance(value, list):
        raise BadRow(f"completions is {type(value).__name__}, not a list")
    if value and all(isinstance(v, dict) and v.get("role") is None for v in value):
        return _described(value)
    texts, ranks = [], []
    for rank, answer in enumerate(value):
        tied = isinstance(answer, list) and not (answer and isinstance(answer[0], dict))
        for text in answer if tied else [answer]:
            texts.append(_filled(read_text(text, "completions")))
            ranks.append(float(rank))
    return texts, None, ranks


def _described(answers: list[dict[str, Any]]) -> tuple[list[str], list[float] | None, list[float]]:
    """Read answers with a rating each, under the same key in all of them, or else a rank."""
    text, rating = (
        next((k for k in keys if answers[0].get(k) is not None), None) for keys in (TEXTS, RATINGS)
    )
    texts = [_filled(read_text(a.get(text or TEXTS[0]), text or TEXTS[0])) for a in answers]
    if rating is not None:
        return texts, [read_number(a.get(rating), rating) for a in answers], []
    if any(a.get("rank") is None for a in answers):
        raise BadRow(f"a completion has none of {', '.join((*RATINGS, 'rank'))}")
    return texts, None, [read_number(a["rank"], "rank") for a in answers]


def _filled(text: str) -> str:
    if not text.strip():
        raise BadRow("empty answer")
    return text


def first_user_turn(prompt: Prompt) -> str:
    """Return the first user turn: rows with the same one fall on the same side of a split."""
    if isinstance(prompt, str):
        return prompt
    return next((m["content"] for m in prompt if m["role"] == "user"), prompt[0]["content"])
