"""Gather rows that belong together: trees of messages, and several answers to one prompt.

Each function reads all rows of a source and yields rows of ours. What cannot be used is yielded as
``{"problem": reason}``, so that the report counts it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from lightning_rlhf.data.preference_sets import turns_of
from lightning_rlhf.data.votes import Row, is_empty, read_cell
from lightning_rlhf.text.messages import BadRow

ROLES = {"prompter": "user", "user": "user", "human": "user", "assistant": "assistant"}
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")  # of HelpSteer
# of a source, all that is read here
MESSAGE = "message_id parent_id text role rank deleted review_result".split()
COLUMNS = frozenset((*MESSAGE, "prompt", "response", *ATTRIBUTES))
ALONE = "an answer alone has nothing to be compared with"


def problem(reason: str) -> Row:
    """Make the row that stands for rows that cannot be used."""
    return {"problem": reason}


# ---- trees of messages, a row a message (OpenAssistant) ----


class Node:
    """A message of a tree."""

    def __init__(self, row: Row):
        self.row = row
        self.parent: Node | None = None
        self.replies: list[Node] = []

    @property
    def is_answer(self) -> bool:
        return ROLES.get(self.row["role"]) == "assistant"

    @property
    def rank(self) -> float | None:
        """Its rank among its siblings, 0 for the best."""
        rank = self.row.get("rank")
        return None if is_empty(rank) else read_cell(rank, "rank")

    def message(self) -> Row:
        return {"role": ROLES[self.row["role"]], "content": self.row["text"]}

    def conversation(self) -> list[Row]:
        """Return the messages from the root to this one."""
        path: list[Row] = []
        here: Node | None = self
        while here is not None:
            path.append(here.message())
            here = here.parent
        return path[::-1]


def rankings_of_trees(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield each conversation that has ranked answers, and their ranks."""
    nodes, problems = _grow(rows)
    yield from problems
    for node in nodes:
        answers = [reply for reply in node.replies if reply.is_answer]
        ranked = [(rank, reply) for reply in answers if (rank := reply.rank) is not None]
        if len(ranked) > 1:
            ranked.sort(key=lambda pair: pair[0])
            completions = [reply.row["text"] for _, reply in ranked]
            ranks = [rank for rank, _ in ranked]
            yield {"prompt": node.conversation(), "completions": completions, "ranks": ranks}
            answers = [reply for reply in answers if reply.rank is None]
        reason = "an answer without a rank" if len(answers) > 1 or len(ranked) > 1 else ALONE
        yield from (problem(reason) for _ in answers)


def questions(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield each conversation that ends with a question."""
    nodes, problems = _grow(rows)
    yield from problems
    yield from ({"prompt": node.conversation()} for node in nodes if not node.is_answer)


def best_paths(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield one conversation of each tree: at every message the reply of the best rank.

    Of replies without a rank the first is taken. A question at the end is left out.
    """
    nodes, problems = _grow(rows)
    yield from problems
    for node in nodes:
        if node.parent is not None:
            continue
        while node.replies:
            node = min(node.replies, key=_by_rank)  # of equals, the first
        while not node.is_answer and node.parent is not None:
            node = node.parent
        if node.is_answer:
            yield {"messages": node.conversation()}
        else:
            yield problem("a question without an answer")


def _by_rank(node: Node) -> tuple[bool, float]:
    rank = node.rank
    return rank is None, rank or 0.0


def _grow(rows: Iterable[Row]) -> tuple[list[Node], list[Row]]:
    """Make trees of the messages; return those that hang together, roots first, and the others."""
    nodes: dict[Any, Node] = {}
    problems = []
    for row in rows:
        reason = _fault(row)
        if reason is None and row["message_id"] in nodes:
            reason = f"message_id {row['message_id']!r} is given twice"
        if reason is None:
            nodes[row["message_id"]] = Node(row)
        else:
            problems.append(problem(reason))
    reached = []
    for node in nodes.values():
        parent = node.row["parent_id"]
        if is_empty(parent):
            reached.append(node)
        elif parent in nodes:
            node.parent = nodes[parent]
            nodes[parent].replies.append(node)
    for node in reached:  # it grows while it is read
        reached.extend(node.replies)
    lost = len(nodes) - len(reached)
    problems += [problem("a reply to a message that is not there or is left out")] * lost
    return reached, problems


def _fault(row: Row) -> str | None:
    """Say why a message cannot be used, with the replies to it."""
    names = [row["message_id"], row["parent_id"]]
    if is_empty(names[0]) or not all(isinstance(n, str | int | float | None) for n in names):
        return "a message whose message_id or parent_id is not a name"
    if not isinstance(row["role"], str) or row["role"] not in ROLES:
        return f"a message with the role {row['role']!r}"
    if not isinstance(row["text"], str) or not row["text"].strip():
        return "a message without text"
    if row.get("deleted") is True:
        return "a deleted message"
    if row.get("review_result") is False:
        return "a message that its review rejected"
    try:
        Node(row).rank  # noqa: B018  (it may not be a number)
    except BadRow as reason:
        return str(reason)
    return None


# ---- several rows of one prompt (HelpSteer) ----


def rankings_by(attribute: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the ranking of the answers to each prompt by an attribute, best first."""
    answers: dict[str, list[tuple[float, Any]]] = {}
    for row in rows:
        try:
            rating = read_cell(row[attribute], attribute)
        except BadRow as reason:
            yield problem(str(reason))
            continue
        prompt = json.dumps(row["prompt"], sort_keys=True, default=str)
        answers.setdefault(prompt, []).append((rating, row["response"]))
    for prompt, rated in answers.items():
        if len(rated) == 1:
            yield problem(ALONE)
            continue
        rated.sort(key=lambda pair: -pair[0])
        yield {
            "prompt": turns_of(json.loads(prompt)),
            "completions": [text for _, text in rated],
            "ranks": [-rating for rating, _ in rated],
        }


def prompts_alone(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield each prompt once."""
    prompts = dict.fromkeys(json.dumps(row["prompt"], default=str) for row in rows)
    yield from ({"prompt": turns_of(json.loads(prompt))} for prompt in prompts)
