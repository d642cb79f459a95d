"""Say how columns that no layout reads can be read, or why they cannot."""

from __future__ import annotations

from collections.abc import Collection

from lightning_rlhf.data.exports import ANSWERS

EDITS = "each edit is read as better than the other with columns={{'context': 'prompt', {}}}"
HINTS = {  # columns -> what to do
    "context original_response edited_response": EDITS.format(
        "'edited_response': 'chosen', 'original_response': 'rejected'"
    ),
    "context good_edited_response bad_edited_response": EDITS.format(
        "'good_edited_response': 'chosen', 'bad_edited_response': 'rejected'"
    ),
    "context response1 response2 feedback1 feedback2": (
        "feedback on two answers says not which is better; take the config preference of this set"
    ),
    "info summary": "ratings of one summary a row; take the config comparisons of this set",
    "message_tree_id prompt tree_state": (
        "a whole tree of messages a row; take the file of this set that has a message a row"
    ),
}


def hint(columns: Collection[str]) -> str:
    """Say what to do about columns, "" if nothing is known of them."""
    there = set(columns)
    for needed, what in HINTS.items():
        if there >= set(needed.split()):
            return what
    answers = next((names for names in ANSWERS if there >= {"prompt", *names}), None)
    if answers is None:
        return ""
    return (
        f"{answers[0]} and {answers[1]} are read beside a vote; name its column with "
        "columns={'yours': 'preference'}"
    )
