"""A template that would run for ever or fill the memory is stopped; any other is not touched."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from lightning_rlhf.data import sandbox
from lightning_rlhf.data.datamodules import PreferenceData
from lightning_rlhf.data.sandbox import Excess, bounded
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.text.messages import BadRow

GROWS = "{%% set ns = namespace(x=%s) %%}{%% for i in range(70) %%}%s{%% endfor %%}{{ ns.x }}"
HOSTILE = {
    "a text times a number": "{{ 'a' * 10 ** 10 }}",
    "a number times a text": "{{ 10000000000 * 'a' }}",
    "a list times a number": "{{ [1] * 10 ** 10 }}",
    "doubled by plus": GROWS % ("'ab'", "{% set ns.x = ns.x + ns.x %}"),
    "doubled by tilde": GROWS % ("'ab'", "{% set ns.x = ns.x ~ ns.x %}"),
    "doubled by a block": GROWS
    % ("'ab'", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
    "a doubled list": GROWS % ("[1]", "{% set ns.x = ns.x + ns.x %}"),
    "loops": "{% for i in range(9999) %}{% for j in range(999) %}{% endfor %}{% endfor %}",
    "writes": "{% for i in range(9999) %}{% for j in range(99) %}x{% endfor %}{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}"
    "{% endif %}{% endmacro %}{{ f(60) }}",
    "written in a macro": "{% set x = 'a' * 100000 %}{% macro f() %}{% for i in range(9999) %}"
    "{{ x }}{% endfor %}{% endmacro %}{{ f() }}",
    "a filter's width": "{{ 'a' | center(10000000000) }}",
    "a filter's indent": "{{ 'a\nb' | indent(10000000000) }}",
    "a filter's fill": "{{ [1] | batch(1000000000, 'x') | list }}",
    "a filter's slices": "{{ [1] | slice(1000000000) | list }}",
    "JSON's indent": "{{ [1] | tojson(indent=10000000000) }}",
    "a method's width": "{{ 'a'.ljust(10000000000) }}",
    "zeros": "{{ 'a'.zfill(10000000000) }}",
    "a format": "{{ '{:10000000000}'.format(1) }}",
    "a format's format": "{{ '{:{}}'.format(1, 10000000000) }}",
    "a percent format": "{{ '%10000000000d' % 1 }}",
    "a percent format's star": "{{ '%*d' % (10000000000, 1) }}",
    "a format filter": "{{ '%10000000000d' | format(1) }}",
    "a replacement": "{% set x = 'a' * 100000 %}{{ x.replace('', x) }}",
    "a join": "{% set x = 'a' * 100000 %}{{ x.join(x) }}{{ x | join(x) }}",
    "a power": "{{ 7 ** 999999999 }}",
    "bytes": "{{ (7).to_bytes(10000000000) }}",
}
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
PLAIN = (
    "{% for m in messages %}{{ '%s: ' | format(m.role) ~ m.content | replace('é', 'e') }}"
    "{% for w in m.content.split(' ') %}[{{ w.ljust(4) }}{{ loop.index }}/{{ loop.length }}"
    "{{ '' if loop.last else ',' }}]{% endfor %}{{ '-' * 3 + eos_token }}"
    "{% set y %}{{ m.role | upper }}{% endset %}{{ y }}{% set z | trim %} z {% endset %}{{ z }}"
    "{% filter upper %}x{% endfilter %}{{ {'b': [1, {'é': none}], 'a': 2} | tojson(indent=2) }}"
    "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}={{ v }}{% endfor %}{{ undefined }}"
    "{% generation %}{{ m.content | length }}{% endgeneration %}"
    "{% if loop.index > 1 %}{% continue %}{% endif %}{% endfor %}"
    "{% macro say(x, y=2) %}<{{ x }}{{ y }}{{ caller() if caller }}>{% endmacro %}{{ say(1) }}"
    "{% call say(3) %}inner{% endcall %}{{ range(300) | list | sum }}{{ '%.2f' % 1.5 }}"
    "{% for c in [[1, [2]]] recursive %}{% for d in c %}{{ d if d is number else loop.depth }}"
    "{% endfor %}{% endfor %}{{ messages | map(attribute='role') | join(', ') }}"
)


@pytest.fixture
def byte_level(tokenizers: dict[str, PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    return copy.deepcopy(tokenizers["byte_level"])


@pytest.mark.parametrize("what", list(HOSTILE))
def test_a_template_that_does_too_much_is_stopped(
    byte_level: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(sandbox, "MAX_STEPS", 20_000)
    monkeypatch.setattr(sandbox, "MAX_SIZE", 2_000_000)
    start = time.process_time()
    with bounded(), pytest.raises(Excess):
        byte_level.apply_chat_template(MESSAGES, chat_template=HOSTILE[what], tokenize=False)
    assert time.process_time() - start < 1


def test_the_clock_stops_a_template(
    byte_level: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.0)
    loop = "{% for i in range(9999) %}{% endfor %}"
    with bounded(), pytest.raises(Excess, match="seconds"):
        byte_level.apply_chat_template(MESSAGES, chat_template=loop, tokenize=False)


def test_any_other_template_writes_the_same(byte_level: PreTrainedTokenizerBase) -> None:
    def render() -> Any:
        return byte_level.apply_chat_template(MESSAGES, chat_template=PLAIN, tokenize=False)

    theirs, compiled = render(), chat_template_utils._compile_jinja_template
    with bounded():
        assert chat_template_utils._compile_jinja_template is not compiled
        assert render() == theirs
    assert chat_template_utils._compile_jinja_template is compiled


def test_a_run_with_such_a_template_is_refused_in_a_sentence(
    byte_level: PreTrainedTokenizerBase,
) -> None:
    byte_level.chat_template = "{{ 'a' * 10 ** 10 }}"
    data = PreferenceData(
        [{"prompt": "Hi", "chosen": "Ho", "rejected": "Hum"}], tokenizer=byte_level
    )
    with pytest.raises(ValueError, match="^the chat template does too much: it makes more than"):
        data.setup()


def test_a_few_such_rows_are_dropped(
    byte_level: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "MAX_STEPS", 20_000)
    byte_level.chat_template = (
        "{% for m in messages %}{{ m.content + eos_token }}{% if m.content == 'long' %}"
        "{% for i in range(99999) %}{% endfor %}{% endif %}{% endfor %}"
    )
    chat = ChatTemplate(byte_level)
    chat.encode_answer("short", "answer")
    with pytest.raises(BadRow, match="does too much: it takes more than 20,000 steps"):
        chat.encode_answer("long", "answer")
    with pytest.raises(BadRow):
        chat.encode_answer("long", "answer")
    with pytest.raises(ValueError) as raised:  # not a row, the run
        chat.encode_answer("long", "answer")
    assert not isinstance(raised.value, BadRow)


def test_what_a_template_says_cannot_steer_a_terminal(byte_level: PreTrainedTokenizerBase) -> None:
    byte_level.chat_template = "{{ raise_exception('no\x1b[2J\n' + 'x' * 9999) }}"
    with pytest.raises(BadRow) as raised:
        ChatTemplate(byte_level).encode_prompt("Hi")
    text = str(raised.value)
    assert text.startswith("the chat template refuses: no\N{REPLACEMENT CHARACTER}[2J x")
    assert "\x1b" not in text and "\n" not in text and len(text) < 400
