"""Chat templates of many manners: what a row says is what is trained on, or the row is dropped."""

from __future__ import annotations

import copy
import json
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.tokens import ONE_ANSWER, encode_demonstration, encode_preference
from lightning_rlhf.text.messages import BadRow, Message

MARKS = ["<|im_start|>", "<|im_end|>", "<|call|>", "<think>", "</think>"]
HEAD = "{{ '<|im_start|>' + m.role + '\\n' }}"
ASKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
LOOP = "{% for m in messages %}"


def turns(content: str, end: str = "{{ '<|im_end|>\\n' }}", head: str = HEAD) -> str:
    return LOOP + head + content + end + "{% endfor %}" + ASKS


CHATML = turns("{{ m.content }}")
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}"
    "{% endif %}" + CHATML
)
STRIPS = "{{ bos_token }}" + turns("{{ m.content | trim }}")
DATED = "{{ '<|im_start|>system\\nToday: ' + strftime_now('%Y') + '<|im_end|>\\n' }}" + STRIPS
FORGETS_THOUGHTS = turns(
    "{{ m.content if loop.last else m.content.split('</think>')[-1].strip() }}"
)
THINKS_LAST = turns(
    "{% if m.role == 'assistant' and loop.last and '<think>' not in m.content %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{{ m.content }}"
)
EOS_AT_THE_END = (
    LOOP
    + HEAD
    + "{{ m.content + '<|im_end|>\\n' }}{% endfor %}"
    + (ASKS.removesuffix("{% endif %}") + "{% else %}{{ eos_token }}{% endif %}")
)
OTHER_END_AT_THE_END = turns(
    "{{ m.content }}",
    "{{ eos_token if loop.last and m.role == 'assistant' else '<|im_end|>' }}",
)
BRACKETS = (
    "{{ bos_token }}" + LOOP + "{% if m.role == 'assistant' %}{{ m.content + eos_token }}"
    "{% else %}{{ '[ASK]' + m.content + '[/ASK]' }}{% endif %}{% endfor %}"
)
PARTS = turns(
    "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
)
KEPT = {
    "chatml": CHATML,
    "default system": DEFAULT_SYSTEM,
    "strips": STRIPS,
    "dated": DATED,
    "eos at the end": EOS_AT_THE_END,
    "other end at the end": OTHER_END_AT_THE_END,
    "brackets": BRACKETS,
    "parts": PARTS,
}
word = st.sampled_from(["one", "two", "three", "four", "five", "cat", "sat", "a", "b", "0", "Why"])
said = st.lists(st.lists(word, min_size=1, max_size=5).map(" ".join), min_size=2, max_size=8)


def chat_of(tokenizer: PreTrainedTokenizerBase, jinja: str) -> ChatTemplate:
    made = copy.deepcopy(tokenizer)
    made.add_special_tokens({"additional_special_tokens": MARKS})
    made.chat_template = jinja
    return ChatTemplate(made)


@pytest.fixture(scope="module")
def chats(tokenizers: dict[str, PreTrainedTokenizerBase]) -> dict[tuple[str, str], ChatTemplate]:
    return {
        (kind, name): chat_of(tokenizer, jinja)
        for kind, tokenizer in tokenizers.items()
        for name, jinja in {**KEPT, "forgets": FORGETS_THOUGHTS, "thinks": THINKS_LAST}.items()
    }


def conversation(texts: list[str]) -> list[Message]:
    texts = texts[: len(texts) // 2 * 2]
    return [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]


def squeezed(text: str) -> str:
    return "".join(text.split())


def trained(chat: ChatTemplate, ids: list[int], mask: list[bool]) -> list[str]:
    """The text of each run under the loss mask, without spaces and end tokens."""
    runs = groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1])
    texts = [chat.tokenizer.decode([i for i, _ in run]) for on, run in runs if on]
    for end in ("<|im_end|>", "</s>"):
        texts = [text.replace(end, "") for text in texts]
    return [squeezed(text) for text in texts]


@settings(max_examples=60, deadline=None)
@given(texts=said, name=st.sampled_from(list(KEPT)))
@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "unigram", "word_level"])
def test_every_answer_and_nothing_else_is_trained(
    chats: dict[tuple[str, str], ChatTemplate], kind: str, texts: list[str], name: str
) -> None:
    chat, messages = chats[kind, name], conversation(texts)
    ids, mask = chat.encode_conversation(messages)
    assert trained(chat, ids, mask) == [squeezed(m["content"]) for m in messages[1::2]]
    # the last turn may have an eos behind its own end: every decoder stops there
    text = chat.render(messages[:-1], messages[-1])  # as far as the tokenizer knows its words
    whole = squeezed(
        chat.tokenizer.decode(chat.tokenizer(text, add_special_tokens=False).input_ids)
    )
    found = squeezed(chat.tokenizer.decode(ids))
    bos = "" if whole.startswith("<s>") else "<s>"
    if kind != "word_level":  # one word, to it, may reach from a prompt into its answer
        assert found.removeprefix(bos).removesuffix("</s>") == whole.removesuffix("</s>")
    runs = [
        [i for i, _ in run]
        for on, run in groupby(zip(ids, mask, strict=True), lambda p: p[1])
        if on
    ]
    marks = {chat.tokenizer.eos_token_id, chat.tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert all(run[-1] in marks for run in runs), "each answer ends"


@settings(max_examples=40, deadline=None)
@given(texts=said, name=st.sampled_from(["forgets", "thinks"]))
@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "unigram"])
def test_of_a_rewritten_conversation_each_answer_is_a_row(
    chats: dict[tuple[str, str], ChatTemplate], kind: str, texts: list[str], name: str
) -> None:
    chat = chats[kind, name]
    messages = conversation(texts)
    for message in messages[1::2]:
        message["content"] = (
            f"<think>\nhm\n</think>\n\n{message['content']}" * (name == "forgets")
            or message["content"]
        )
    rows = encode_demonstration({"messages": messages}, chat, 999)
    assert len(rows) == len(messages) // 2
    for i, row in enumerate(rows):
        asked, answer = messages[: 2 * i + 1], messages[2 * i + 1]
        assert (row.cut == ONE_ANSWER) == (len(messages) > 2)
        assert row.prompt_ids == chat.encode_prompt(asked)
        assert row.completion_ids == [chat.encode_answer(asked, answer["content"])]
        assert all(row.loss_mask[0]) and row.opening == messages[0]["content"]


