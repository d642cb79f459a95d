"""Prompt and answer meet at a token boundary, begin once and end once."""

from __future__ import annotations

import copy
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lightning_rlhf.data.datamodules import DemonstrationData
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.text_tokenizer import TextTokenizer
from lightning_rlhf.data.tokens import encode_demonstration, encode_preference, encode_prompt
from lightning_rlhf.quickstart.model import word_tokenizer
from lightning_rlhf.text.messages import BadRow, Message
from support import shared

TURN = (
    r"{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{{ m.content }}"
    r"{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
OWN_BOS = "{{ bos_token }}" + TURN
OWN_END = TURN.replace("{{ eos_token }}", "<|end|>")  # an end token that is not the tokenizer's
THINKS = TURN.replace(r"{{ '<|assistant|>\n' }}", r"{{ '<|assistant|>\n<think>' }}")
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"

pieces = st.one_of(
    st.sampled_from(
        [
            "The cat",
            " sat",
            "\n",
            "\n\n",
            " ",
            "  ",
            "Human:",
            "\n\nHuman: ",
            "é",
            "🙂",
            "東",
            "a",
            ".",
        ]
    ),
    st.characters(exclude_categories=["Cs"], exclude_characters="▁"),
)
texts = st.lists(pieces, min_size=1, max_size=8).map("".join)
words = texts.map(str.strip).filter(bool)
CONVERSATION: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 1 ?"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "Why do you ask?\n"},
    {"role": "assistant", "content": " Because  I would\n like to know. "},
    {"role": "user", "content": "Good"},
]


def with_template(tokenizer: PreTrainedTokenizerBase, jinja: str) -> ChatTemplate:
    tokenizer = copy.deepcopy(tokenizer)
    if "<|end|>" in jinja:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.chat_template = jinja
    return ChatTemplate(tokenizer)


