"""Write messages as text with a chat template, in the shapes that it can take."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date
from functools import cached_property
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data.sandbox import Excess, bounded
from lightning_rlhf.text.dialects import PLAIN, REASONING, BadRow, Message
from lightning_rlhf.text.display import printable
from lightning_rlhf.text.messages import Tools

QUESTION, ANSWER, THOUGHT = "probe-question", "probe-answer", "probe-thought"
KEY, VALUE = "probe_key", "probe_value"  # an argument of a call
NO_WORD = re.compile(r"[\W_]+")
# the names under which a template may know a role of ours, and what it becomes without one
ROLE_NAMES = {"developer": ("developer",), "tool": ("tool", "ipython", "observation", "function")}
ROLE_ELSE = {"developer": "system", "tool": "tool"}
OWN_KEYS = ("train", "prefix", "reasoning_content")  # of messages, not all of them a template's
ROLE_TEST = r"role['\"\]]*\s*(?:==|!=|(?:not )?in)\s*[^%}]*?"  # a template's test of a role
MOST_EXCESSES = 3  # conversations with which a template may do too much; each takes its time
LONGEST_REASON = 300  # characters
MOST_BEGUN = 99  # characters of an answer that a prompt may have begun
THOUGHTS_END = "</think>"  # templates leave out what precedes it in earlier answers


class Shape(NamedTuple):
    """Changes of the messages that a chat template needs; none by default."""

    parts: bool = False  # content as [{"type": "text", "text": ...}]
    arguments: str = ""  # of calls: "text" for JSON text, "dict" for a dict
    no_content: bool = False  # a call without content has none, not ""


class JinjaRenderer:
    """Render messages with a chat template.

    Args:
        tokenizer: of the model.
        jinja: the template; None for the tokenizer's own, of which it may have several.
        arguments: more names that the template may read.
        today: the date for a template that asks for it; None for the day on which this is made.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        jinja: str | None,
        arguments: dict[str, Any] | None = None,
        *,
        today: date | None = None,
    ):
        self.tokenizer = tokenizer
        self.jinja = jinja
        self.arguments = arguments or {}
        # tokens are kept by what makes them, so only a template that asks has the day in it
        self.today = today or (date.today() if "strftime_now" in self._source else None)
        self._excesses = 0

    @property
    def _source(self) -> str:
        """The text of all templates there are."""
        given: Any = self.jinja or self.tokenizer.chat_template or ""
        return " ".join(given.values()) if isinstance(given, dict) else str(given)

    @cached_property
    def date_note(self) -> str:
        """Clause for the log on the date that a template writes; "" for none."""
        turns, today = _probe_turns(), self.today
        if today is None:
            return ""
        texts = []
        for self.today in (date(2001, 2, 3), date(2014, 5, 16), today):
            try:
                texts.append(self._apply(turns))
            except BadRow:
                return ""
        if texts[0] == texts[1]:
            return ""
        return (
            f"the chat template writes the date, {today}: to have it on another day as well, give "
            f"template={{date: {today}}}; "
        )

    def render(self, messages: list[Message], generation_prompt: bool, tools: Tools) -> str:
        """Render messages, in the shapes that the template can take.

        Raises:
            BadRow: the template refuses them.
        """
        if not messages:
            raise BadRow("the chat template needs a turn before the answer")
        if any(len(m) > 2 or m["role"] not in PLAIN for m in messages):
            messages = [self._spelled(message) for message in messages]
        if self._parts or any(m.get("tool_calls") for m in messages):
            shape = self._call_shape if _has_calls(messages) else Shape(parts=self._parts)
            messages = [_shaped(message, shape) for message in messages]
        return self._apply(messages, generation_prompt, tools)

    def _spelled(self, message: Message) -> Message:
        """Write the role and the reasoning of a message as the template knows them."""
        made = {key: value for key, value in message.items() if key not in OWN_KEYS}
        made["role"] = self._roles.get(message["role"], message["role"])
        if message.get("reasoning_content"):
            if self._reasoning is None:
                raise BadRow("the chat template does not write the reasoning of an assistant turn")
            made[self._reasoning] = message["reasoning_content"]
        return made

    @cached_property
    def _roles(self) -> dict[str, str]:
        """The names of the roles that a template compares with; ours where it takes any."""
        source, roles = self._source, {}
        for role, names in ROLE_NAMES.items():
            known = (name for name in names if re.search(ROLE_TEST + f"['\"]{name}['\"]", source))
            roles[role] = next(known, ROLE_ELSE[role])
        return roles

    @cached_property
    def _reasoning(self) -> str | None:
        """The key under which the template writes the reasoning of an answer; None for none."""
        for key in REASONING:
            question, answer = _probe_turns()
            turns = [question, {**answer, key: THOUGHT}]
            if self._written([_shaped(m, Shape(parts=self._parts)) for m in turns], (THOUGHT,)):
                return key
        return None

    def _apply(
        self, messages: list[Message], generation_prompt: bool = False, tools: Tools = None
    ) -> str:
        try:
            with bounded(self.today):
                text = self.tokenizer.apply_chat_template(
                    messages,
                    tools=tools,
                    chat_template=self.jinja,
                    tokenize=False,
                    add_generation_prompt=generation_prompt,
                    **self.arguments,
                )
        except Excess as reason:
            self._excesses += 1
            sentence = f"the chat template does too much: {reason}"
            if self._excesses < MOST_EXCESSES and not _is_probe(messages):
                raise BadRow(sentence) from reason
            raise ValueError(f"{sentence}; give template a Jinja file of your own") from reason
        except TemplateError as reason:
            raise BadRow(f"the chat template refuses: {_plainly(reason)}") from reason
        except Exception as reason:  # the template's code may raise anything
            name = type(reason).__name__
            raise BadRow(f"the chat template refuses: {name}: {_plainly(reason)}") from reason
        assert isinstance(text, str)
        return text

    @cached_property
    def _parts(self) -> bool:
        """Tell whether the template writes content given as parts but not as text."""
        turns = _probe_turns()
        as_text, as_parts = (
            self._written(
                [_shaped(m, Shape(parts=p)) for m in turns], (QUESTION, ANSWER), ("'type'",)
            )
            for p in (False, True)
        )
        return as_parts and not as_text

    @cached_property
    def _call_shape(self) -> Shape:
        """Find the shape of a call that the template writes right: as given, if any does.

        The shapes are tried on a probe, in order: arguments of both types as they are, else those
        of one type. A template that writes no arguments gets them as they are.
        """
        for no_content in (False, True):
            able = [
                kind
                for kind in ("dict", "text")
                if self._writes_call(Shape(self._parts, kind, no_content))
            ]
            if able:
                return Shape(self._parts, able[0] if len(able) == 1 else "", no_content)
        for no_content in (False, True):  # written otherwise: at least its name
            shape = Shape(self._parts, "", no_content)
            if self._written([_shaped(m, shape) for m in _probe_turns(call=True)], ("probe_call",)):
                return shape
        return Shape(self._parts)

    def _writes_call(self, shape: Shape) -> bool:
        """Tell whether a call is written as it is meant: not encoded twice, not as Python's."""
        turns = [_shaped(m, shape) for m in _probe_turns(call=True)]
        return self._written(turns, ("probe_call", KEY, VALUE), (f'\\"{KEY}', f"{{'{KEY}"))

    def _written(
        self, messages: list[Message], texts: tuple[str, ...], wrong: tuple[str, ...] = ()
    ) -> bool:
        try:
            found = self._apply(messages)
        except BadRow:
            return False
        return all(t in found for t in texts) and not any(t in found for t in wrong)


