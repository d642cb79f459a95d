"""From a row to what a loss sees: every token accounted for, for every kind of tokenizer.

What a template makes of a text is in test_templates; here whole rows go through encoding, cutting
and collation, and are read back from the batch.
"""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.data import collate, tokens
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.tokens import TokenRow
from lightning_rlhf.text.messages import BadRow, Message

KINDS = ["byte_level", "sentencepiece", "unigram", "word_level", "pad_is_eos"]
KNOWN = ["one", "two", "three", "four", "five", "cat", "sat", "Human:", "Why", "a", "b", "0"]
odd = st.sampled_from(["\n\nHuman: ", "🙂", "東京", "  ", "\t", "é", "</s", "<s", ".", "'s", "Öl "])
words = st.lists(st.sampled_from(KNOWN), min_size=1, max_size=6).map(" ".join)
# begins with a word, so that none is a transcript
texts = st.tuples(
    st.sampled_from(KNOWN), st.lists(st.one_of(st.sampled_from(KNOWN), odd), max_size=5)
)
texts = texts.map(lambda drawn: " ".join([drawn[0], *drawn[1]]))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def drawn(data: st.DataObject, kind: str, least: int = 1) -> list[str]:
    """Texts that the tokenizer can give back; words, where it knows nothing else."""
    source = words if kind == "word_level" else texts
    return data.draw(st.lists(source, min_size=least, max_size=least))


def text_of(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    body = ids[1:] if ids[:1] == [tokenizer.bos_token_id] else ids
    return tokenizer.decode(body, clean_up_tokenization_spaces=False)


def same(kind: str, found: str, wanted: str) -> bool:
    """As texts; as words, where spaces leave no trace; a document's first space may be nobody's."""
    if kind == "word_level":
        return found.replace("</s>", " </s>").split() == wanted.replace("</s>", " </s>").split()
    return found == wanted or (kind == "unigram" and found == wanted.removeprefix(" "))


def targets(batch: TokenBatch, number: int) -> tuple[list[int], list[int]]:
    """The tokens of one completion that count, and the places that predict them."""
    of_it = batch.completion_index == number
    return batch.target_ids[of_it].tolist(), batch.predictor_index[of_it].tolist()


def check_answer(
    kind: str, chat: ChatTemplate, prompt: str, answer: str, row: TokenRow, k: int
) -> None:
    """A completion says its answer and ends once, after a prompt that begins once."""
    tokenizer = chat.tokenizer
    ids = row.prompt_ids + row.completion_ids[k]
    assert same(kind, text_of(tokenizer, ids), chat.render(prompt, answer) + "</s>")
    assert row.loss_mask[k] == [True] * len(row.completion_ids[k])
    begins = int(tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id])
    assert ids.count(tokenizer.bos_token_id) == begins
    assert ids[:begins] == [tokenizer.bos_token_id] * begins
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id


@settings(max_examples=25, deadline=None)
@given(data=st.data(), template=st.sampled_from(["raw", "plain"]))
def test_a_loss_sees_the_answers_and_their_ends_and_nothing_else(
    kind: str,
    tokenizers: dict[str, PreTrainedTokenizerBase],
    data: st.DataObject,
    template: str,
) -> None:
    chat = ChatTemplate(tokenizers[kind], template)
    said = [drawn(data, kind, 3) for _ in range(2)]
    if kind == "word_level":  # to it, two words are only two where a space is between
        said = [[prompt, *(f" {answer}" for answer in answers)] for prompt, *answers in said]
    names = ("prompt", "chosen", "rejected")
    try:
        rows = [tokens.encode_preference(dict(zip(names, s, strict=True)), chat, 512) for s in said]
    except BadRow:
        assume(False)  # an identical pair
    for (prompt, *answers), row in zip(said, rows, strict=True):
        for k, answer in enumerate(answers):
            check_answer(kind, chat, prompt, answer, row, k)
    batch = collate.preference_batch(rows).tokens
    flat = batch.input_ids[0].tolist()
    counted = 0
    for number, (row, k) in enumerate((row, k) for row in rows for k in (0, 1)):
        found, places = targets(batch, number)
        counted += len(found)
        assert found == row.completion_ids[k]
        # what predicts the first of them is the prompt's last token, then each the next
        assert flat[places[0]] == row.prompt_ids[-1]
        assert [flat[place] for place in places[1:]] == found[:-1]
        assert flat[int(batch.last_index[number])] == chat.tokenizer.eos_token_id
    assert counted == len(batch.target_ids), "no token counts beside the answers'"


@settings(max_examples=25, deadline=None)
@given(data=st.data(), turns=st.integers(1, 3))
def test_of_a_conversation_the_assistants_words_count(
    kind: str, tokenizers: dict[str, PreTrainedTokenizerBase], data: st.DataObject, turns: int
) -> None:
    chat = ChatTemplate(tokenizers[kind], "plain")
    said = [text.strip() for text in drawn(data, kind, 2 * turns)]
    messages: list[Message] = [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)
    ]
    (row,) = tokens.encode_demonstration({"messages": messages}, chat, 512)
    batch = collate.token_batch([row])
    found, places = targets(batch, 0)
    eos = chat.tokenizer.eos_token_id
    assert found.count(eos) == turns and found[-1] == eos
    flat = batch.input_ids[0].tolist()
    # answer by answer: what counts continues what stands before it
    start = 0
    for turn in range(turns):
        end = found.index(eos, start) + 1
        before, after = flat[: places[start] + 1], flat[: places[end - 1] + 2]
        spoken = text_of(chat.tokenizer, after)[len(text_of(chat.tokenizer, before)) :]
        assert same(kind, spoken, f" {said[2 * turn + 1]}</s>")
        start = end
    assert start == len(found)
    whole = "".join(
        f"\n\n{('Human', 'Assistant')[i % 2]}: {text}{'</s>' * (i % 2)}"
        for i, text in enumerate(said)
    )
    assert same(kind, text_of(chat.tokenizer, flat), whole)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), max_length=st.integers(2, 20))
def test_what_is_cut_ends_nowhere_and_what_is_not_ends_once(
    kind: str, tokenizers: dict[str, PreTrainedTokenizerBase], data: st.DataObject, max_length: int
) -> None:
    chat = ChatTemplate(tokenizers[kind], "plain")
    prompt, answer = drawn(data, kind, 2)
    (whole,) = tokens.encode_demonstration({"prompt": prompt, "completion": answer}, chat, 512)
    (row,) = tokens.encode_demonstration({"prompt": prompt, "completion": answer}, chat, max_length)
    (completion,), (uncut,) = row.completion_ids, whole.completion_ids
    assert len(row.prompt_ids) + len(completion) <= max_length
    assert completion == uncut[: len(completion)]
    ends = completion.count(chat.tokenizer.eos_token_id)
    assert ends == (len(completion) == len(uncut))
    assert (row.cut in ("completion", "both")) == (ends == 0)
    if chat.keeps_first(whole.prompt_ids):
        assert row.prompt_ids[:1] == whole.prompt_ids[:1]
    batch = collate.token_batch([row])
    assert targets(batch, 0)[0] == completion
