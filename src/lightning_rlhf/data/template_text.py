"""Write prompts and answers as text: by a chat template, or in a plain way of our own."""

from __future__ import annotations

import json
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data.rendered import RenderedPrompts
from lightning_rlhf.data.rendering import JinjaRenderer
from lightning_rlhf.data.template_settings import Template, TemplateSettings
from lightning_rlhf.data.text_tokenizer import TextTokenizer
from lightning_rlhf.data.turns import not_kept
from lightning_rlhf.text.messages import (
    SPEAKERS,
    BadRow,
    Message,
    Prompt,
    Tools,
    answered,
    begun_turn,
)

PROBE = "answer"  # shows how a template ends an answer


class TemplateText:
    """Render prompts and answers.

    Args:
        tokenizer: of the model.
        template: "auto" (the tokenizer's chat template; without one, string prompts are kept as
            they are and messages go through "plain"), "plain" (``\\n\\nHuman: ...``,
            ``\\n\\nAssistant: ...``), "raw" (contents joined, nothing added), or a path to a Jinja
            file. All but "plain" keep text without a prompt as it is. Or a dict: one of these as
            ``name``, arguments of the chat template (``enable_thinking``), and a ``date`` for one
            that asks for today's.

    Raises:
        FileNotFoundError: the template is neither a name nor a file.
        ValueError: it has no use for an argument.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template = "auto"):
        self.tokenizer = tokenizer
        settings = TemplateSettings.read(template)
        self.template = settings.name
        self._text = TextTokenizer(tokenizer)
        self.jinja = settings.text(tokenizer)
        # a tokenizer may have two templates: it chooses
        own = None if self.template == "auto" else self.jinja
        self._renderer = JinjaRenderer(tokenizer, own, settings.arguments, today=settings.date)

    @cached_property
    def date_note(self) -> str:
        """Clause for the log on the date that a template writes; "" for none."""
        return self._renderer.date_note if self.jinja is not None else ""

    @cached_property
    def identity(self) -> str:
        """All that a template's text depends on but the messages, for keys of kept results."""
        arguments, day = self._renderer.arguments, self._renderer.today if self.date_note else None
        given = json.dumps([arguments, str(day)], sort_keys=True) if arguments or day else ""
        return (self.jinja or self.template) + given

    def render(
        self, prompt: Prompt, answer: str | Message | None = None, tools: Tools = None
    ) -> str:
        """Render a conversation up to its answer, or with the given answer.

        An answer is a message where it calls a tool. Only a chat template writes the tools. A
        prompt with the template's marks is taken as it is. One that ends with the beginning of the
        answer is rendered up to its end.
        """
        begun = begun_turn(prompt)
        if begun is not None and answer is None:
            return self._begun(prompt[:-1], begun["content"], tools)
        if begun is not None and answer is not None:
            return self.render(prompt[:-1], answered(prompt, answer)[-1], tools)
        reply: Message = (
            answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}
        )
        if isinstance(prompt, str):
            if self.rendered is not None and self.rendered.holds(prompt):
                return self.rendered.join(prompt, answer)
            if self.template != "plain" and (self.jinja is None or not prompt):
                return prompt + _plain(reply)
            prompt = [{"role": "user", "content": prompt}] if prompt else []
        messages = [*prompt, reply] if answer is not None else prompt
        if self.jinja is not None:
            return self._renderer.render(messages, answer is None, tools)
        if self.template == "raw":
            return "".join(_plain(m) for m in messages)
        text = "".join(f"\n\n{SPEAKERS.get(m['role'], m['role'])}: {_plain(m)}" for m in messages)
        return text + "\n\nAssistant:" if answer is None else text

    def stock_ids(self, messages: list[Message], tools: Tools, asked: bool) -> list[int]:
        """Tokenize a conversation by the tokenizer's own ``apply_chat_template``.

        Raises:
            BadRow: the template refuses it.
        """
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tools, chat_template=self.jinja, add_generation_prompt=asked,
                tokenize=False, **self._renderer.arguments,
            )  # fmt: skip
        except Exception as reason:  # a template may raise anything
            raise BadRow(f"the chat template refuses: {reason}") from reason
        return self._text.ids(str(text))

    def _begun(self, prompt: Prompt, begun: str, tools: Tools = None) -> str:
        """Render a prompt and the beginning of its answer, without what ends an answer."""
        before = self.render(prompt, None, tools)
        if not begun:
            return before
        whole = self.render(prompt, begun, tools)
        before, tail = self._meet(before, whole)
        opening, found, _ = tail.partition(begun)
        return before + opening + begun if found else before + begun

    @cached_property
    def rendered(self) -> RenderedPrompts | None:
        """Prompts with the template's marks; None if it has none."""
        if self.jinja is None:
            return None
        words = ("question", PROBE, "another")
        turns = [
            said(word, role)
            for word, role in zip(words, ("user", "assistant", "user"), strict=True)
        ]
        try:
            asked, unasked = (self._renderer.render(turns[:1], o, None) for o in (True, False))
            whole, longer = (self._renderer.render(turns[:n], False, None) for n in (2, 3))
        except BadRow:
            return None
        marks = [str(self.tokenizer.convert_ids_to_tokens(i)) for i in sorted(self._text.marks)]
        return RenderedPrompts(
            words,
            asked,
            unasked,
            whole=whole,
            longer=longer,
            marks=marks,
            bos=str(self.tokenizer.bos_token or ""),
        )

    def _meet(self, before: str, whole: str) -> tuple[str, str]:
        """Return a prompt as it is once its answer is there, and what follows it."""
        if whole.startswith(before):
            return before, whole[len(before) :]
        start = before.removesuffix(self.only_asked or "")
        if whole.startswith(start):
            return start, whole[len(start) :]
        if self.only_asked is not None:
            raise BadRow("the chat template rewrites the prompt once the answer is there")
        raise ValueError(not_kept(before, whole))

    @cached_property
    def only_asked(self) -> str | None:
        """The end of a prompt that is not there once an answer is; None if more is different.

        Templates of reasoning models open the thoughts in a prompt, and leave out empty thoughts.
        """
        try:
            before, whole = self.render("question"), self.render("question", PROBE)
        except BadRow:
            return ""  # it has its reasons for each row
        if whole.startswith(before):
            return ""
        start = whole.rpartition(PROBE)[0]
        return before[len(start) :] if before.startswith(start) and start else None


def _plain(message: Message) -> str:
    """Write a message without a chat template; tool calls as JSON, one per line.

    Raises:
        BadRow: it has reasoning.
    """
    if message.get("reasoning_content"):
        raise BadRow("only a chat template can write the reasoning of an assistant turn")
    calls = [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ()]
    content = message["content"] or ""
    return "\n".join([content, *calls] if content or not calls else calls)


def said(text: str, role: str = "assistant") -> Message:
    """Make a message of a text."""
    return {"role": role, "content": text}
