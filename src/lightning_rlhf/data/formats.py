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
from lightning_rlhf.data.sides import Answer, continued, filled, read_sides
from lightning_rlhf.text.messages import (
    BadRow,
    Message,
    Prompt,
    finished,
    is_message,
    is_table,
    is_transcript,
    parse_transcript,
    read_messages,
    read_turns,
    says_something,
)

# names of the text and the rating in the entries of a list of answers
TEXTS = ("response", "answer", "completion", "text", "content")
RATINGS = ("overall_score", "score", "rating", "reward")


class Demonstration(NamedTuple):
    """A prompt and the reply to imitate."""

    prompt: Prompt  # "" where the whole text is trained on
    reply: Answer


class Conversation(NamedTuple):
    """Many turns, of which assistant turns are to be imitated, but for ``train`` False."""

    messages: list[Message]


class Pair(NamedTuple):
    """Two answers to one prompt."""

    prompt: Prompt
    chosen: Answer
    rejected: Answer
    label: float | None  # probability that chosen is better
    margin: float | None


class Feedback(NamedTuple):
    """One answer and its label."""

    prompt: Prompt
    completion: Answer
    label: float  # probability that it is good


class Ranking(NamedTuple):
    """K answers to one prompt."""

    prompt: Prompt
    completions: list[Answer]
    ranks: list[int]  # lower is better, equal is a tie
    ratings: list[float] | None


def read_demonstration(row: dict[str, Any]) -> Demonstration | Conversation:
    """Read ``messages``, ``prompt`` + ``completion``, ``text``, or the better side of a pair."""
    if row.get("messages") is not None:
        return _conversation(read_messages(row["messages"]))
    if row.get("completion") is not None:
        return _completed(row.get("prompt"), row["completion"])
    if row.get("text") is not None:
        if is_transcript(row["text"]):
            return _conversation(parse_transcript(row["text"]))
        return Demonstration("", filled(read_text(row["text"], "text")))
    pair = read_pair(row, allow_equal=True)
    return Demonstration(pair.prompt, pair.chosen)


def _completed(prompt: Any, completion: Any) -> Demonstration | Conversation:
    """Read a completion; of one with several turns, each that the prompt lacks is imitated."""
    turns = read_turns(completion)
    if turns is None or len(turns) < 2:
        asked, (answer,) = read_sides(prompt, [completion], ["completion"])
        return Demonstration(asked, answer)
    given = sum(m["role"] == "assistant" and says_something(m) for m in read_turns(prompt) or [])
    messages = []
    for message in continued(prompt, turns):
        old = given > 0 and message["role"] == "assistant"
        given -= old
        messages.append({**message, "train": False} if old else message)
    return _conversation(messages)


def _conversation(messages: list[Message]) -> Conversation:
    """Check that something in a conversation is to be imitated, and leave out empty last turns."""
    finished(messages)
    while messages and messages[-1]["role"] == "assistant" and not says_something(messages[-1]):
        messages = messages[:-1]
    spoken = [m for m in messages if m["role"] == "assistant" and says_something(m)]
    if not spoken:
        raise BadRow("no assistant turn")
    if not any(map(counts, spoken)):
        raise BadRow("the loss of every assistant turn is switched off")
    return Conversation([_silent(m) for m in messages])


def counts(message: Message) -> bool:
    """Tell whether a message of a demonstration is to be imitated."""
    return message["role"] == "assistant" and message.get("train", True)


def _silent(message: Message) -> Message:
    """Switch the loss of an answer off that says nothing."""
    if message["role"] != "assistant" or says_something(message):
        return message
    return {**message, "train": False}


def read_pair(row: dict[str, Any], allow_equal: bool = False) -> Pair:
    """Read ``prompt`` + ``chosen`` + ``rejected``, or two conversations that share their prompt.

    A text prompt beside two whole conversations is ignored: it repeats a part of them.
    """
    sides = row.get("chosen"), row.get("rejected")
    prompt, (chosen, rejected) = read_sides(row.get("prompt"), sides, ("chosen", "rejected"))
    if chosen == rejected and not allow_equal:
        raise BadRow("identical pair")
    label, margin = (
        None if row.get(field) is None else read(row[field], field)
        for field, read in (("label", read_share), ("margin", read_number))
    )
    return Pair(prompt, chosen, rejected, label, margin)


def read_feedback(row: dict[str, Any]) -> Feedback:
    """Read ``prompt`` + ``completion`` + ``label``, or ``messages`` whose last turn is labeled.

    The label: true, 1 or a word such as "thumbs_up", against false, 0, -1 or "thumbs_down".
    """
    label = read_label(row.get("label"), "label")
    if row.get("completion") is None and row.get("messages") is not None:
        prompt, (answer,) = read_sides(None, [read_messages(row["messages"])], ["messages"])
    else:
        prompt, (answer,) = read_sides(row.get("prompt"), [row["completion"]], ["completion"])
    return Feedback(prompt, answer, label)


def read_ranking(row: dict[str, Any]) -> Ranking:
    """Read ``prompt`` + ``completions`` and their order.

    The order comes from ``ratings`` (higher is better), ``ranks`` (lower is better) or an ``order``
    ("B>A=C"). Without these columns the completions are sorted from best to worst, tie in groups
    ``[["a"], ["b", "c"]]``, or have their own: ``{"response", "rating"}``, ``{"answer", "rank"}``.
    The ranks returned are 0, 1, 2...
    """
    completions, ratings, ranks = read_answers(row["completions"])
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
    prompt, answers = read_sides(row.get("prompt"), completions, "completions")
    return Ranking(prompt, answers, order, ratings)


def read_answers(value: Any) -> tuple[list[Any], list[float] | None, list[float]]:
    """Find the answers of a list, their ratings if any, and their ranks: their own or positions."""
    if not isinstance(value, list):
        raise BadRow(f"completions is {type(value).__name__}, not a list")
    if value and all(isinstance(v, dict) and not _spoken(v) for v in value):
        return _described(value)
    answers, ranks = [], []
    for rank, answer in enumerate(value):
        tied = isinstance(answer, list) and not (answer and isinstance(answer[0], dict))
        for one in answer if tied else [answer]:
            answers.append(one)
            ranks.append(float(rank))
    return answers, None, ranks


def _spoken(value: dict[str, Any]) -> bool:
    """Tell whether an entry is a message, without a judgment beside it."""
    return (is_message(value) or is_table(value)) and all(
        value.get(key) is None for key in (*RATINGS, "rank")
    )


def _described(answers: list[dict[str, Any]]) -> tuple[list[Any], list[float] | None, list[float]]:
    """Read answers with a rating each, under the same key in all of them, or else a rank."""
    text, rating = (
        next((k for k in keys if answers[0].get(k) is not None), None) for keys in (TEXTS, RATINGS)
    )
    key = text or TEXTS[0]
    whole = text in (None, "content", "text")  # where a message has its text
    said = [a if whole and is_message(a) else a.get(key) for a in answers]
    if rating is not None:
        return said, [read_number(a.get(rating), rating) for a in answers], []
    if any(a.get("rank") is None for a in answers):
        raise BadRow(f"a completion has none of {', '.join((*RATINGS, 'rank'))}")
    return said, None, [read_number(a["rank"], "rank") for a in answers]


def first_user_turn(prompt: Prompt) -> str:
    """Return the first user turn: rows with the same one fall on the same side of a split."""
    if isinstance(prompt, str):
        return prompt
    return next((m["content"] for m in prompt if m["role"] == "user"), prompt[0]["content"])
