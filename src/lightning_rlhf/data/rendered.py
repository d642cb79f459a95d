"""Prompts that were rendered beforehand: text that already has the chat template's marks."""

from __future__ import annotations

from lightning_rlhf.text.messages import BadRow, Message


class RenderedPrompts:
    """Tell rendered prompts from others, and join them with their answers.

    Args:
        words: a question, an answer and a second question.
        asked: the template's text of the question, up to the answer.
        unasked: the same without the opening of the answer.
        whole: its text of the question and the answer.
        longer: its text of all three.
        marks: the special tokens' texts.
        bos: the text of the first token of a document; "" if there is none.
    """

    def __init__(
        self,
        words: tuple[str, str, str],
        asked: str,
        unasked: str,
        *,
        whole: str,
        longer: str,
        marks: list[str],
        bos: str,
    ):
        _, answer, second = words
        self.closing = whole.rpartition(answer)[2]
        self.opening = asked[len(unasked) :] if asked.startswith(unasked) else ""
        # what a template writes before an answer once it is there, and before a user's words
        self.lead = whole[len(asked) :].partition(answer)[0] if whole.startswith(asked) else ""
        between = longer.rpartition(answer)[2].partition(second)[0]
        self.user = between.removeprefix(self.closing).strip()
        self.bos = bos if bos and asked.startswith(bos) else ""
        self._starts = tuple(mark for mark in [*marks, self.user] if mark and mark in asked)

    def holds(self, prompt: str) -> bool:
        """Tell whether a prompt starts with a mark of the template and has a user's turn."""
        return bool(self.user) and prompt.lstrip().startswith(self._starts) and self.user in prompt

    def join(self, prompt: str, answer: str | Message | None) -> str:
        """Join a rendered prompt with its answer, which opens and ends once; None for the prompt.

        Raises:
            BadRow: the answer is more than text.
        """
        if not prompt.startswith(self.bos):
            prompt = self.bos + prompt
        opening = self.opening.strip()
        if opening and opening not in prompt[prompt.rindex(self.user) :]:
            prompt += self.opening
        elif opening and prompt.rstrip().endswith(opening):
            prompt = prompt.rstrip()[: -len(opening)] + self.opening.lstrip()
        if answer is None:
            return prompt
        said = self.own_words(answer)
        return prompt + self.lead * (not said.startswith(self.lead)) + said + self.closing

    def own_words(self, answer: str | Message) -> str:
        """Return the text of an answer without the opening that it may bring along.

        Raises:
            BadRow: the answer is more than text.
        """
        if isinstance(answer, dict):
            if answer.keys() - {"role", "content"}:
                raise BadRow("the prompt is text with the template's marks, its answer is a call")
            answer = answer["content"] or ""
        opening = self.opening.strip() or self.lead.strip()
        if opening and answer.lstrip().startswith(opening):
            return answer.lstrip().removeprefix(opening).lstrip()
        return answer


def ends_once(answer: str | Message, ends: list[str]) -> str | Message:
    """Drop the end tokens that the text of an answer ends with: the template writes its own."""
    text = answer["content"] if isinstance(answer, dict) else answer
    bare = text
    while True:
        end = next((end for end in ends if end and bare.rstrip().endswith(end)), None)
        if end is None:
            break
        bare = bare.rstrip()[: -len(end)]
    if bare == text:
        return answer
    return {**answer, "content": bare} if isinstance(answer, dict) else bare
