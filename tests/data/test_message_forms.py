"""One conversation in every form that tools give it: always the same tokens as in our own form."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data import cells
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.tokens import (
    TokenRow,
    encode_demonstration,
    encode_preference,
    encode_prompt,
)
from lightning_rlhf.text.messages import Message

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NAMES = {
    "user": ["user", "human", "Human", "USER", "prompter"],
    "assistant": ["assistant", "gpt", "GPT", "bot", "model", "ai", "Chatbot", "chatgpt"],
    "system": ["system", "System", "SYSTEM", "developer"],
}
KEYS = [
    ("role", "content"),
    ("from", "value"),
    ("role", "text"),
    ("role", "value"),
    ("speaker", "text"),
    ("author", "body"),
]
word = st.sampled_from(["one", "two", "three", "cat", "sat", "Why", "0", "東京", "it's", '"so"'])
words = st.lists(word, min_size=1)
said = st.lists(words.map(" ".join), min_size=4, max_size=9)


@pytest.fixture(scope="module")
def chats(tokenizers: dict[str, PreTrainedTokenizerBase]) -> dict[str, ChatTemplate]:
    marked = copy.deepcopy(tokenizers["byte_level"])
    marked.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    marked.chat_template = CHATML
    return {"chatml": ChatTemplate(marked), "plain": ChatTemplate(tokenizers["sentencepiece"])}


# ---- forms ----


def dialect(messages: list[Message], draw: random.Random) -> list[dict[str, Any]]:
    role, content = draw.choice(KEYS)
    return [{role: draw.choice(NAMES[m["role"]]), content: m["content"]} for m in messages]


def parts(messages: list[Message], draw: random.Random) -> list[dict[str, Any]]:
    found = []
    for m in messages:
        cut, text = draw.randint(0, len(m["content"])), m["content"]
        kind = draw.choice(["text", "input_text" if m["role"] == "user" else "output_text"])
        pieces = [{"type": kind, "text": text[:cut]}, {"type": kind, "text": text[cut:]}]
        found.append({"role": m["role"], "content": pieces if draw.random() < 0.8 else [text]})
    return found


def none_filled(messages: list[Message], draw: random.Random) -> list[dict[str, Any]]:
    keys = ["tool_calls", "name", "weight", "train", "reasoning_content", "function_call", "images"]
    none = dict.fromkeys(draw.sample(keys, 4))
    return [{**none, **m, "id": draw.randint(0, 99)} for m in messages]


def as_json(messages: list[Message], draw: random.Random) -> str:
    return json.dumps(dialect(messages, draw), ensure_ascii=draw.random() < 0.5)


def as_python(messages: list[Message], draw: random.Random) -> str:
    between = draw.choice([", ", "\n "])  # numpy prints no comma
    return "[" + between.join(map(repr, none_filled(messages, draw))) + "]"


def as_lists(messages: list[Message], draw: random.Random) -> dict[str, list[str]]:
    return {key: [m[key] for m in messages] for key in ("role", "content")}


def transcript(messages: list[Message], draw: random.Random) -> str:
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    return "".join(f"\n\n{names[m['role']]}: {m['content']}" for m in messages)


FORMS = [dialect, parts, none_filled, as_json, as_python, as_lists, transcript]


# ---- uses ----


def conversation(texts: list[str], system: bool) -> tuple[list[Message], str, str]:
    """The turns before an answer, and two answers."""
    first = [{"role": "system", "content": texts[0]}] if system else []
    texts = texts[system:]
    turns = texts[2:] if len(texts) % 2 else texts[3:]
    asked = [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(turns)]
    return first + asked, texts[0], texts[1] + " not"


def rows(asked: list[Message], good: str, bad: str, write: Any) -> list[dict[str, Any]]:
    """Each use of a conversation: as a demonstration, in pairs, in rankings, as feedback, alone."""

    def ending(text: str) -> list[Message]:
        return [*asked, {"role": "assistant", "content": text}]

    def answer(text: str) -> list[Message]:
        return [{"role": "assistant", "content": text}]

    return [
        {"messages": write(ending(good))},
        {"chosen": write(ending(good)), "rejected": write(ending(bad))},
        {"prompt": write(asked), "chosen": write(answer(good)), "rejected": write(answer(bad))},
        {"prompt": write(asked), "chosen": write(ending(good)), "rejected": write(ending(bad))},
        {"prompt": write(asked), "completions": [write(answer(t)) for t in (good, bad)]},
        {"prompt": write(asked), "completion": write(answer(good)), "label": True},
        {"messages": write(ending(good)), "label": False},
        {"prompt": write(asked)},
    ]


def encoded(row: dict[str, Any], chat: ChatTemplate) -> TokenRow:
    """Read a row as a source of such rows is read."""
    encode: Any = encode_preference
    if row.keys() == {"prompt"}:
        encode = encode_prompt
    elif row.keys() == {"messages"}:
        encode = encode_demonstration
    read = cells.reader(cells.look([row], dict, chat), dict, chat)
    made = encode(read(row), chat, 999)
    (made,) = made if isinstance(made, list) else [made]
    return made._replace(row="")


@settings(max_examples=60, deadline=None)
@given(texts=said, system=st.booleans(), form=st.sampled_from(FORMS), seed=st.integers(0, 999))
@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_every_form_gives_the_same_tokens(
    chats: dict[str, ChatTemplate],
    name: str,
    texts: list[str],
    system: bool,
    form: Any,
    seed: int,
) -> None:
    asked, good, bad = conversation(texts, system)
    draw = random.Random(seed)
    ours = rows(asked, good, bad, lambda messages: messages)
    theirs = rows(asked, good, bad, lambda messages: form(messages, draw))
    for own, their in zip(ours, theirs, strict=True):
        wanted = encoded(own, chats[name])
        assert encoded(their, chats[name]) == wanted, their
        told = [m["content"] for m in asked] + [good] * bool(wanted.completion_ids)
        ids = wanted.prompt_ids + [i for c in wanted.completion_ids for i in c]
        text = chats[name].tokenizer.decode(ids)
        assert all(t in text for t in told), "nothing is lost"
