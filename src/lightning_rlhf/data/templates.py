"""From messages to tokens, so that prompt and completion meet at a token boundary."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lightning_rlhf.text.messages import SPEAKERS, BadRow, Message, Prompt, Tools

# text before a completion, so that no tokenizer takes it for the start of a document; the first of
# them that does not melt into the completion
ANCHORS = ("\n", "a", ".", "0")
PROBE = "answer"  # what a template is shown, to see how it ends it
PROBE_TOOL = {  # and to see whether it writes tools
    "type": "function",
    "function": {"name": "probe", "description": "", "parameters": {"type": "object"}},
}


class ChatTemplate:
    """Renders and tokenizes prompts and answers.

    Args:
        tokenizer: whose tokens.
        template: "auto" (the tokenizer's chat template; without one, string prompts are kept as
            they are and messages go through "plain"), "plain" (``\\n\\nHuman: ...``,
            ``\\n\\nAssistant: ...``), "raw" (contents joined, nothing added), or a path to a Jinja
            file. Text without a prompt is kept as it is by all but "plain".

    Raises:
        FileNotFoundError: a template that is neither a name nor a file.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str = "auto"):
        self.tokenizer = tokenizer
        self.template = template
        self.jinja: str | None = None
        if template == "auto":
            self.jinja = tokenizer.get_chat_template() if tokenizer.chat_template else None
        elif template not in ("plain", "raw"):
            if not Path(template).is_file():
                raise FileNotFoundError(
                    f'template {template!r} is neither "auto", "plain", "raw" nor a file'
                )
            self.jinja = Path(template).read_text(encoding="utf-8")

    # ---- text ----

    def render(
        self, prompt: Prompt, answer: str | Message | None = None, tools: Tools = None
    ) -> str:
        """The text up to where an answer starts, or up to and with the given answer.

        An answer is a message of its own where it asks something of a tool. Only a chat template
        writes the tools there are.
        """
        said: Message = (
            answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}
        )
        if isinstance(prompt, str):
            if self.template != "plain" and (self.jinja is None or not prompt):
                return prompt + (said["content"] or "")
            prompt = [{"role": "user", "content": prompt}] if prompt else []
        messages = [*prompt, said] if answer is not None else prompt
        if self.jinja is not None:
            return self._render_jinja(messages, answer is None, tools)
        if self.template == "raw":
            return "".join(_spoken(m) for m in messages)
        text = "".join(f"\n\n{SPEAKERS.get(m['role'], m['role'])}: {_spoken(m)}" for m in messages)
        return text + "\n\nAssistant:" if answer is None else text

    def _render_jinja(self, messages: list[Message], generation_prompt: bool, tools: Tools) -> str:
        if not messages:
            raise BadRow("the chat template needs a turn before the answer")
        given = None if self.template == "auto" else self.jinja  # it may have two
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
        """Token ids of everything before an answer, BOS once where the tokenizer wants one."""
        return self._with_bos(self._ids(self.render(prompt, None, tools)))

    def encode_begun(
        self, prompt: Prompt, begun: str = "", tails: Sequence[str] = ()
    ) -> tuple[list[int], list[list[int]]]:
        """Token ids of a prompt with the beginning of its answer, and of some ways to go on.

        A way to go on is cut where it meets the beginning as one text, if the tokenizer cuts there
        at all; else it is tokenized alone.
        """
        lead = self._ids(self._begun(prompt, begun))
        found = []
        for tail in tails:
            both = self._ids(self._begun(prompt, begun + tail))
            cut = both[: len(lead)] == lead and len(both) > len(lead)
            found.append(both[len(lead) :] if cut else self._ids(tail))
        return self._with_bos(lead), found

    def _begun(self, prompt: Prompt, begun: str) -> str:
        """The text of a prompt and of an answer that goes on: nothing behind it is closed."""
        before = self.render(prompt)
        if not begun:
            return before
        opening, found, _ = _tail(before, self.render(prompt, begun)).partition(begun)
        return before + opening + begun if found else before + begun

    def encode_answer(self, prompt: Prompt, answer: str, tools: Tools = None) -> list[int]:
        """Token ids of an answer and its end token: what the whole conversation adds to its prompt.

        Raises:
            ValueError: a template that renders the prompt differently once the answer is there, or
                writes no end token after it.
        """
        before, whole = self.render(prompt, None, tools), self.render(prompt, answer, tools)
        return self._ended(self._until_stop(self._added(before, whole)))

    def encode_conversation(
        self, messages: list[Message], tools: Tools = None
    ) -> tuple[list[int], list[bool]]:
        """Token ids of many turns, and which count: every assistant turn with its end token."""
        ids: list[int] = []
        counts: list[bool] = []
        text = ""
        last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
        for i, message in enumerate(messages[: last + 1]):
            if message["role"] != "assistant":
                continue
            before = self.render(messages[:i], None, tools)
            whole = self.render(messages[:i], message, tools)
            opening, spoken = self._added(text, before), self._added(before, whole)
            turn = self._until_stop(spoken)
            rest = spoken[len(turn) :]  # what a template writes after the end token
            if i == last and self._ended(turn) != turn:
                turn, rest = self._ended(turn), []
            ids += opening + turn + rest
            counts += [False] * len(opening) + [True] * len(turn) + [False] * len(rest)
            text = whole
        with_bos = self._with_bos(ids)
        return with_bos, [False] * (len(with_bos) - len(ids)) + counts

    @cached_property
    def ending_note(self) -> str:
        """What a user should know of how answers end, as a clause; "" where the eos_token does it.

        Raises:
            ValueError: a chat template that writes no end token after an answer.
        """
        turn_end = self._turn_end
        if turn_end in (None, self._eos):
            return ""
        token = self.tokenizer.convert_ids_to_tokens(turn_end)
        return (
            f"the chat template ends an answer with {token!r}, not the tokenizer's eos_token "
            f"{self.tokenizer.eos_token!r}: both count, the eos_token added behind the last; "
        )

    @cached_property
    def tools_note(self) -> str:
        """What a user should know whose rows have tools, as a clause; "" where they are written."""
        if self.jinja is None:
            return "tools are not written, since only a chat template would; "
        try:
            without, with_one = (self.render("question", None, t) for t in (None, [PROBE_TOOL]))
        except BadRow:
            return ""
        return "tools are not written: the chat template passes over them; " * (without == with_one)

    @cached_property
    def end_ids(self) -> set[int]:
        """Every token that ends an answer."""
        return {token for token in (self._eos, self._turn_end) if token is not None}

    def _ended(self, turn: list[int]) -> list[int]:
        """A last turn, on which eos follows: whoever decodes stops at eos, if at nothing else."""
        assert self._eos is not None, "checked by whoever found the turn's end"
        return turn if turn[-1:] == [self._eos] else [*turn, self._eos]

    def _until_stop(self, ids: list[int]) -> list[int]:
        """Cut what a template writes after the last end token; add eos where there is none."""
        if self._eos is None:
            raise ValueError("the tokenizer has no eos_token: set one, else no answer can end")
        for i in range(len(ids) - 1, -1, -1):
            if ids[i] in self.end_ids:
                return ids[: i + 1]
        return [*ids, self._eos]

    @cached_property
    def _turn_end(self) -> int | None:
        """The token that a chat template ends an answer with: eos, else the first it marks off.

        Told by what it writes behind a probe. None where no chat template is, or where it refuses
        the probe or rewrites it: then eos alone ends an answer.

        Raises:
            ValueError: it writes no such token, so that no model would learn to stop.
        """
        if self.jinja is None:
            return None
        try:
            whole = self.render("question", PROBE)
        except BadRow:
            return None
        _, found, closing = whole.rpartition(PROBE)
        ids = self._ids(closing)
        if not found or self._eos in ids:
            return self._eos if found else None
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

    def _ids(self, text: str) -> list[int]:
        return self._tokenize(text) if text else []

    @cached_property
    def _tokenize(self) -> Callable[[str], list[int]]:
        """The tokenizer without what it adds; by its core alone, where nothing else is around it.

        What stands around a core takes twice as long as the core, and rows come by the million.
        """
        tokenizer: Any = self.tokenizer
        core: Any = getattr(tokenizer, "backend_tokenizer", None)
        stock = core is not None and all(
            getattr(type(tokenizer), name) is getattr(PreTrainedTokenizerFast, name)
            for name in ("__call__", "_encode_plus")
        )
        settings = (
            "truncation",
            "padding",
            "encode_special_tokens",
        )  # of a core; a call unsets them
        if not stock or tokenizer.split_special_tokens or any(getattr(core, s) for s in settings):
            return lambda text: tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return lambda text: core.encode(text, add_special_tokens=False).ids

    def _added(self, before: str, whole: str) -> list[int]:
        """Tokens of what ``whole`` says after ``before``.

        SentencePiece-like tokenizers put a space before the first word they see. Where that would
        change the text, it is tokenized behind an anchor and the anchor's tokens are taken off.
        """
        text = _tail(before, whole)
        alone = self._ids(text)
        if not before or not self._prefixes_a_space:
            return alone
        return next((ids for a in ANCHORS if (ids := self._behind(a, text)) is not None), alone)

    def _behind(self, anchor: str, text: str) -> list[int] | None:
        """Tokens of a text behind an anchor; None where the two share a token."""
        lead, both = self._ids(anchor), self._ids(anchor + text)
        return (both[len(lead) :] or None) if lead and both[: len(lead)] == lead else None

    @cached_property
    def _prefixes_a_space(self) -> bool:
        return any(self._behind(a, "a") not in (None, self._ids("a")) for a in ANCHORS)

    def _with_bos(self, ids: list[int]) -> list[int]:
        """BOS exactly once: a chat template writes its own, else the tokenizer's habit decides."""
        bos = self._bos
        if bos is None or ids[:1] == [bos] or (ids and self.jinja is not None):
            return ids
        return [bos, *ids]

    @cached_property
    def _eos(self) -> int | None:
        eos: Any = self.tokenizer.eos_token_id
        return eos

    @cached_property
    def _bos(self) -> int | None:
        bos: Any = self.tokenizer.bos_token_id
        return bos if bos is not None and self.tokenizer("a").input_ids[:1] == [bos] else None


def _spoken(message: Message) -> str:
    """What a message says where no chat template writes it; calls of tools as JSON, a line each."""
    calls = [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return "\n".join([message["content"], *calls] if message["content"] else calls)


def _tail(before: str, whole: str) -> str:
    """What ``whole`` says after ``before``."""
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
