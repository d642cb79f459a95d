# ruff: noqa: E501  (templates are long lines)
"""Chat templates in the manners of many families, conversations for them, and what must be trained.

    python tests/template_matrix.py [conversations]

draws so many conversations for every pair of a template and a kind of tokenizer, and writes a table
into benchmarks/README.md. ``tests/data/test_template_matrix.py`` draws a few.

What must be trained is asked of ``transformers``: each template marks with ``generation`` what the
assistant wrote, with its end token.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from lightning_rlhf.data.rendered import ends_once
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.tokens import (
    TokenRow,
    encode_demonstration,
    encode_preference,
    encode_prompt,
)
from lightning_rlhf.text.messages import BadRow, Message

MARKS = [
    "<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>", "<|eot|>", "<|user|>", "<|assistant|>",
    "<|system|>", "<|tool|>", "<|end|>", "<|start|>", "<|channel|>", "<|message|>", "<|return|>",
    "<|call|>", "<turn>", "</turn>", "[ASK]", "[/ASK]", "<think>", "</think>", "<call>", "</call>",
]  # fmt: skip
LONG = 1_000_000
EACH = "a row for each answer"
OPEN, CLOSE = "{% generation %}", "{% endgeneration %}"
LOOP, DONE = "{% for m in messages %}", "{% endfor %}"
CALLS = (
    "{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name + ' ' }}"
    "{{ c.function.arguments ARGS }}{{ '</call>' }}{% endfor %}"
)
TOJSON = CALLS.replace("ARGS", "| tojson")
TOOLS = "{% if tools %}{{ '<|im_start|>system\\nTools: ' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}"


def told(said: str) -> str:
    """ChatML's turns; an assistant's says what is given."""
    return (
        LOOP + "{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}" + OPEN + said
        + "{{ '<|im_end|>' }}" + CLOSE + "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}"
        "{{ '\\n' }}" + DONE
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )  # fmt: skip


CHATML = TOOLS + told("{{ m.content }}" + TOJSON)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}"
    "{% endif %}" + CHATML
)
STRIPS_AND_DATES = (
    "{{ bos_token + '<|head|>system<|/head|>\\n\\nToday: ' + strftime_now('%d %b %Y') + '<|eot|>' }}"
    + LOOP
    + "{{ '<|head|>' + ('ipython' if m.role == 'tool' else m.role) + '<|/head|>\\n\\n' }}"
    "{% if m.role == 'assistant' %}" + OPEN + "{{ m.content | trim }}" + TOJSON
    + "{{ '<|eot|>' }}" + CLOSE + "{% else %}{{ m.content | trim + '<|eot|>' }}{% endif %}" + DONE
    + "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif %}"
)  # fmt: skip
FORGETS_THOUGHTS = (
    TOOLS + "{% set ns = namespace(asked=-1) %}" + LOOP
    + "{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}" + DONE
    + told(
        "{% set thought = m.reasoning_content or '' %}"
        "{% if loop.index0 > ns.asked and (loop.last or thought) %}"
        "{{ '<think>\\n' + thought.strip() + '\\n</think>\\n\\n' }}{% endif %}{{ m.content }}" + TOJSON
    )
)  # fmt: skip
OPENS_THOUGHTS = (
    "{{ bos_token }}" + LOOP + "{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "{{ '<|user|>' + m.content }}{% elif m.role == 'tool' %}{{ '<|tool|>' + m.content }}{% else %}"
    "{{ '<|assistant|>' }}" + OPEN + "{{ m.content.split('</think>')[-1] }}" + TOJSON
    + "{{ eos_token }}" + CLOSE + "{% endif %}" + DONE
    + "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
)  # fmt: skip
EOS_AT_THE_END = (
    LOOP + "{{ '<|' + m.role + '|>\\n' }}{% if m.role == 'assistant' %}" + OPEN
    + "{{ m.content + '<|end|>' }}{% if loop.last and not add_generation_prompt %}{{ '\\n' + eos_token }}"
    "{% endif %}" + CLOSE + "{% if not loop.last or add_generation_prompt %}{{ '\\n' }}{% endif %}"
    "{% else %}{{ m.content + '<|end|>\\n' }}{% endif %}" + DONE
    + "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)  # fmt: skip
CHANNELS = (
    LOOP + "{{ '<|start|>' + m.role }}{% if m.role != 'assistant' %}"
    "{{ '<|message|>' + m.content + '<|end|>' }}{% else %}" + OPEN
    + "{% if m.reasoning_content and (loop.last or m.tool_calls) %}"
    "{{ '<|channel|>analysis<|message|>' + m.reasoning_content + '<|end|><|start|>assistant' }}{% endif %}"
    "{% if m.tool_calls %}{{ ' to=' + m.tool_calls[0].function.name + '<|channel|>commentary<|message|>'"
    " + (m.tool_calls[0].function.arguments | tojson) + '<|call|>' }}{% else %}"
    "{{ '<|channel|>final<|message|>' + m.content }}"
    "{{ eos_token if loop.last and not add_generation_prompt else '<|end|>' }}{% endif %}"
    + CLOSE + "{% endif %}" + DONE + "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)  # fmt: skip
ALTERNATES = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}"
    "{% endif %}" + LOOP + "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant must alternate') }}{% endif %}"
    "{{ '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}"
    "{% if m.role == 'assistant' %}" + OPEN + "{{ m.content | trim + '</turn>' }}" + CLOSE
    + "{% else %}{{ m.content | trim + '</turn>' }}{% endif %}{{ '\\n' }}" + DONE
    + "{% if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}"
)  # fmt: skip
BRACKETS = (
    "{{ bos_token }}{% set first = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}"
    "{% for m in (messages[1:] if first else messages) %}"
    "{% if m.role == 'assistant' %}" + OPEN + "{{ ' ' + m.content + eos_token }}" + CLOSE
    + "{% elif m.role == 'user' %}{{ '[ASK] ' + (first if loop.first else '') + m.content + ' [/ASK]' }}"
    "{% else %}{{ raise_exception('only user and assistant turns') }}{% endif %}" + DONE
)  # fmt: skip
PARTS = (
    LOOP + "{{ m.role | capitalize + ': ' }}{% if m.role == 'assistant' %}" + OPEN
    + "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{{ '<|end|>' }}"
    + CLOSE + "{% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
    "{{ '<|end|>' }}{% endif %}{{ '\\n' }}" + DONE
    + "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)  # fmt: skip
ITEMS = told(
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name }}"
    "{% for k, v in c.function.arguments | items %}{{ ' ' + k + '=' + (v if v is string else v | tojson) }}"
    "{% endfor %}{{ '</call>' }}{% endfor %}"
)


def as_parts(message: Message) -> Message:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def with_text_arguments(message: Message) -> Message:
    calls = [
        {
            **c,
            "function": {
                **c["function"],
                "arguments": json.dumps(c["function"]["arguments"], ensure_ascii=False),
            },
        }
        for c in message.get("tool_calls") or ()
    ]
    return {**message, "tool_calls": calls} if calls else message


class Manner(NamedTuple):
    """A template, and what its messages look like to it."""

    jinja: str
    shaped: Callable[[Message], Message] = dict


MANNERS = {
    "ChatML": Manner(CHATML),
    "a default system turn": Manner(DEFAULT_SYSTEM),
    "strips, and writes the date": Manner(STRIPS_AND_DATES),
    "forgets thoughts": Manner(FORGETS_THOUGHTS),
    "opens thoughts": Manner(OPENS_THOUGHTS),
    "eos at the end": Manner(EOS_AT_THE_END),
    "channels": Manner(CHANNELS),
    "no system, alternates": Manner(ALTERNATES),
    "brackets": Manner(BRACKETS),
    "parts": Manner(PARTS, as_parts),
    "arguments as text": Manner(
        told("{{ m.content }}" + CALLS.replace(" ARGS", " + ''")), with_text_arguments
    ),
    "arguments one by one": Manner(ITEMS),
    "no calls": Manner(told("{{ m.content }}")),
}
WORDS = ["one", "two", "three", "four", "cat", "sat", "a", "b", "0", "7", "Why", "1.50", "you are"]
ODD = [
    "é", "🙂", "東京", "naïve", "  ", "\n", "\n\n", "\t", "<|im_end|>", "</s>", "<think>", "<|end|>", "{{ x }}",
    "'", '"', "\\n", "Human:", "ñ", "</turn>", "assistant", "<|call|>",
]  # fmt: skip


def drawn_text(draw: random.Random, most: int = 6) -> str:
    words = [
        draw.choice(ODD if draw.random() < 0.25 else WORDS) for _ in range(draw.randint(1, most))
    ]
    return (
        draw.choice(["", "", "", " ", "\n"])
        + " ".join(words)
        + draw.choice(["", "", "", " ", "\n"])
    )


def drawn_value(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.randint(0, 6 if depth < 2 else 4)
    if kind < 5:
        return [
            drawn_text(draw, 2),
            draw.randint(-9, 10**12),
            draw.random(),
            draw.random() < 0.5,
            draw.choice(WORDS),
        ][kind]
    if kind == 5:
        return [drawn_value(draw, depth + 1) for _ in range(draw.randint(0, 2))]
    return {
        draw.choice(["z", "a", "ключ"]) + str(i): drawn_value(draw, depth + 1)
        for i in range(draw.randint(0, 2))
    }


def drawn_conversation(draw: random.Random) -> list[Message]:
    """System or none, one to four exchanges, with calls, reasoning, empty turns and odd text."""
    messages: list[Message] = []
    if draw.random() < 0.4:
        messages.append({"role": "system", "content": drawn_text(draw)})
    odd = draw.random() < 0.5  # else plain questions and answers, which every template takes
    for _ in range(draw.randint(1, 4)):
        messages.append(
            {"role": "user", "content": drawn_text(draw) if draw.random() < 0.97 else ""}
        )
        if odd and draw.random() < 0.3:
            arguments = {"z": drawn_value(draw), "a": drawn_value(draw)}
            call = {
                "type": "function",
                "id": "call00001",
                "function": {"name": "weigh", "arguments": arguments},
            }
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            messages.append(
                {
                    "role": "tool",
                    "content": drawn_text(draw),
                    "name": "weigh",
                    "tool_call_id": "call00001",
                }
            )
        answer: Message = {
            "role": "assistant",
            "content": drawn_text(draw) if draw.random() < 0.97 else "",
        }
        if odd and draw.random() < 0.4:
            answer["reasoning_content"] = drawn_text(draw, 3).strip() or "hm"
        messages.append(answer)
    return messages


def chat_of(tokenizer: PreTrainedTokenizerBase, jinja: str) -> ChatTemplate:
    made = copy.deepcopy(tokenizer)
    made.add_special_tokens({"additional_special_tokens": MARKS})
    made.chat_template = jinja
    return ChatTemplate(made)


class Wanted(NamedTuple):
    """The tokens of a conversation, by ``transformers``, and which the assistant wrote."""

    ids: list[int]
    mask: list[bool]
    text: str
    spans: list[tuple[int, int]]  # of the assistant's turns
    aligned: bool  # no token reaches over the border of one


def _ended_once(chat: ChatTemplate, message: Message) -> Message:
    """An end token that the text of an answer already has is not written twice."""
    ended = ends_once(message, chat._ends) if message["role"] == "assistant" else message
    assert isinstance(ended, dict)
    return ended


def wanted(
    chat: ChatTemplate, manner: Manner, messages: list[Message], counted: set[int]
) -> Wanted:
    tokenizer: Any = chat.tokenizer
    (text,), (spans,) = render_jinja_template(
        conversations=[[manner.shaped(_ended_once(chat, m)) for m in messages]],
        chat_template=manner.jinja,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    assert len(places) == len(spans)
    kept = [span for span, place in zip(spans, places, strict=True) if place in counted]
    borders = {border for span in kept for border in span}
    offsets = found["offset_mapping"]
    aligned = not any(a < border < b for a, b in offsets for border in borders)
    mask = [any(s <= a and b <= e and a < e for s, e in kept) for a, b in offsets]
    return Wanted(found["input_ids"], mask, text, kept, aligned)


def check(chat: ChatTemplate, want: Wanted, row: TokenRow, silent: bool = False) -> None:
    """Check that a row is the template's own text, and its mask what the assistant wrote.

    ``silent`` turns of the assistant, which do not count, may follow.
    """
    tokenizer: Any = chat.tokenizer
    ids = row.prompt_ids + row.completion_ids[0]
    mask = [False] * len(row.prompt_ids) + row.loss_mask[0]
    if want.aligned:
        size = max(i for i, on in enumerate(want.mask) if on) + 1
        assert ids[:size] == want.ids[:size], "other tokens than the template's text"
        assert mask[:size] == want.mask[:size], "another mask than what the assistant wrote"
        eos, rest, more = tokenizer.eos_token_id, ids[size:], want.ids[size:]
        if want.ids[size - 1] != eos and not silent:
            assert rest == [eos] and mask[-1], "no eos at the end"
            return
        assert not any(mask[size:]), "more than the assistant's turns counts"
        if rest and rest[-1] == eos and rest != more[: len(rest)]:
            rest = rest[:-1]
        assert rest == more[: len(rest)], "something else follows the last answer that counts"
        return
    pieces, at = [], 0
    for start, end in want.spans:
        pieces += [want.text[at:start], want.text[start:end]]
        at = end
    runs: list[list[int]] = [[]]
    for i, on in zip(ids, mask, strict=True):
        if on == (len(runs) % 2 == 1):
            runs.append([])
        runs[-1].append(i)
    runs = runs[: len(pieces)]
    if runs[-1][-1] == tokenizer.eos_token_id and not pieces[-1].endswith(tokenizer.eos_token):
        runs[-1].pop()
    for run, piece in zip(runs, pieces, strict=True):
        found = tokenizer.decode(run, clean_up_tokenization_spaces=False)
        said = tokenizer.decode(tokenizer(piece, add_special_tokens=False).input_ids)
        assert "".join(found.split()) == "".join(said.split()), "another text than the template's"


def check_conversation(chat: ChatTemplate, manner: Manner, messages: list[Message]) -> str:
    """Check every row of a conversation; return what became of it."""
    try:
        rows = encode_demonstration({"messages": messages}, chat, LONG)
    except BadRow as reason:
        return str(reason)
    speaks = [
        i for i, m in enumerate(messages)
        if m["role"] == "assistant" and (m["content"].strip() or m.get("tool_calls"))
    ]  # fmt: skip
    if len(rows) == 1 and not rows[0].cut:
        spoken = list(messages)
        while spoken[-1]["role"] == "assistant" and len(spoken) - 1 not in speaks:
            spoken.pop()
        last = max(i for i, m in enumerate(spoken) if m["role"] == "assistant")
        want = wanted(chat, manner, messages[: last + 1], set(speaks))
        check(chat, want, rows[0], silent=last > speaks[-1])
        _check_history(chat, want, messages, speaks, rows[0])
        return "one row"
    assert len(rows) == len(speaks)
    for place, row in zip(speaks, rows, strict=True):
        want = wanted(chat, manner, messages[: place + 1], {place})
        check(chat, want, row)
        _check_pair(chat, messages, place, row)
    return EACH


def _check_pair(chat: ChatTemplate, messages: list[Message], place: int, row: TokenRow) -> None:
    """Check that a pair and a prompt have the ids of a demonstration."""
    asked = messages[:place]
    other = {"role": "assistant", "content": "something else"}
    try:
        pair = encode_preference(
            {"prompt": asked, "chosen": [messages[place]], "rejected": [other]}, chat, LONG
        )
    except BadRow:
        return  # its other side is not written
    assert pair.prompt_ids == row.prompt_ids, "a pair has another prompt than a demonstration"
    assert pair.completion_ids[0] == row.completion_ids[0], "a pair has another answer"
    prompt = encode_prompt({"prompt": asked}, chat, LONG).prompt_ids
    assert prompt[: len(row.prompt_ids)] == row.prompt_ids, "a prompt has other ids"


def _check_history(
    chat: ChatTemplate, want: Wanted, messages: list[Message], speaks: list[int], row: TokenRow
) -> None:
    """Check that what precedes the last answer has the ids that it has as a prompt."""
    ids, last = row.prompt_ids + row.completion_ids[0], speaks[-1]
    mask = [False] * len(row.prompt_ids) + row.loss_mask[0]
    end = max(i for i, on in enumerate(mask) if on) + 1
    start = next((i + 1 for i in range(end - 1, -1, -1) if not mask[i]), 0)
    alone = TokenRow(ids[:start], [ids[start:end]], [mask[start:end]], [0])
    _check_pair(chat, messages, last, alone)


def drawn_for(name: str, kind: str, number: int) -> list[Message]:
    """A conversation of its own for each template, kind of tokenizer and number."""
    return drawn_conversation(random.Random(f"{name}/{kind}/{number}"))


def main(conversations: int = 40) -> None:
    """Check so many conversations in each cell of the matrix, and write the table."""
    here = Path(__file__).parent
    sys.path[:0] = [str(here / "data"), str(here.parent / "benchmarks")]
    from versus.harness import between

    from conftest import MAKERS  # type: ignore[attr-defined]

    tokenizers = {kind: make() for kind, make in MAKERS.items()}
    lines = [
        "| the template | conversations | one row | a row for each answer | dropped | wrong |",
        "|---|---|---|---|---|---|",
    ]
    sums: Counter[int] = Counter()
    for name, manner in MANNERS.items():
        counts: Counter[str] = Counter()
        for kind, tokenizer in tokenizers.items():
            chat = chat_of(tokenizer, manner.jinja)
            for number in range(conversations):
                case = drawn_for(name, kind, number)
                try:
                    counts[check_conversation(chat, manner, case)] += 1
                except (AssertionError, ValueError) as error:
                    counts["wrong"] += 1
                    print(name, kind, number, error, flush=True)
        found = [counts.total(), *(counts.pop(k, 0) for k in ("one row", EACH, "wrong"))]
        cells = [*found[:3], counts.total(), found[3]]
        sums.update(dict(enumerate(cells)))
        lines.append(f"| {name} | {' | '.join(f'{n:,}' for n in cells)} |")
        print(lines[-1], dict(counts), flush=True)
    lines.append(f"| all | {' | '.join(f'{sums[i]:,}' for i in range(5))} |")
    readme = here.parent / "benchmarks" / "README.md"
    readme.write_text(between(readme.read_text(), "templates", "\n".join(lines)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