ARGUMENTS = {
    "tojson": "{{ c.function.arguments | tojson }}",
    "items": "{% for k, v in c.function.arguments | items %}{{ k }}={{ v }};{% endfor %}",
    "concatenated": "{{ '' + c.function.arguments }}",
    "printed": "{{ c.function.arguments }}",
}


@pytest.mark.parametrize("manner", list(ARGUMENTS))
@pytest.mark.parametrize("given_as", [dict, json.dumps])
def test_arguments_of_calls_in_the_type_that_the_template_takes(
    tokenizers: dict[str, PreTrainedTokenizerBase], manner: str, given_as: Any
) -> None:
    call = "{% for c in m.tool_calls or [] %}{{ c.function.name + ' ' }}" + ARGUMENTS[manner]
    chat = chat_of(tokenizers["byte_level"], turns("{{ m.content }}" + call + "{% endfor %}"))
    function = {"name": "weigh", "arguments": given_as({"grams": 7})}
    answer = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    (row,) = encode_demonstration(
        {"messages": [{"role": "user", "content": "How heavy?"}, answer]}, chat, 99
    )
    text = "weigh grams=7;" if manner == "items" else 'weigh {"grams": 7}'
    assert chat.tokenizer.decode(row.completion_ids[0]) == text + "<|im_end|></s>"


def test_a_call_without_content_where_the_template_wants_no_content(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    jinja = turns(
        "{% if m.content is not defined %}{{ m.tool_calls[0].function.name }}{{ "
        "m.tool_calls[0].function.arguments }}{% else %}{{ m.content }}{% endif %}"
    )
    chat = chat_of(tokenizers["byte_level"], jinja)
    call = {"function": {"name": "weigh", "arguments": {"grams": 7}}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    ids = chat.encode_answer("How heavy?", answer)
    assert chat.tokenizer.decode(ids) == 'weigh{"grams": 7}<|im_end|></s>'


@pytest.mark.parametrize(
    ("jinja", "answer", "reason"),
    [
        (
            CHATML,
            {"content": "", "tool_calls": [{"function": {"name": "weigh"}}]},
            "the tool calls",
        ),
        (turns("{{ m.content[:3] }}"), {"content": "far too long"}, "all of the assistant turn"),
        (
            turns("{{ m.content if m.role != 'user' }}"),
            {"content": "seven"},
            "all of the user turn",
        ),
        (turns("{{ m.content + 1 }}"), {"content": "seven"}, "refuses: TypeError"),
        (turns("{{ m.content }}{{ 1 // 0 }}"), {"content": "seven"}, "refuses: ZeroDivisionError"),
    ],
)
def test_what_a_template_does_not_write_is_dropped(
    tokenizers: dict[str, PreTrainedTokenizerBase],
    jinja: str,
    answer: dict[str, Any],
    reason: str,
) -> None:
    chat = chat_of(tokenizers["byte_level"], jinja)
    messages = [{"role": "user", "content": "How heavy?"}, {"role": "assistant", **answer}]
    with pytest.raises(BadRow, match=reason):
        encode_demonstration({"messages": messages}, chat, 99)


def test_a_header_that_is_part_of_the_answer_is_logged(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    late = chat_of(tokenizers["byte_level"], CHATML.removesuffix(ASKS))
    assert "writes '<|im_start|>assistant\\n' before an answer" in late.opening_note
    for jinja in (CHATML, PARTS, BRACKETS):
        assert chat_of(tokenizers["byte_level"], jinja).opening_note == ""


@pytest.mark.parametrize("template", ["plain", "raw"])
def test_a_history_ends_its_answers_in_prompts_as_in_demonstrations(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> None:
    chat = ChatTemplate(tokenizer, template)
    messages = conversation(["one", "two", "three", "four"])
    ids, _ = chat.encode_conversation(messages)
    prompt = chat.encode_prompt(messages[:3])
    assert prompt + chat.encode_answer(messages[:3], "four") == ids
    assert chat.encode_begun(messages[:3])[0] == prompt


def test_a_cut_prompt_loses_whole_turns(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    chat = chat_of(tokenizers["byte_level"], CHATML)
    asked = [
        {"role": "system", "content": "Be brief."},
        *conversation(["one two three four", "five six seven eight"]),
        {"role": "user", "content": "nine"},
    ]
    row = {"prompt": asked, "chosen": "ten", "rejected": "one"}
    whole = encode_preference(row, chat, 999)
    length = len(whole.prompt_ids) + max(map(len, whole.completion_ids))
    short = encode_preference(row, chat, length - 1)
    assert short.prompt_ids == chat.encode_prompt([asked[0], asked[-1]])
    assert short.completion_ids == whole.completion_ids and short.cut == "prompt"
