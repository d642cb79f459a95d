"""How a judge is asked which of two answers is better: plain strings that anyone may replace."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Literal

from lightning_rlhf.constitution.generator import Message, Prompt
from lightning_rlhf.constitution.seeds import as_messages
from lightning_rlhf.constitution.transcripts import Comparison, turns

ASK = """\
Here is a conversation between a user and an assistant.

{conversation}

{question}

({a}) {first}

({b}) {second}

"""
DIRECT = ASK + "Reply with {a} or {b} and nothing else."
REASONED = ASK + "Think it through in a few sentences before you decide."
CONCLUDE = "So the better answer, {a} or {b}, is which? Reply with the letter and nothing else."
FIELDS = ("conversation", "question", "first", "second", "a", "b")
SPEAKER = {"user": "User", "assistant": "Assistant", "system": "System"}


@dataclass(frozen=True)
class Question:
    """The texts around two answers.

    Each may use ``{conversation}``, ``{question}`` (the drawn principle's comparison), ``{first}``,
    ``{second}`` and the labels ``{a}`` and ``{b}``; ``conclude`` only the labels.
    """

    direct: str = DIRECT
    reasoned: str = REASONED  # asks for a chain of thought
    conclude: str = CONCLUDE  # asks for the label after it
    concluded_by: Literal["user", "assistant"] = "user"  # whose turn says so: a new one, or the
    # assistant's own, which the label then continues

    def __post_init__(self) -> None:
        for name in ("direct", "reasoned", "conclude"):
            used = {field for _, field, _, _ in string.Formatter().parse(getattr(self, name))}
            wrong = sorted(str(f) for f in used - {None, *FIELDS})
            if wrong:
                raise ValueError(
                    f"Question.{name} uses {{{wrong[0]}}}: known are {', '.join(FIELDS)}; "
                    "write {{ for a brace"
                )
        if self.concluded_by not in ("user", "assistant"):
            raise ValueError(
                f'concluded_by must be "user" or "assistant", got {self.concluded_by!r}'
            )

    def ask(
        self,
        prompt: Prompt,
        principle: str,
        first: str,
        second: str,
        labels: tuple[str, str],
        reasoned: bool,
    ) -> Message:
        """The user's turn that shows both answers."""
        text = (self.reasoned if reasoned else self.direct).format(
            conversation=transcript(prompt), question=principle, first=first, second=second,
            a=labels[0].strip(), b=labels[1].strip(),
        )  # fmt: skip
        return {"role": "user", "content": text}

    def after(self, reasoning: str, labels: tuple[str, str]) -> list[Message]:
        """What follows the question once there is a chain of thought."""
        text = self.conclude.format(
            a=labels[0].strip(), b=labels[1].strip(), conversation="", question="", first="",
            second="",
        )  # fmt: skip
        if self.concluded_by == "user":
            return turns(("assistant", reasoning), ("user", text))
        return turns(("assistant", f"{reasoning}{text}"))

    def example(self, shown: Comparison, labels: tuple[str, str], reasoned: bool) -> list[Message]:
        """A worked example as turns, up to its label."""
        label = labels[shown.better == "second"]
        asked = self.ask(shown.prompt, shown.question, shown.first, shown.second, labels, reasoned)
        if not reasoned:
            return [asked, *turns(("assistant", label))]
        *before, last = self.after(shown.reasoning, labels)
        if last["role"] == "user":
            return [asked, *before, last, *turns(("assistant", label))]
        return [asked, *before, *turns(("assistant", last["content"] + label))]


def transcript(prompt: Prompt) -> str:
    """A conversation as text; a lone question, as text or as a message, stays as it is."""
    messages = as_messages(prompt)
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(
        f"{SPEAKER.get(m['role'], m['role'].capitalize())}: {m['content']}" for m in messages
    )