def text_of(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """What tokens say; a BOS of the tokenizer's own accord is no part of the text."""
    body = ids[1:] if ids[:1] == [tokenizer.bos_token_id] else ids
    return tokenizer.decode(body, clean_up_tokenization_spaces=False)


def written(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A text as a tokenizer can say it: Metaspace takes a document's first space for its own."""
    ids = tokenizer(" a", add_special_tokens=False).input_ids
    return text if tokenizer.decode(ids) == " a" else text.removeprefix(" ")


def bos_of_its_own(tokenizer: PreTrainedTokenizerBase) -> int:
    return tokenizer("a").input_ids.count(tokenizer.bos_token_id)


# ---- one answer ----


@settings(max_examples=80, deadline=None)
@given(
    prompt=st.one_of(st.just(""), texts), answer=texts, template=st.sampled_from(["raw", "plain"])
)
def test_tokens_say_the_rendered_text_and_end(
    exact: PreTrainedTokenizerBase, prompt: str, answer: str, template: str
) -> None:
    chat = ChatTemplate(exact, template)
    before, after = chat.encode_prompt(prompt), chat.encode_answer(prompt, answer)
    whole, start = (written(exact, chat.render(prompt, a)) for a in (answer, None))
    assert text_of(exact, before + after) == whole + "</s>"
    assert text_of(exact, before) == start
    assert (before + after).count(exact.bos_token_id) == bos_of_its_own(exact)
    assert after.count(exact.eos_token_id) == 1
    assert after[-1] == exact.eos_token_id


@settings(max_examples=60, deadline=None)
@given(prompt=words, answer=words, template=st.sampled_from([TURN, OWN_BOS]))
def test_a_chat_template_says_what_it_renders(
    tokenizers: dict[str, PreTrainedTokenizerBase], prompt: str, answer: str, template: str
) -> None:
    byte_level = tokenizers["byte_level"]
    chat = with_template(byte_level, template)
    ids = chat.encode_prompt(prompt) + chat.encode_answer(prompt, answer)
    # the template's newline after the end token does not count
    expected = f"<|user|>\n{prompt}\n<|assistant|>\n{answer}</s>"
    assert text_of(byte_level, ids) == expected
    assert chat.render(prompt, answer).endswith(expected + "\n")


@pytest.mark.parametrize("jinja", [None, TURN, OWN_BOS, OWN_END])
def test_begins_once_and_ends_once(tokenizer: PreTrainedTokenizerBase, jinja: str | None) -> None:
    chat = ChatTemplate(tokenizer) if jinja is None else with_template(tokenizer, jinja)
    begins = {None: bos_of_its_own(tokenizer), OWN_BOS: 1}.get(jinja, 0)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    for prompt in ("one two", CONVERSATION[:2]):
        before, after = chat.encode_prompt(prompt), chat.encode_answer(prompt, "three four")
        assert (before + after).count(bos) == begins
        assert before[:begins] == [bos] * begins
        assert (before + after).count(eos) == 1
        assert after[-1] == eos
        assert len(after) > 1
    ids, counts = chat.encode_conversation(CONVERSATION)
    assert ids.count(bos) == begins
    ends = [i for i in ids if i in chat.end_ids]
    assert [c for i, c in zip(ids, counts, strict=True) if i in chat.end_ids] == [True] * len(ends)
    assert len(ends) == (3 if jinja == OWN_END else 2)  # eos once more behind the last


def test_an_end_token_in_the_text_is_not_doubled(tokenizer: PreTrainedTokenizerBase) -> None:
    chat = ChatTemplate(tokenizer, "raw")
    assert chat.encode_answer("one", " two</s>") == chat.encode_answer("one", " two")
    with_bos = chat.encode_prompt("<s>one")
    assert with_bos.count(tokenizer.bos_token_id) == 1


def test_text_without_a_prompt_is_kept_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    """As the tokenizer would write it at the start of a document, whatever its chat template."""
    ids = tokenizer("one two").input_ids
    expected = [*(ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids), tokenizer.eos_token_id]
    for chat in (
        ChatTemplate(tokenizer),
        ChatTemplate(tokenizer, "raw"),
        with_template(tokenizer, OWN_BOS),
    ):
        assert chat.encode_prompt("") + chat.encode_answer("", "one two") == expected


def test_words_of_a_word_tokenizer(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    chat = ChatTemplate(tokenizers["word_level"])
    ids = chat.encode_prompt("one two") + chat.encode_answer("one two", "three")
    assert chat.tokenizer.convert_ids_to_tokens(ids) == ["one", "two", "three", "</s>"]


def test_the_shared_story_tokenizer_keeps_the_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared("data/stories260k"))
    for template in ("raw", "plain"):
        chat = ChatTemplate(tokenizer, template)
        for prompt in ("Once upon a time", "Once ", " Once\n", "é\n\n"):
            for answer in ("there was", " there was\n", "\n\nLily", "  ", "🙂."):
                ids = chat.encode_prompt(prompt) + chat.encode_answer(prompt, answer)
                assert text_of(tokenizer, ids) == chat.render(prompt, answer) + "</s>"
                assert ids.count(tokenizer.bos_token_id) == 1


# ---- many turns ----


def counted_runs(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], counts: list[bool]
) -> list[str]:
    """The text of each run of tokens that counts, read off the growing text."""
    runs, at = [], 0
    for counting, group in groupby(counts):
        end = at + len(list(group))
        if counting:
            runs.append(text_of(tokenizer, ids[:end])[len(text_of(tokenizer, ids[:at])) :])
        at = end
    return runs


@settings(max_examples=40, deadline=None)
@given(said=st.lists(texts, min_size=2, max_size=5))
def test_exactly_the_assistant_turns_count(exact: PreTrainedTokenizerBase, said: list[str]) -> None:
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)
    ]
    ids, counts = ChatTemplate(exact, "plain").encode_conversation(messages)
    answers = said[1::2]
    assert counted_runs(exact, ids, counts) == [f" {answer}</s>" for answer in answers]
    names = ("Human: ", "Assistant: ")
    spoken = [f"\n\n{names[i % 2]}{t}{'</s>' * (i % 2)}" for i, t in enumerate(said)]
    # what follows the last answer is nobody's prompt
    assert text_of(exact, ids) == "".join(spoken[: 2 * len(answers)])


