"""Turn messages into tokens, so that prompt and completion meet at a token boundary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data.text_tokenizer import TextTokenizer
from lightning_rlhf.text.messages import SPEAKERS, BadRow, Message, Prompt, Tools

PROBE = "answer"  # shows how a template ends an answer
PROBE_TOOL = {  # shows whether a template writes tools
    "type": "function",
    "function": {"name": "probe", "description": "", "parameters": {"type": "object"}},
}


class ChatTemplate:
    """Render and tokenize prompts and answers.

    Args:
        tokenizer: of the model.
        template: "auto" (the tokenizer's chat template; without one, string prompts are kept as
            they are and messages go through "plain"), "plain" (``\\n\\nHuman: ...``,
            ``\\n\\nAssistant: ...``), "raw" (contents joined, nothing added), or a path to a Jinja
            file. All but "plain" keep text without a prompt as it is.

    Raises:
        FileNotFoundError: the template is neither a name nor a file.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str = "auto"):
        self.tokenizer = tokenizer
        self.template = template
        self._text = TextTokenizer(tokenizer)
        self.jinja: str | None = None
        if template == "auto":
            self.jinja = tokenizer.get_chat_template() if tokenizer.chat_template else None
        elif template not in ("plain", "raw"):
            if not Path(template).is_file():
                raise FileNotFoundError(
                    f'template {template!r} is neither "auto", "plain", "raw" nor a file: '
                    "give one of these"
                )
            self.jinja = Path(template).read_text(encoding="utf-8")

    # ---- text ----

    def render(
        self, prompt: Prompt, answer: str | Message | None = None, tools: Tools = None
    ) -> str:
        """Render a conversation up to its answer, or with the given answer.

        An answer is a message where it calls a tool. Only a chat template writes the tools.
        """
        reply: Message = (
            answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}
        )
        if isinstance(prompt, str):
            if self.template != "plain" and (self.jinja is None or not prompt):
                return prompt + (reply["content"] or "")
            prompt = [{"role": "user", "content": prompt}] if prompt else []
        messages = [*prompt, reply] if answer is not None else prompt
        if self.jinja is not None:
            return self._render_jinja(messages, answer is None, tools)
        if self.template == "raw":
            return "".join(_plain(m) for m in messages)
        text = "".join(f"\n\n{SPEAKERS.get(m['role'], m['role'])}: {_plain(m)}" for m in messages)
        return text + "\n\nAssistant:" if answer is None else text

    def _render_jinja(self, messages: list[Message], generation_prompt: bool, tools: Tools) -> str:
        if not messages:
            raise BadRow("the chat template needs a turn before the answer")
        given = None if self.template == "auto" else self.jinja  # a tokenizer may have two
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                tools=tools,
                chat_template=given,
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
        except TemplateError as reason:
            raise BadRow(f"the chat template refuses: {reason}") from reason
        assert isinstance(text, str)
        return text

    # ---- tokens ----

    def encode_prompt(self, prompt: Prompt, tools: Tools = None) -> list[int]:
        """Tokenize everything before an answer, with one BOS if the tokenizer uses one."""
        return self._with_bos(self._text.ids(self.render(prompt, None, tools)))

    def encode_begun(
        self, prompt: Prompt, begun: str = "", tails: Sequence[str] = ()
    ) -> tuple[list[int], list[list[int]]]:
        """Tokenize a prompt with the beginning of its answer, and some continuations of it.

        Prompt and continuation are tokenized as one text and cut where they meet; if a token
        crosses that point, the continuation is tokenized alone.
        """
        lead = self._text.ids(self._begun(prompt, begun))
        continuations = []
        for tail in tails:
            both = self._text.ids(self._begun(prompt, begun + tail))
            cut = both[: len(lead)] == lead and len(both) > len(lead)
            continuations.append(both[len(lead) :] if cut else self._text.ids(tail))
        return self._with_bos(lead), continuations

    def _begun(self, prompt: Prompt, begun: str) -> str:
        """Render a prompt and the beginning of its answer, without what ends an answer."""
        before = self.render(prompt)
        if not begun:
            return before
        opening, found, _ = _tail(before, self.render(prompt, begun)).partition(begun)
        return before + opening + begun if found else before + begun

    def encode_answer(self, prompt: Prompt, answer: str, tools: Tools = None) -> list[int]:
        """Tokenize an answer and its end token: what the whole conversation adds to its prompt.

        Raises:
            ValueError: the template renders the prompt differently once the answer is there, or
                writes no end token after it.
        """
        before, whole = self.render(prompt, None, tools), self.render(prompt, answer, tools)
        return self._ended(self._until_stop(self._added(before, whole)))

    def encode_conversation(
        self, messages: list[Message], tools: Tools = None
    ) -> tuple[list[int], list[bool]]:
        """Tokenize many turns, with the loss mask: every assistant turn with its end token."""
        ids: list[int] = []
        mask: list[bool] = []
        text = ""
        last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
        for i, message in enumerate(messages[: last + 1]):
            if message["role"] != "assistant":
                continue
            before = self.render(messages[:i], None, tools)
            whole = self.render(messages[:i], message, tools)
            opening, answer = self._added(text, before), self._added(before, whole)
            turn = self._until_stop(answer)
            rest = answer[len(turn) :]  # text of the template after the end token
            if i == last and self._ended(turn) != turn:
                turn, rest = self._ended(turn), []
            ids += opening + turn + rest
            mask += [False] * len(opening) + [True] * len(turn) + [False] * len(rest)
            text = whole
        with_bos = self._with_bos(ids)
        return with_bos, [False] * (len(with_bos) - len(ids)) + mask

    @cached_property
    def ending_note(self) -> str:
        """Clause for the log on how answers end; "" if they end with the eos_token.

        Raises:
            ValueError: the chat template writes no end token after an answer.
        """
        turn_end = self._turn_end
        if turn_end in (None, self._text.eos):
            return ""
        token = self.tokenizer.convert_ids_to_tokens(turn_end)
        return (
            f"the chat template ends an answer with {token!r}, not the tokenizer's eos_token "
            f"{self.tokenizer.eos_token!r}: both are trained on, and the "
            "eos_token is added after the last answer; "
        )

    @cached_property
    def tools_note(self) -> str:
        """Clause for the log on tools that are not written; "" if they are."""
        if self.jinja is None:
            return "tools are not written: only a chat template writes them; "
        try:
            without, with_one = (self.render("question", None, t) for t in (None, [PROBE_TOOL]))
        except BadRow:
            return ""
        return "tools are not written: the chat template ignores them; " * (without == with_one)

    @cached_property
    def end_ids(self) -> set[int]:
        """All tokens that end an answer."""
        return {token for token in (self._text.eos, self._turn_end) if token is not None}

    def _ended(self, turn: list[int]) -> list[int]:
        """End a last turn with eos: every decoder stops at eos."""
        assert self._text.eos is not None, "_until_stop has checked it"
        return turn if turn[-1:] == [self._text.eos] else [*turn, self._text.eos]

    def _until_stop(self, ids: list[int]) -> list[int]:
        """Cut off what a template writes after the last end token; add eos if there is none."""
        if self._text.eos is None:
            raise ValueError("the tokenizer has no eos_token: set one, else no answer can end")
        for i in range(len(ids) - 1, -1, -1):
            if ids[i] in self.end_ids:
                return ids[: i + 1]
        return [*ids, self._text.eos]

    @cached_property
    def _turn_end(self) -> int | None:
        """The token with which a chat template ends an answer: eos, else its first special token.

        It is read off the text after a probe. It is None without a chat template, or if the
        template refuses or rewrites the probe: then only eos ends an answer.

        Raises:
            ValueError: the template writes no such token, so no model would learn to stop.
        """
        if self.jinja is None:
            return None
        try:
            whole = self.render("question", PROBE)
        except BadRow:
            return None
        _, found, closing = whole.rpartition(PROBE)
        ids = self._text.ids(closing)
        if not found or self._text.eos in ids:
            return self._text.eos if found else None
        marks = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        end = next((i for i in ids if i in marks), None)
        if end is None:
            place = f"{closing[:40]!r} after" if closing else "nothing after"
            raise ValueError(
                f"the chat template writes no end token behind an answer, but {place} "
                f"{(whole[: len(whole) - len(closing)])[-40:]!r}, so a model would never learn to "
                "stop: write {{ eos_token }} there, or a special token of the tokenizer, or give "
                'template="plain"'
            )
        return end

    def _added(self, before: str, whole: str) -> list[int]:
        """Tokenize the part of ``whole`` after ``before``."""
        return self._text.ids_after(before, _tail(before, whole))

    def _with_bos(self, ids: list[int]) -> list[int]:
        """Put BOS in front once: a chat template writes its own, else the tokenizer decides."""
        bos = self._text.bos
        if bos is None or ids[:1] == [bos] or (ids and self.jinja is not None):
            return ids
        return [bos, *ids]


def _plain(message: Message) -> str:
    """Write a message without a chat template; tool calls as JSON, one per line."""
    calls = [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return "\n".join([message["content"], *calls] if message["content"] else calls)


def _tail(before: str, whole: str) -> str:
    """Return the part of ``whole`` after ``before``."""
    if whole.startswith(before):
        return whole[len(before) :]
    at = next(
        (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(whole)
    )
    raise ValueError(
        "the chat template does not keep the prompt as a prefix of the conversation: it writes "
        f"{before[at : at + 40]!r} before an answer but {whole[at : at + 40]!r} once the answer is "
        'there; give template="plain" or a Jinja file that renders both alike'
    )
