"""What messages say reaches the tokens: switches, begun and rendered prompts, roles, reasoning."""

from __future__ import annotations

import copy
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data import tokens
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.tokens import TokenRow, encode_preference, encode_prompt
from lightning_rlhf.text.messages import BadRow, Message

MARKS = ["<|im_start|>", "<|im_end|>", "<|head|>", "<|/head|>"]
LOOP, ASKED = "{% for m in messages %}", "{% if add_generation_prompt %}"
CHATML = (
    LOOP + "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    + ASKED + "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)  # fmt: skip
TEMPLATES = {
    "chatml": CHATML,
    "default system": "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>"
    "\n{% endif %}" + CHATML,
    "headers": "{{ bos_token }}" + LOOP + "{{ '<|head|>' + m.role + '<|/head|>\\n\\n' }}"
    "{{ m.content | trim + '<|im_end|>' }}{% endfor %}" + ASKED
    + "{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif %}",
    "brackets": "{{ bos_token }}" + LOOP + "{% if m.role == 'user' %}{{ '[ASK] ' + m.content + "
    "' [/ASK]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
    "words": LOOP + "{{ {'user': 'USER: ', 'assistant': 'ASSISTANT: ', 'system': ''}[m.role] + "
    "m.content }}{{ eos_token if m.role == 'assistant' else '\\n' }}{% endfor %}" + ASKED
    + "{{ 'ASSISTANT:' }}{% endif %}",
}  # fmt: skip
word = st.sampled_from(["one", "two", "three", "four", "cat", "sat", "0", "Why"])
texts = st.lists(word, min_size=1, max_size=5).map(" ".join)


def chat_of(tokenizer: PreTrainedTokenizerBase, jinja: str | None) -> ChatTemplate:
    made = copy.deepcopy(tokenizer)
    made.add_special_tokens({"additional_special_tokens": MARKS})
    made.chat_template = jinja
    return ChatTemplate(made, "auto" if jinja else "plain")


@pytest.fixture(scope="module")
def chats(tokenizers: dict[str, PreTrainedTokenizerBase]) -> dict[tuple[str, str], ChatTemplate]:
    return {
        (kind, name): chat_of(tokenizers[kind], jinja)
        for kind in ("byte_level", "sentencepiece", "unigram")
        for name, jinja in {**TEMPLATES, "plain": None}.items()
    }


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str, **keys: Any) -> Message:
    return {"role": "assistant", "content": text, **keys}


def encode_demonstration(row: dict[str, Any], chat: ChatTemplate, max_length: int) -> TokenRow:
    (made,) = tokens.encode_demonstration(row, chat, max_length)
    return made


def squeezed(text: str) -> str:
    for mark in (*MARKS, "</s>"):
        text = text.replace(mark, "")
    return "".join(text.split())


def trained(chat: ChatTemplate, row: TokenRow) -> list[str]:
    """The texts under the loss mask of a row with one completion."""
    pairs = zip(row.completion_ids[0], row.loss_mask[0], strict=True)
    runs = groupby(pairs, key=lambda pair: pair[1])
    return [squeezed(chat.tokenizer.decode([i for i, _ in run])) for on, run in runs if on]


# ---- switches of the loss ----


@settings(max_examples=80, deadline=None)
@given(said=st.lists(st.tuples(texts, texts, st.booleans()), min_size=1, max_size=4),
       kind=st.sampled_from(["byte_level", "sentencepiece", "unigram"]),
       name=st.sampled_from(["chatml", "headers", "brackets", "plain"]),
       key=st.sampled_from(["weight", "train", "loss"]))  # fmt: skip
def test_a_switch_decides_what_is_trained_and_nothing_else(
    chats: dict[tuple[str, str], ChatTemplate],
    said: list[tuple[str, str, bool]],
    kind: str,
    name: str,
    key: str,
) -> None:
    chat = chats[kind, name]
    plain = [m for asked, answer, _ in said for m in (user(asked), assistant(answer))]
    switched = [
        m for asked, answer, on in said for m in (user(asked), assistant(answer, **{key: on}))
    ]
    wanted = [squeezed(answer) for _, answer, on in said if on]
    if not wanted:
        with pytest.raises(BadRow, match="the loss of every assistant turn is switched off"):
            encode_demonstration({"messages": switched}, chat, 999)
        return
    row = encode_demonstration({"messages": switched}, chat, 999)
    assert trained(chat, row) == wanted
    whole = encode_demonstration({"messages": plain}, chat, 999)
    assert row.prompt_ids + row.completion_ids[0] == whole.prompt_ids + whole.completion_ids[0]


