"""The question to a judge: which of two answers is better; plain templates, all replaceable."""

from __future__ import annotations

import string
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from lightning_rlhf.constitution.transcripts import Comparison, turns
from lightning_rlhf.text.messages import Message, Prompt, as_messages

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


@dataclass(frozen=True)
class Question:
    """Templates of the texts around two answers.

    Each may use ``{conversation}``, ``{question}`` (the drawn principle's comparison), ``{first}``,
    ``{second}`` and the labels ``{a}`` and ``{b}``; ``conclude`` may use only the labels.
    """

    direct: str = DIRECT
    reasoned: str = REASONED  # asks for a chain of thought
    conclude: str = CONCLUDE  # asks for the label after it
    _: KW_ONLY
    # the turn of ``conclude``: a new user turn, or the assistant's own, which the label continues
    concluded_by: Literal["user", "assistant"] = "user"

    def __post_init__(self) -> None:
        for name in ("direct", "reasoned", "conclude"):
            used = {field for _, field, _, _ in string.Formatter().parse(getattr(self, name))}
            wrong = sorted(str(f) for f in used - {None, *FIELDS})
            if wrong:
                raise ValueError(
                    f"Question.{name} uses {{{wrong[0]}}}: use only {', '.join(FIELDS)}; "
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
        answers: tuple[str, str],
        *,
        labels: tuple[str, str],
        reasoned: bool,
    ) -> Message:
        """Build the user turn that shows both answers.

        Args:
            prompt: the conversation that they answer.
            principle: the text of the comparison.
            answers: in the order in which they are shown.
            labels: of the two options.
            reasoned: ask for a chain of thought.
        """
        text = (self.reasoned if reasoned else self.direct).format(
            conversation=transcript(prompt),
            question=principle,
            first=answers[0],
            second=answers[1],
            a=labels[0].strip(),
            b=labels[1].strip(),
        )
        return {"role": "user", "content": text}

    def after(self, reasoning: str, labels: tuple[str, str]) -> list[Message]:
        """Build the turns after the question: the chain of thought and the request for a label."""
        a, b = (label.strip() for label in labels)
        text = self.conclude.format(a=a, b=b, conversation="", question="", first="", second="")
        if self.concluded_by == "user":
            return turns(("assistant", reasoning), ("user", text))
        return turns(("assistant", f"{reasoning}{text}"))

    def example(self, shown: Comparison, labels: tuple[str, str], reasoned: bool) -> list[Message]:
        """Build the turns of a worked example, up to its label."""
        label = labels[shown.better == "second"]
        answers = (shown.first, shown.second)
        question = self.ask(shown.prompt, shown.question, answers, labels=labels, reasoned=reasoned)
        if not reasoned:
            return [question, *turns(("assistant", label))]
        *before, last = self.after(shown.reasoning, labels)
        if last["role"] == "user":
            return [question, *before, last, *turns(("assistant", label))]
        return [question, *before, *turns(("assistant", last["content"] + label))]


def transcript(prompt: Prompt) -> str:
    """Write a conversation as text; a single user turn stays as it is."""
    messages = as_messages(prompt)
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in messages)