def _is_probe(messages: list[Message]) -> bool:
    return messages[0]["content"] == QUESTION


def _plainly(reason: Exception) -> str:
    """Return what a template says of an error: on one line, without what steers a terminal."""
    text = " ".join(printable(str(reason)).split())
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."


def _probe_turns(call: bool = False) -> list[Message]:
    question = {"role": "user", "content": QUESTION}
    if not call:
        return [question, {"role": "assistant", "content": ANSWER}]
    function = {"name": "probe_call", "arguments": {KEY: VALUE}}
    calls = [{"id": "probe0000", "type": "function", "function": function}]
    return [question, {"role": "assistant", "content": "", "tool_calls": calls}]


def _has_calls(messages: list[Message]) -> bool:
    return any(m.get("tool_calls") for m in messages)


def _shaped(message: Message, shape: Shape) -> Message:
    """Give a message the shape that a template can take."""
    made = dict(message)
    calls = made.get("tool_calls")
    if calls and shape.arguments:
        convert = _as_text if shape.arguments == "text" else _as_dict
        made["tool_calls"] = [_with_arguments(call, convert) for call in calls]
    if calls and shape.no_content and not made["content"]:
        made["content"] = None
    elif shape.parts:
        text = made["content"]
        made["content"] = [{"type": "text", "text": text}] if text else []
    return made


def _with_arguments(call: Any, convert: Callable[[Any], Any]) -> Any:
    if not isinstance(call, dict):
        return call
    made = {**call, "arguments": convert(call["arguments"])} if "arguments" in call else dict(call)
    if isinstance(made.get("function"), dict):
        made["function"] = _with_arguments(made["function"], convert)
    return made


def _as_text(arguments: Any) -> Any:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _as_dict(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        read = json.loads(arguments) if arguments.strip() else {}
    except json.JSONDecodeError as reason:
        raise BadRow(f"the arguments of a tool call are not JSON: {reason.msg}") from reason
    if not isinstance(read, dict):
        raise BadRow(f"the arguments of a tool call are {type(read).__name__}, not named")
    return read


# ---- what a template writes ----


def begun_in(before: str, content: str) -> str:
    """Return the beginning of a content that a text ends with, as a prompt may open thoughts."""
    sizes = range(min(len(before), len(content), MOST_BEGUN), 0, -1)
    return next((content[:size] for size in sizes if before.endswith(content[:size])), "")


def check_written(message: Message, text: str, history: bool = False) -> None:
    """Check that a text holds what a message says.

    Args:
        message: of the row.
        text: as the template writes it.
        history: an earlier answer, of which a template may leave out the thoughts.

    Raises:
        BadRow: a part of the message is not there.
    """
    content, role = (message["content"] or "").strip(), message["role"]
    if history and role == "assistant":
        content = content.rpartition(THOUGHTS_END)[2].strip()
    if content and content not in text and not _holds(text, content):
        raise BadRow(f"the chat template does not write all of the {role} turn")
    thoughts = "" if history else message.get("reasoning_content", "").strip()
    if thoughts and thoughts not in text and not _holds(text, thoughts):
        raise BadRow("the chat template does not write the reasoning of an assistant turn")
    for call in message.get("tool_calls") or ():
        function = call.get("function", call) if isinstance(call, dict) else {}
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str) and name not in text:
            raise BadRow("the chat template does not write the tool calls of an assistant turn")


def _holds(text: str, content: str) -> bool:
    """Tell whether a text holds a content in other spaces and punctuation, or as JSON."""
    text = NO_WORD.sub("", text)
    forms = (content, json.dumps(content), json.dumps(content, ensure_ascii=False))
    words = [NO_WORD.sub("", form) for form in forms]
    return any(words) and any(w in text for w in words)
