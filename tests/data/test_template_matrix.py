"""Chat templates of many manners: what a row says is what is trained on, or the row is dropped."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data.datamodules import DemonstrationData
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.tokens import encode_demonstration, encode_preference
from lightning_rlhf.text.messages import BadRow, Message
from template_matrix import EACH, MANNERS, check_conversation, drawn_for
from template_matrix import chat_of as matrix_chat

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
KINDS = ["byte_level", "sentencepiece", "unigram", "word_level", "pad_is_eos"]
word = st.sampled_from(["one", "two", "three", "four", "five", "cat", "sat", "a", "b", "0", "Why"])
said = st.lists(st.lists(word, min_size=1, max_size=5).map(" ".join), min_size=2, max_size=8)


def chat_of(tokenizer: PreTrainedTokenizerBase, jinja: str) -> ChatTemplate:
    made = copy.deepcopy(tokenizer)
    made.add_special_tokens({"additional_special_tokens": MARKS})
    made.chat_template = jinja
    return ChatTemplate(made)


def conversation(texts: list[str]) -> list[Message]:
    texts = texts[: len(texts) // 2 * 2]
    return [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]


@pytest.fixture(scope="module")
def matrix(tokenizers: dict[str, PreTrainedTokenizerBase]) -> dict[tuple[str, str], ChatTemplate]:
    return {
        (kind, name): matrix_chat(tokenizer, manner.jinja)
        for kind, tokenizer in tokenizers.items()
        for name, manner in MANNERS.items()
    }


@settings(max_examples=26, deadline=None, derandomize=True)
@given(name=st.sampled_from(list(MANNERS)), number=st.integers(0, 2**32))
@pytest.mark.parametrize(
    "kind", ["byte_level", "sentencepiece", "unigram", "word_level", "pad_is_eos"]
)
def test_what_the_template_writes_is_trained_and_what_the_assistant_wrote_counts(
    matrix: dict[tuple[str, str], ChatTemplate], kind: str, name: str, number: int
) -> None:
    """Of every row; a pair and a prompt with the same history have the same ids."""
    messages = drawn_for(name, kind, number)
    event(check_conversation(matrix[kind, name], MANNERS[name], messages))


@pytest.mark.parametrize("name", list(MANNERS))
def test_plain_conversations_are_never_dropped(
    matrix: dict[tuple[str, str], ChatTemplate], name: str
) -> None:
    messages = conversation(["one two", "three", "four", "five six"])
    for kind in ("byte_level", "sentencepiece"):
        found = check_conversation(matrix[kind, name], MANNERS[name], messages)
        assert found == (EACH if name == "forgets thoughts" else "one row")


def test_a_conversation_turn_by_turn_falls_on_one_side_and_is_counted(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    tokenizer = matrix_chat(tokenizers["byte_level"], MANNERS["forgets thoughts"].jinja).tokenizer
    rows = [
        {"messages": conversation([f"{word} {i}" for word in ("one", "two", "three", "four")])}
        for i in range(40)
    ]
    rows[7] = {"messages": [{"role": "user", "content": "alone"}]}
    data = DemonstrationData(rows, val_fraction=0.3, tokenizer=tokenizer, max_rows=30)
    data.setup()
    (reading,) = data.readings.values()
    assert (reading.report.read, reading.report.kept) == (30, 58)
    assert "58 with one answer each, as the chat template rewrites earlier turns" in str(
        reading.report
    )
    assert reading.report.first == {"no assistant turn": 8}
    sides = [set(rows["opening"]) for rows in (data.train_rows, data.val_rows)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert len(data.train_rows) == 2 * len(sides[0])


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


def called(arguments: Any) -> dict[str, Any]:
    call = {"function": {"name": "weigh", "arguments": arguments}}
    asked = {"role": "user", "content": "How heavy?"}
    return {"messages": [asked, {"role": "assistant", "content": "", "tool_calls": [call]}]}


@pytest.mark.parametrize(
    ("written", "arguments", "right"),
    [
        ("c.function.arguments | tojson", {"z": 1, "a": [1, {"é": "\n"}], "t": True}, True),
        ("c.function.arguments | tojson", '{"z": 1.50, "a": null}', True),
        ("c.function.arguments | tojson(indent=2)", {"z": {"b": [], "a": {}}}, True),
        ("c.function.arguments | tojson(ensure_ascii=True)", {"z": "東京"}, True),
        ("c.function.arguments | tojson(sort_keys=True)", {"z": 1, "a": 2}, False),
        ("c.function.arguments | tojson(sort_keys=True)", {"a": 1, "z": {"y": 1, "b": 2}}, False),
        ("c.function.arguments | tojson", '{"z": 0.12345678901234567890123}', False),
        ("c.function.arguments | tojson", '{"z": 1e999}', False),
        ("c.function.arguments | tojson", '{"z": 1, "z": 2}', False),
        ("c.function.arguments.z | tojson", {"z": 1, "a": 2}, False),
        ("c.function.arguments | length", {"z": 1, "a": 2}, False),
        ("(c.function.arguments | tojson)[:12]", {"z": "a longer text"}, False),
    ],
)
def test_the_arguments_of_a_call_are_written_as_they_are_or_the_row_is_dropped(
    tokenizers: dict[str, PreTrainedTokenizerBase], written: str, arguments: Any, right: bool
) -> None:
    call = "{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ WRITTEN }}{% endfor %}"
    jinja = turns("{{ m.content }}" + call.replace("WRITTEN", written))
    chat = chat_of(tokenizers["byte_level"], jinja)
    if right:
        assert encode_demonstration(called(arguments), chat, 999)
        return
    with pytest.raises(BadRow, match="arguments of (the call of 'weigh'|a tool call)"):
        encode_demonstration(called(arguments), chat, 999)