def test_where_history_is_rewritten_the_last_turn_that_counts_is_trained(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    jinja = CHATML.replace("m.content", "(m.content if loop.last or m.role == 'user' else 'cut')")
    chat = chat_of(tokenizers["byte_level"], jinja)
    turns = [user("one"), assistant("two"), user("three"), assistant("four", weight=0)]
    row = encode_demonstration({"messages": turns}, chat, 999)
    assert trained(chat, row) == ["two"]


@pytest.mark.parametrize("off", [{"weight": 0}, {"train": False}, {"masked": True}])
def test_an_answer_whose_loss_is_off_is_dropped(off: dict[str, Any]) -> None:
    good, bad = [assistant("two", **off)], [assistant("three")]
    for row in (
        {"prompt": "one", "completion": good},
        {"prompt": "one", "completion": good, "label": True},
        {"prompt": "one", "chosen": good, "rejected": bad},
        {"prompt": "one", "chosen": bad, "rejected": good},
        {"prompt": "one", "completions": [good, bad]},
        {"messages": [user("one"), *good], "label": True},
    ):
        encode = encode_demonstration if row.keys() == {"prompt", "completion"} else None
        with pytest.raises(BadRow, match="the loss of an answer is switched off"):
            (encode or encode_preference)(row, None, 99)  # type: ignore[arg-type]


# ---- begun answers ----


@settings(max_examples=80, deadline=None)
@given(asked=texts, begun=texts, rest=texts, marked=st.booleans(),
       kind=st.sampled_from(["byte_level", "sentencepiece"]),
       name=st.sampled_from(["chatml", "headers", "brackets", "plain"]))  # fmt: skip
def test_a_begun_answer_is_continued_and_not_trained(
    chats: dict[tuple[str, str], ChatTemplate],
    asked: str,
    begun: str,
    rest: str,
    marked: bool,
    kind: str,
    name: str,
) -> None:
    chat = chats[kind, name]
    prompt = [user(asked), assistant(begun, **{"prefix": True} if marked else {})]
    row = encode_preference(
        {"prompt": prompt, "chosen": f" {rest}", "rejected": f" {rest} not"}, chat, 999
    )
    whole = encode_demonstration({"prompt": asked, "completion": f"{begun} {rest}"}, chat, 999)
    text = chat.tokenizer.decode(row.prompt_ids + row.completion_ids[0])
    assert text == chat.tokenizer.decode(whole.prompt_ids + whole.completion_ids[0])
    assert squeezed(chat.tokenizer.decode(row.completion_ids[0])) == squeezed(rest)
    assert encode_prompt({"prompt": prompt}, chat, 999).prompt_ids == row.prompt_ids
    for side in (rest, [assistant(rest)]) if marked else (rest,):
        found = encode_demonstration({"prompt": prompt, "completion": side}, chat, 999)
        assert found.prompt_ids == row.prompt_ids


def test_a_begun_answer_that_nothing_continues_is_dropped(
    chats: dict[tuple[str, str], ChatTemplate],
) -> None:
    chat = chats["byte_level", "chatml"]
    begun = [user("one"), assistant("two", prefix=True)]
    for row in ({"messages": begun}, {"prompt": [*begun, user("three")], "completion": "four"}):
        with pytest.raises(BadRow, match="a turn is marked as a prefix, and what continues it"):
            encode_demonstration(row, chat, 99)
    row = {"prompt": [user("one"), assistant("two")], "completion": [assistant("three")]}
    with pytest.raises(BadRow, match="mark the first with prefix, if it is continued"):
        encode_demonstration(row, chat, 99)
    # a conversation as the source of a prompt: its last answer is not part of the prompt
    asked = encode_prompt({"messages": [user("one"), assistant("two")]}, chat, 99)
    assert asked.prompt_ids == chat.encode_prompt("one")
    assert encode_prompt({"messages": begun}, chat, 99).prompt_ids == chat.encode_prompt(begun)


# ---- prompts rendered beforehand ----


@settings(max_examples=80, deadline=None)
@given(said=st.lists(texts, min_size=3, max_size=5).filter(lambda t: len(t) % 2 == 1), good=texts,
       kind=st.sampled_from(["byte_level", "sentencepiece"]), name=st.sampled_from(list(TEMPLATES)),
       manner=st.sampled_from(["whole", "stripped", "no bos", "no opening", "opening in answer"]),
       ended=st.booleans())  # fmt: skip
def test_a_rendered_prompt_is_taken_as_it_is_and_its_answer_ends_once(
    chats: dict[tuple[str, str], ChatTemplate],
    said: list[str],
    good: str,
    kind: str,
    name: str,
    manner: str,
    ended: bool,
) -> None:
    chat = chats[kind, name]
    asked = [(user, assistant)[i % 2](text) for i, text in enumerate(said)]
    wanted = encode_preference(
        {"prompt": asked, "chosen": good, "rejected": good + " not"}, chat, 999
    )
    prompt = chat.render(asked)
    unasked = chat.tokenizer.apply_chat_template(asked, tokenize=False)
    opening = prompt.removeprefix(unasked)
    prompt = {
        "whole": prompt,
        "stripped": prompt.strip() if opening else prompt,
        "no bos": prompt.removeprefix("<s>"),
        "no opening": unasked,
        "opening in answer": unasked,
    }[manner]
    sides = [opening * (manner == "opening in answer") + t for t in (good, good + " not")]
    end = "</s>" if name in ("brackets", "words") else "<|im_end|>"
    sides = [side + end * ended for side in sides]
    row = encode_preference({"prompt": prompt, "chosen": sides[0], "rejected": sides[1]}, chat, 999)
    decode = chat.tokenizer.decode
    found = [decode(row.prompt_ids + c) for c in row.completion_ids]
    assert [squeezed(f) for f in found] == [
        squeezed(decode(wanted.prompt_ids + c)) for c in wanted.completion_ids
    ]
    assert row.prompt_ids == wanted.prompt_ids
    assert row.completion_ids == wanted.completion_ids


@pytest.mark.parametrize(
    "prompt", ["What does <|im_start|>user mean?", "<|im_start|> is a mark", "user", "Human: a"]
)
def test_a_prompt_about_marks_is_rendered(
    chats: dict[tuple[str, str], ChatTemplate], prompt: str
) -> None:
    chat = chats["byte_level", "chatml"]
    assert chat.render(prompt) == chat.render([user(prompt)])


# ---- what templates know ----


def test_roles_as_the_template_knows_them(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    turns = [{"role": "developer", "content": "Be brief."}, user("one"), assistant("two"),
             {"role": "tool", "content": "three"}, assistant("four")]  # fmt: skip
    tests = {
        "": ("system", "tool"),
        "{% if messages[0]['role'] == 'developer' %}{% endif %}": ("developer", "tool"),
        "{% if messages[0].role in ['ipython', 'tool'] %}{% endif %}": ("system", "tool"),
        "{% if messages[0]['role'] == \"ipython\" %}{% endif %}": ("system", "ipython"),
        "{% if messages[0].role == 'observation' %}{% endif %}": ("system", "observation"),
    }
    for test, (first, tool) in tests.items():
        chat = chat_of(tokenizers["byte_level"], test + CHATML)
        text = chat.render(turns)
        assert text.startswith(f"<|im_start|>{first}\n") and f"<|im_start|>{tool}\nthree" in text
    plain = ChatTemplate(tokenizers["byte_level"], "plain").render(turns[:2])
    assert plain.startswith("\n\nSystem: Be brief.")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_reaches_the_template_under_its_own_name(
    tokenizers: dict[str, PreTrainedTokenizerBase], key: str
) -> None:
    told = CHATML.replace("m.content", f"('<' + m.{key} + '>' if m.{key} else '') + m.content")
    chat = chat_of(tokenizers["byte_level"], told)
    for given_as in ("reasoning_content", "reasoning", "thinking"):
        answer = assistant("two", **{given_as: "hm hm"})
        row = encode_demonstration({"messages": [user("one"), answer]}, chat, 99)
        assert trained(chat, row) == ["<hmhm>two"]
        pair = {"prompt": "one", "chosen": [answer], "rejected": "two"}
        (chosen, _) = encode_preference(pair, chat, 99).completion_ids
        assert chat.tokenizer.decode(chosen).startswith("<hm hm>two")
    for other in (chat_of(tokenizers["byte_level"], CHATML), chat_of(tokenizers["unigram"], None)):
        with pytest.raises(BadRow, match="write the reasoning of an assistant turn"):
            encode_preference(pair, other, 99)


def test_an_empty_answer_is_not_trained(chats: dict[tuple[str, str], ChatTemplate]) -> None:
    chat = chats["byte_level", "chatml"]
    turns = [user("one"), assistant(""), user("two"), assistant("three"), user(""), assistant(" ")]
    row = encode_demonstration({"messages": turns}, chat, 99)
    assert trained(chat, row) == ["three"]
    assert "one" in chat.tokenizer.decode(row.prompt_ids)
