"""Four shapes of constitution files, and the errors of wrong ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lightning_rlhf.constitution.principles import Principle
from lightning_rlhf.constitution.readers import LazyConstitution, load
from lightning_rlhf.constitution.transcripts import load_transcripts
from support import shared

SHAPES = "use one of: ours"


def written(folder: Path, value: object, name: str = "mine.yaml") -> Path:
    file = folder / name
    text = json.dumps(value) if file.suffix == ".json" else yaml.safe_dump(value)
    file.write_text(text)
    return file


def test_the_hash_depends_on_content_alone(tmp_path: Path) -> None:
    principles = [{"id": "a", "critique": "What is rude?", "revision": "Be kind.", "tags": ["t"]}]
    value = {"name": "n", "version": "1", "principles": principles}
    first = load(written(tmp_path, value))
    assert first == load(written(tmp_path, value, "other.json"))
    assert first.sha256 == load(written(tmp_path, value, "other.json")).sha256
    assert len(first.sha256) == 64 and first.stamp["sha256"] == first.sha256
    principles[0]["revision"] = "Be kinder."
    assert load(written(tmp_path, value)).sha256 != first.sha256
    assert replace(first, version="2").sha256 != first.sha256


def test_the_published_form_loses_its_headings(tmp_path: Path) -> None:
    entry = {
        "prompt": ["\n\nCritiqueRequest: What is wrong with it?\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Make it right.\n\nRevision:",
    }
    (principle,) = load(written(tmp_path, {"harmful0": entry}, "their.json")).principles
    assert principle == Principle(
        "harmful0", "What is wrong with it?", "Make it right.", source="their.json"
    )


def test_two_requests_of_one_published_entry_share_its_weight(tmp_path: Path) -> None:
    entry = {"prompt": ["One?", "Two?"], "edit_request": "Fix it."}
    first, second = load(written(tmp_path, {"x": entry})).principles
    assert (first.id, second.id, first.weight, second.weight) == ("x", "x-2", 0.5, 0.5)


def test_a_list_of_strings_becomes_requests_around_them(tmp_path: Path) -> None:
    (principle,) = load(written(tmp_path, ["Be brief."])).principles
    for text in (principle.critique, principle.revision, principle.comparison):
        assert "Be brief." in text


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"principles": []}, "has no name"),
        ({"name": "n", "version": 1, "principles": []}, "has no principles: give at least one"),
        ({"name": "n", "version": 1, "principles": [{}]}, "principle 1 has no id"),
        (
            {"name": "n", "version": 1, "principles": [{"id": "a", "critic": "x"}]},
            "did you mean 'critique'",
        ),
        (
            {"name": "n", "version": 1, "principles": [{"id": "a", "revision": 3}]},
            r"\(a\): revision is int, not text",
        ),
        (
            {"name": "n", "version": 1, "principles": [{"id": "a", "critique": "x"}]},
            "'a' asks for nothing",
        ),
        (
            {"name": "n", "version": 1, "principles": [{"id": "a", "revision": "x"}] * 2},
            "two principles 'a'",
        ),
        ([{"critic": "a"}], f"is not a constitution: it is a list of dict; {SHAPES}"),
        ([], f"is an empty list; {SHAPES}"),
        (None, f"is empty; {SHAPES}"),
        (
            {"constitutions": [{"critic": "a"}]},
            "entry 1 has the keys {critic}: give it critic and revision",
        ),
        ({"x": {"prompt": ["c"]}}, "edit_request is NoneType, not text"),
    ],
)
def test_errors_of_a_wrong_file(tmp_path: Path, value: object, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        load(written(tmp_path, value))


def test_errors_of_no_file_and_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file at .*none\.yaml"):
        load(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_text("name: [\n")
    with pytest.raises(ValueError, match="line 2 is broken YAML"):
        load(tmp_path / "b.yaml")
    with pytest.raises(ValueError, match=r"cannot read \.txt"):
        load(tmp_path / "b.txt")


def test_the_critic_form_of_llm_swarm() -> None:
    file = shared("data/constitutions/llm-swarm.json")
    constitution = load(file)
    theirs = json.loads(file.read_text())["constitutions"]
    assert [(p.critique, p.revision) for p in constitution.principles] == [
        (t["critic"].strip(), t["revision"].strip()) for t in theirs
    ]
    assert constitution.draw("critique", 1).id.startswith("llm-swarm-")
    chats = load_transcripts(file)
    assert len(chats) == 4 and all(len(t.messages()) == 6 for t in chats)
    with pytest.raises(ValueError, match="no principle with a comparison text"):
        constitution.draw("comparison", 1)


def test_a_file_of_an_earlier_stage_is_read_on_first_use(tmp_path: Path) -> None:
    value = {"name": "n", "version": "1", "principles": [{"id": "a", "revision": "Be kind."}]}
    lazy = LazyConstitution(str(tmp_path / "mine.yaml"), "revision")
    with pytest.raises(FileNotFoundError, match=r"no file at .*mine\.yaml"):
        assert lazy.value
    file = written(tmp_path, value)
    assert lazy.value == load(file) and lazy.value is lazy.value
    with pytest.raises(ValueError, match="no principle with a critique text"):
        LazyConstitution(str(file), "critique")  # it is there, so it is read at once
