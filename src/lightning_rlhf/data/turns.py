"""Find an answer of a conversation again once the conversation goes on."""

from __future__ import annotations

from lightning_rlhf.data.text_tokenizer import TextTokenizer
from lightning_rlhf.text.messages import BadRow


class RewrittenHistory(BadRow):
    """A conversation whose earlier turns the chat template writes in another way at its end."""


def turn_in_history(
    tokenizer: TextTokenizer, before: str, whole: str, after: str, *, spoken: int = 0
) -> tuple[list[int], list[int]]:
    """Tokenize an answer as a longer conversation has it, with its end, and what follows.

    A template may end the last turn in another way than those before it.

    Args:
        tokenizer: of texts.
        before: the text up to the answer.
        whole: with the answer as the last turn.
        after: up to the next answer.
        spoken: number of tokens of what the answer says, none of which is its end.

    Raises:
        RewrittenHistory: more than the end is different, or there is no end in the history.
    """
    rewritten = RewrittenHistory("the chat template rewrites earlier turns")
    if not after.startswith(before):
        raise rewritten
    own, now = (tokenizer.ids_after(before, text[len(before) :]) for text in (whole, after))
    body = len(own)
    while body > spoken and (own[body - 1] in tokenizer.marks or tokenizer.is_blank(own[body - 1])):
        body -= 1
    same = next((k for k, (a, b) in enumerate(zip(own, now, strict=False)) if a != b), len(own))
    if same < body:
        raise rewritten
    end = max((k for k in range(body, same) if own[k] in tokenizer.marks), default=None)
    if end is None:  # another end token
        end = next((k for k in range(same, len(now)) if not tokenizer.is_blank(now[k])), len(now))
    header = next((i for i in tokenizer.ids(after) if i in tokenizer.marks), None)
    if end == len(now) or now[end] not in tokenizer.marks or now[end] == header:
        raise rewritten
    return now[: end + 1], now[end + 1 :]


def not_kept(before: str, whole: str) -> str:
    """Write the sentence for a template with which no prompt is a prefix."""
    at = next(
        (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(whole)
    )
    return (
        "the chat template does not keep the prompt as a prefix of the conversation: it writes "
        f"{before[at : at + 40]!r} before an answer but {whole[at : at + 40]!r} once the answer is "
        'there; give template="plain" or a Jinja file that renders both alike'
    )
