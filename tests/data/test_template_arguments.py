"""Arguments and dates of chat templates, from YAML and the command line to the ids."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.cli.inspect import parse_file_arguments
from lightning_rlhf.data import rendering
from lightning_rlhf.data.datamodules import PreferenceData, PromptData
from lightning_rlhf.data.templates import ChatTemplate

TURNS = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SWITCHED = "{% if quick %}{{ 'be quick ' }}{% endif %}" + TURNS
DATED = "{{ 'Today is ' + (day if day is defined else strftime_now('%d %b %Y')) + '. ' }}" + TURNS


@pytest.fixture
def of(tokenizers: dict[str, PreTrainedTokenizerBase]) -> Any:
    def make(jinja: str | None) -> PreTrainedTokenizerBase:
        made = copy.deepcopy(tokenizers["byte_level"])
        made.chat_template = jinja
        return made

    return make


@pytest.mark.parametrize(
    "typed",
    [
        ["--data.template.quick=true"],
        ["--data.template={quick: true}"],
        ["--data.template.name=auto", "--data.template.quick=true"],
    ],
)
def test_arguments_typed_on_the_command_line_reach_the_template(of: Any, typed: list[str]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PreferenceData, "data", skip={"source", "tokenizer"})
    template = parser.parse_args(typed).data.template
    assert "be quick" in ChatTemplate(of(SWITCHED), template).render("Hi")
    assert "be quick" not in ChatTemplate(of(SWITCHED)).render("Hi")


def test_inspect_takes_arguments() -> None:
    file = parse_file_arguments(["x.jsonl", "--tokenizer", "y", "--template", "{quick: true}"])
    assert file.options["template"] == {"quick": True}
    plain = parse_file_arguments(["x.jsonl", "--tokenizer", "y", "--template", "plain"])
    assert plain.options["template"] == "plain"


def test_prompts_and_pairs_have_the_same_arguments(of: Any) -> None:
    tokenizer, template = of(SWITCHED), {"quick": True}
    pair = {"prompt": "Hi", "chosen": "Ho", "rejected": "Hum"}
    found = []
    for reader in (PreferenceData, PromptData):
        data = reader([pair], val_fraction=0, template=template, tokenizer=tokenizer)
        data.setup()
        found.append(tokenizer.decode(data.train_rows[0]["prompt_ids"]))
    assert found[0] == found[1] and found[0].startswith("be quick ")


@pytest.mark.parametrize(
    ("jinja", "template", "sentence"),
    [
        (SWITCHED, {"quik": 1}, "does not use 'quik'; it uses .*quick"),
        (SWITCHED, {"messages": []}, "'messages' is not for you to give"),
        (SWITCHED, {"tokenize": True}, "'tokenize' is not for you to give"),
        (SWITCHED, {"date": "2026-02-03"}, "does not use 'date'"),
        (DATED, {"date": "yesterday"}, "date is 'yesterday', give it as 2026-01-31"),
        (SWITCHED, {"name": "plain", "quick": 1}, "'quick' is .* and 'plain' is not one"),
        (None, {"quick": 1}, "'quick' is an argument .* the tokenizer has none"),
        (SWITCHED, {"name": "not-there.jinja"}, "is neither"),
    ],
)
def test_an_argument_without_use_is_refused(
    of: Any, jinja: str | None, template: dict[str, Any], sentence: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        ChatTemplate(of(jinja), template)


def test_a_file_with_arguments(of: Any, tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(SWITCHED)
    chat = ChatTemplate(of(None), {"name": str(file), "quick": True})
    assert chat.render("Hi").startswith("be quick ")
    assert chat.identity != ChatTemplate(of(None), str(file)).identity == SWITCHED


def test_the_date_is_that_of_the_run_and_can_be_given(
    of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tomorrow(rendering.date):
        @classmethod
        def today(cls) -> rendering.date:
            return cls(2031, 4, 5)

    today = ChatTemplate(of(DATED))
    before = today.render("Hi")
    given = ChatTemplate(of(DATED), {"date": "2026-02-03"})
    passed = ChatTemplate(of(DATED), {"day": "some day"})
    monkeypatch.setattr(rendering, "date", Tomorrow)
    assert today.render("Hi") == before
    assert "Today is 05 Apr 2031." in ChatTemplate(of(DATED)).render("Hi") != before
    assert "Today is 03 Feb 2026." in given.render("Hi")
    assert "Today is some day." in passed.render("Hi")
    assert "writes the date" in today.date_note and "template={date: " in today.date_note
    assert today.identity != ChatTemplate(of(DATED)).identity
    assert passed.date_note == "" == ChatTemplate(of(TURNS)).date_note
    assert ChatTemplate(of(TURNS)).identity == TURNS