@pytest.mark.parametrize("jinja", [TURN, OWN_BOS])
def test_assistant_turns_count_in_a_chat_template(
    tokenizers: dict[str, PreTrainedTokenizerBase], jinja: str
) -> None:
    chat = with_template(tokenizers["byte_level"], jinja)
    ids, counts = chat.encode_conversation(CONVERSATION)
    answers = [m["content"] + "</s>" for m in CONVERSATION if m["role"] == "assistant"]
    assert counted_runs(chat.tokenizer, ids, counts) == answers
    whole = chat.render(CONVERSATION[:4], CONVERSATION[4]["content"])
    assert text_of(chat.tokenizer, ids) == whole.removeprefix("<s>")


def test_an_end_the_template_writes_itself_counts_too(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    chat = with_template(tokenizers["byte_level"], OWN_END)
    ids, counts = chat.encode_conversation(CONVERSATION[:3])
    assert counted_runs(chat.tokenizer, ids, counts) == ["two<|end|></s>"]
    assert "'<|end|>', not the tokenizer's eos_token '</s>'" in chat.ending_note


@pytest.mark.parametrize("template", ["plain", OWN_BOS])
def test_a_conversation_of_one_answer_is_a_prompt_and_an_answer(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> None:
    chat = (
        with_template(tokenizer, template) if "{" in template else ChatTemplate(tokenizer, template)
    )
    ids, counts = chat.encode_conversation(CONVERSATION[:3])
    before = chat.encode_prompt(CONVERSATION[:2])
    after = chat.encode_answer(CONVERSATION[:2], CONVERSATION[2]["content"])
    rest = len(ids) - len(before + after)
    assert ids[: len(ids) - rest] == before + after
    assert counts == [False] * len(before) + [True] * len(after) + [False] * rest


# ---- tools ----


CALL = {"function": {"name": "add", "arguments": '{"a": 1}'}}
TOOLS: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 + 1 ?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "two", "name": "add"},
    {"role": "assistant", "content": "two"},
]
CALLS = TURN.replace(
    "{{ m.content }}",
    "{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}{% endfor %}",
)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (CALLS, ["<call>add</s>", "two</s>"]),
        ("plain", [" " + json.dumps(CALL) + "</s>", " two</s>"]),
    ],
)
def test_what_is_asked_of_a_tool_counts_and_its_answer_does_not(
    tokenizers: dict[str, PreTrainedTokenizerBase], template: str, said: list[str]
) -> None:
    tokenizer = tokenizers["byte_level"]
    named = ChatTemplate(tokenizer, template) if template == "plain" else None
    chat = named or with_template(tokenizer, template)
    ids, counts = chat.encode_conversation(TOOLS)
    assert counted_runs(chat.tokenizer, ids, counts) == said
    assert "two" in text_of(chat.tokenizer, ids).split(said[0])[1].split(said[1])[0]


WRITES = "{% for t in tools or [] %}<tool>{{ t.function.name }}{% endfor %}" + CALLS
SCHEMA = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
ASK, ANSWER = "1 + 1 ?", "two"
ROWS_WITH_TOOLS = [
    (encode_demonstration, {"messages": TOOLS}),
    (encode_demonstration, {"prompt": ASK, "completion": ANSWER}),
    (encode_preference, {"prompt": ASK, "chosen": ANSWER, "rejected": "three"}),
    (encode_preference, {"prompt": ASK, "completions": [ANSWER, "three"], "ranks": [0, 1]}),
    (encode_preference, {"prompt": ASK, "completion": ANSWER, "label": True}),
    (encode_prompt, {"prompt": ASK}),
]


