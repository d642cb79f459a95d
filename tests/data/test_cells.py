"""What the cells of a source mean is decided for all of its rows, and said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from lightning_rlhf import DemonstrationData, PreferenceData, PromptData
from lightning_rlhf.data import cells
from lightning_rlhf.text.messages import BadRow

READ = "text of messages is read as messages: chosen, prompt, rejected; "


def looked_at(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    found = cells.look(rows, dict, None)
    read = cells.reader(found, dict, None)
    return [read(row) for row in rows], found.note


def messages(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def test_a_column_of_written_messages_is_read_as_messages() -> None:
    rows = [
        {"prompt": messages("user", f"one {i}"), "chosen": messages("assistant", "two"),
         "rejected": messages("assistant", "three")}
        for i in range(3)
    ]  # fmt: skip
    for write in (json.dumps, repr):
        written = [{name: write(cell) for name, cell in row.items()} for row in rows]
        made, note = looked_at(written)
        assert made == rows
        assert sorted(note) == sorted(READ), "in the order of the columns"
    assert looked_at([{"completions": [json.dumps(messages("assistant", "a"))] * 2}])[0] == [
        {"completions": [messages("assistant", "a")] * 2}
    ]


def test_an_answer_that_is_json_stays_text_in_a_source_of_text() -> None:
    answer = json.dumps(messages("user", "Hi"))
    rows = [{"prompt": "Write a chat as JSON.", "completion": answer}]
    rows += [{"prompt": f"one {i}", "completion": "two"} for i in range(3)]
    made, note = looked_at(rows)
    assert made == rows
    assert note == "completion: in 1 of 4 cells looked at text is of messages, and all of it is " \
        "read as text; "  # fmt: skip


def test_a_mixed_source_is_said_and_its_broken_messages_are_dropped() -> None:
    answer = json.dumps(messages("assistant", "two"))
    rows: list[dict[str, Any]] = [{"prompt": "one", "completion": answer}] * 3
    rows += [{"prompt": "one", "completion": "two"}]
    made, note = looked_at(rows)
    assert [row["completion"] for row in made] == [messages("assistant", "two")] * 3 + ["two"]
    assert "in 3 of 4 cells looked at text is of messages and read so, the rest is text" in note
    found = cells.look(rows, dict, None)
    with pytest.raises(BadRow, match="text that starts like messages is neither JSON nor"):
        cells.reader(found, dict, None)({"prompt": "one", "completion": answer[:-4]})


@pytest.mark.parametrize(
    ("prompt", "answer", "rest"),
    [
        ("Name a river. ", "Name a river. The Po.", "The Po."),
        ("Name a river.", "Name a river. The Po.", "The Po."),
        (" Name a river.\n", "Name a river. The Po.", "The Po."),
        ("Name a river", "Name a river The Po.", "The Po."),
        ("Name a river", "Name a riverbed", None),  # inside a word
        ("Name a river", "Name a river, please", None),  # inside a sentence
        ("Name a river.", "Name a river.", None),  # nothing is left
        ("Hi", "Hi there", None),  # too short to be no chance
    ],
)
def test_answers_that_begin_with_their_prompt(prompt: str, answer: str, rest: str | None) -> None:
    for names in (("chosen", "rejected"), ("completion",), ("completions",)):
        cell: Any = [answer, answer] if names == ("completions",) else answer
        wanted: Any = [rest, rest] if names == ("completions",) else rest
        row = {"prompt": prompt, **dict.fromkeys(names, cell)}
        (made,), note = looked_at([row])
        if rest is None:
            assert made == row and note == ""
        else:
            assert made == {"prompt": prompt, **dict.fromkeys(names, wanted)}
            assert note == "in 1 of 1 rows looked at, every answer begins with its prompt, which " \
                "is taken off; "  # fmt: skip


def test_one_side_alone_or_a_few_rows_do_not_decide() -> None:
    prompt = "Once upon a time"
    row = {"prompt": prompt, "chosen": f"{prompt} there was", "rejected": "Never"}
    assert looked_at([row]) == ([row], "")
    both = {**row, "rejected": f"{prompt} never"}
    assert looked_at([both, row, row]) == ([both, row, row], "")
    rows = [both, both, row]
    assert looked_at(rows) == (
        rows,
        "in 2 of 3 rows looked at, every answer begins with its prompt, and is left as it is; ",
    )
    made, _ = looked_at([both] * 19 + [row])
    assert [m["chosen"] for m in made] == ["there was"] * 19 + [row["chosen"]]


def test_the_log_says_how_prompts_are_taken(
    tokenizers: dict[str, PreTrainedTokenizerBase],
) -> None:
    def note(kind: Any, row: dict[str, Any]) -> str:
        data = kind([row], tokenizer=tokenizers["byte_level"], val_fraction=0)
        data.setup()
        return str(data.readings["the list given as source"].layout)

    turns = [*messages("user", "one"), *messages("assistant", "two")]
    assert "is continued by the answer" in note(PromptData, {"prompt": turns})
    assert "is continued by the answer" in note(
        DemonstrationData, {"prompt": turns, "completion": "c"}
    )
    assert note(PromptData, {"prompt": turns[:1]}) == ""
    sides = {"chosen": turns, "rejected": [*turns[:1], *messages("assistant", "b")]}
    assert note(PreferenceData, {"prompt": "one", **sides}) == ""
    assert "text prompt beside whole" in note(PreferenceData, {"prompt": "other", **sides})
    foreign = {"prompt": "<|im_start|>user\nHi", "completion": "c"}
    assert "a mark of another chat template" in note(DemonstrationData, foreign)


def test_rows_from_all_parts_are_looked_at_and_streams_too(
    tokenizers: dict[str, PreTrainedTokenizerBase], tmp_path: Any
) -> None:
    prompt, file = json.dumps(messages("user", "one")), tmp_path / "rows.jsonl"
    rows = [{"prompt": prompt, "completion": str(i)} for i in range(450)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = []
    for source in (str(file), f"stream:{file}"):
        data = DemonstrationData(source, tokenizer=tokenizers["byte_level"], val_fraction=0)
        data.setup()
        (reading,) = data.readings.values()
        assert reading.layout.startswith("text of messages is read as messages: prompt")
        made.append(data.sample_rows(3))
    assert made[0] == made[1]
    assert "role" not in data.tokenizer.decode(made[0][0].prompt_ids)