@pytest.mark.parametrize(("encode", "row"), ROWS_WITH_TOOLS)
@pytest.mark.parametrize("column", [[SCHEMA], json.dumps([SCHEMA])], ids=["list", "json"])
def test_the_tools_column_reaches_the_template(
    tokenizers: dict[str, PreTrainedTokenizerBase], column: Any, encode: Any, row: dict[str, Any]
) -> None:
    """Once, before all else, and the rest of the row is what it is without them."""
    chat = with_template(tokenizers["byte_level"], WRITES)
    assert chat.tools_note == ""
    tools = (None, column, None, [], "", "[]")
    made = [encode({**row, "tools": t}, chat, 999) for t in tools]
    without, found, *others = (m[0] if isinstance(m, list) else m for m in made)
    assert text_of(chat.tokenizer, found.prompt_ids) == (
        "<tool>add" + text_of(chat.tokenizer, without.prompt_ids)
    )
    assert found.completion_ids == without.completion_ids
    assert found.loss_mask == without.loss_mask
    assert all(other.prompt_ids == without.prompt_ids for other in others)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("{broken", "tools is not JSON"),
        ({"function": {}}, "tools is not a list of schemas"),
        (["add"], "tools is not a list of schemas"),
    ],
)
def test_tools_that_cannot_be_read(
    tokenizers: dict[str, PreTrainedTokenizerBase], column: Any, reason: str
) -> None:
    chat = with_template(tokenizers["byte_level"], WRITES)
    with pytest.raises(BadRow, match=reason):
        encode_prompt({"prompt": ASK, "tools": column}, chat, 99)


def test_tools_of_any_format_and_those_that_nobody_writes(
    tokenizers: dict[str, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    """Beside ShareGPT's column too; a table's empty fields are no part of a schema."""
    other = {"type": "function", "function": {"name": "sub", "strict": True}}
    turns = [{"from": "human", "value": ASK}, {"from": "gpt", "value": ANSWER}]
    rows = [{"conversations": turns, "tools": tools} for tools in ([SCHEMA], [other], None)]
    chat = with_template(tokenizers["byte_level"], WRITES.replace("t.function.name", "t | tojson"))
    data = DemonstrationData(rows, val_fraction=0, tokenizer=chat.tokenizer)
    data.setup()
    texts = [text_of(chat.tokenizer, row.prompt_ids) for row in data.sample_rows(3)]
    wanted = [f"<tool>{json.dumps(tool)}" for tool in (SCHEMA, other)]
    assert [t.partition("<|user|>")[0] for t in texts] == [*wanted, ""]
    for tokenizer, template, said in (
        (with_template(tokenizers["byte_level"], TURN).tokenizer, "auto", "ignores them; "),
        (tokenizers["byte_level"], "auto", "only a chat template writes them; "),
    ):
        data = DemonstrationData(rows, val_fraction=0, tokenizer=tokenizer, template=template)
        data.setup()
        (reading,) = data.readings.values()
        assert "tools are not written" in reading.layout and reading.layout.endswith(said)


def test_a_template_of_its_own_for_tools(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    tokenizer = copy.deepcopy(tokenizers["byte_level"])
    tokenizer.chat_template = {"default": CALLS, "tool_use": WRITES}
    chat = ChatTemplate(tokenizer)
    assert chat.render(ASK, None, [SCHEMA]) == "<tool>add" + chat.render(ASK)


# ---- by the core alone ----


@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_the_core_says_what_the_tokenizer_says(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> None:
    assert TextTokenizer(tokenizer).ids(text) == tokenizer(text, add_special_tokens=False).input_ids


def test_settings_of_a_core_are_not_ours(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    """A tokenizer file may say that texts are cut or padded; rows are cut by ``fit_length``."""
    expected = ChatTemplate(tokenizers["byte_level"]).encode_prompt("one two three four")
    for setting in ("enable_truncation", "enable_padding"):
        tokenizer = copy.deepcopy(tokenizers["byte_level"])
        getattr(tokenizer.backend_tokenizer, setting)(
            **{"max_length": 2} if "trunc" in setting else {"length": 99}
        )
        assert ChatTemplate(tokenizer).encode_prompt("one two three four") == expected


# ---- which template ----


def test_named_templates_by_hand(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    tokenizer = tokenizers["byte_level"]
    auto, plain, raw = (ChatTemplate(tokenizer, name) for name in ("auto", "plain", "raw"))
    question = [{"role": "tool", "content": "x"}, {"role": "critic", "content": "y"}]
    assert plain.render("Hi") == "\n\nHuman: Hi\n\nAssistant:"
    assert plain.render("Hi", "Ho") == "\n\nHuman: Hi\n\nAssistant: Ho"
    assert plain.render(question, "z") == "\n\nTool: x\n\ncritic: y\n\nAssistant: z"
    assert raw.render("Hi", " Ho") == "Hi Ho"
    assert raw.render(question, "z") == "xyz"
    assert auto.render("Hi", " Ho") == "Hi Ho"
    assert auto.render(question, "z") == plain.render(question, "z")
    chat = with_template(tokenizer, TURN)
    assert chat.render("Hi") == "<|user|>\nHi\n<|assistant|>\n"
    assert ChatTemplate(chat.tokenizer, "raw").render("Hi") == "Hi"
    assert ChatTemplate(chat.tokenizer, "plain").render("Hi") == plain.render("Hi")


def test_a_template_from_a_file(
    tokenizers: dict[str, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    tokenizer = tokenizers["byte_level"]
    file = tmp_path / "chat.jinja"
    file.write_text(TURN + "{# é #}", encoding="utf-8")
    assert ChatTemplate(tokenizer, str(file)).render("Hi") == "<|user|>\nHi\n<|assistant|>\n"
    with pytest.raises(FileNotFoundError) as raised:
        ChatTemplate(tokenizer, "chatml")
    sentence = 'template \'chatml\' is neither "auto", "plain", "raw" nor a file: give one of these'
    assert str(raised.value) == sentence


def test_the_default_of_several_chat_templates(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    tokenizer = copy.deepcopy(tokenizers["byte_level"])
    tokenizer.chat_template = {"default": TURN, "tool_use": OWN_BOS}
    assert ChatTemplate(tokenizer).render("Hi") == "<|user|>\nHi\n<|assistant|>\n"


# ---- what cannot be ----


def test_what_only_a_prompt_has_is_no_part_of_a_trained_row(
    exact: PreTrainedTokenizerBase,
) -> None:
    """A reasoning model's template opens the thoughts in a prompt: an answer may have none."""
    chat, plain = with_template(exact, THINKS), with_template(exact, TURN)
    assert chat.encode_answers("one", ["two three"]) == plain.encode_answers("one", ["two three"])
    assert chat.encode_conversation(CONVERSATION) == plain.encode_conversation(CONVERSATION)
    assert chat.encode_prompt("one") == plain._with_bos(chat._text.ids(chat.render("one")))
    assert "ends a prompt with '<think>' but leaves it out" in chat.opening_note
    thought, none = "<think>hm</think>two", "three"
    prompt, (alone,) = chat.encode_answers("one", [thought])
    assert prompt == chat.encode_prompt("one")
    # both sides of a pair have one prompt
    prompt, (first, second) = chat.encode_answers("one", [thought, none])
    assert prompt == plain.encode_prompt("one")
    assert [first] == plain.encode_answers("one", [thought])[1] != [alone]
    assert [second] == plain.encode_answers("one", [none])[1]


def test_a_template_that_rewrites_older_turns_shows_the_place(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    """As templates do that leave out the thoughts of earlier answers."""
    forgets = TURN.replace("{{ m.content }}", "{{ m.content if loop.last else 'forgotten' }}")
    chat = with_template(tokenizers["byte_level"], forgets)
    with pytest.raises(ValueError, match=r"it writes 'Hi.*' before an answer but 'forgotten"):
        chat.encode_answer("Hi", "Ho")


def test_rows_a_chat_template_refuses_are_bad_rows(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    chat = with_template(tokenizers["byte_level"], REFUSES + TURN)
    with pytest.raises(BadRow, match=r"^the chat template refuses: no system role$"):
        chat.encode_prompt(CONVERSATION[:2])
    chat.encode_prompt(CONVERSATION[1:2])
    with pytest.raises(BadRow, match=r"^the chat template needs a turn before the answer$"):
        chat.encode_conversation([{"role": "assistant", "content": "Hi"}])


def test_no_answer_ends_without_an_end_token(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    tokenizer = copy.deepcopy(tokenizers["byte_level"])
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="the tokenizer has no eos_token"):
        ChatTemplate(tokenizer).encode_answer("one", "two")


@pytest.mark.parametrize(("end", "place"), [("", "'\\n' after"), ("<stop>", "'<stop>\\n' after")])
def test_a_template_that_trains_no_end_token_shows_the_place(
    tokenizers: dict[str, PreTrainedTokenizerBase], end: str, place: str
) -> None:
    chat = with_template(tokenizers["byte_level"], TURN.replace("{{ eos_token }}", end))
    for call in (
        lambda: chat.ending_note,
        lambda: chat.encode_answer("one", "two"),
        lambda: chat.encode_conversation(CONVERSATION),
    ):
        with pytest.raises(ValueError) as raised:
            call()
        assert not isinstance(raised.value, BadRow)
        assert str(raised.value) == (
            f"the chat template writes no end token behind an answer, but {place} "
            "'<|user|>\\nquestion\\n<|assistant|>\\nanswer', so a model would never learn to stop: "
            "write {{ eos_token }} there, or a special token of the tokenizer, or give "
            'template="plain"'
        )


def test_turns_that_end_with_another_token_end_the_last_with_eos_as_well(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    """No eos stands inside the conversation, where the template writes none."""
    chat = with_template(tokenizers["byte_level"], OWN_END)
    names = chat.tokenizer.convert_ids_to_tokens(chat.encode_answer("one", "two"))
    assert names[-2:] == ["<|end|>", "</s>"]
    ids, _ = chat.encode_conversation(CONVERSATION)
    names = chat.tokenizer.convert_ids_to_tokens(ids)
    assert names.count("<|end|>") == 2
    assert names.count("</s>") == 1 and names[-1] == "</s>"
    assert with_template(tokenizers["byte_level"], TURN).ending_note == ""


@pytest.mark.parametrize("template", ["auto", "plain", "raw"])
def test_an_answer_that_has_begun(template: str) -> None:
    """Prompt, beginning and what goes on are the tokens of the text that they make."""
    tokenizer = word_tokenizer(["a", "b", "c", "d", "Human:", "Assistant:"])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }} "
        "{% if m['role'] == 'assistant' %}{{ eos_token }} {% endif %}{% endfor %}"
    )
    chat = ChatTemplate(tokenizer, template)
    prompt = [{"role": "user", "content": "a b "}]
    ids, tails = chat.encode_begun(prompt, "c ", ["d", "c d"])
    answered = chat.encode_prompt(prompt) + chat.encode_answer(prompt, "c d")
    assert ids + tails[0] == answered[: len(ids) + 1]
    assert [tokenizer.decode(tail) for tail in tails] == ["d", "c d"]
    opened, (option,) = chat.encode_begun(prompt, "", ["d"])
    assert opened == chat.encode_prompt(prompt)
    assert tokenizer.decode(option) == "d"
