"""YAML and JSON files, and the sentence about one that is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_rlhf.text.documents import broken, known, not_utf8, read_file, text_of


def test_yaml_and_json_give_the_same_values(tmp_path: Path) -> None:
    for name, text in (
        ("a.yaml", "n: [1, 2]\n"),
        ("a.yml", "n: [1, 2]"),
        ("a.json", '{"n":[1,2]}'),
    ):
        (tmp_path / name).write_text(text)
        assert read_file(tmp_path / name) == {"n": [1, 2]}


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.yaml", b"a: 1\nb: c: d\n", "line 2 is broken YAML: mapping values .* in column 5; fix"),
        ("a.json", b'{"a": 1,\n "b": }', "line 2 is broken JSON: Expecting value in column 7; fix"),
        ("b.yaml", b"a: caf\xe9\n", "line 1: byte 0xe9 in column 7 is not UTF-8; save the file"),
        ("a.toml", b"", "cannot read .toml; give a .yaml or .json file"),
        ("a", b"", "cannot read it; give"),
    ],
)
def test_a_broken_file_is_named_with_its_place(
    name: str, data: bytes, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}:? {sentence}"):
        read_file(tmp_path / name)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file at .*none\.yaml"):
        read_file(tmp_path / "none.yaml")


def test_a_yaml_error_without_a_place_has_no_line() -> None:
    error = yaml.MarkedYAMLError(problem="odd")
    assert broken("a.yaml", error) == "a.yaml is broken YAML: odd"


def test_the_first_wrong_byte_is_counted_from_its_line() -> None:
    assert not_utf8("a", "Grüße".encode()) is None
    assert (not_utf8("a", b"one\n\xff") or "").startswith("a line 2: byte 0xff in column 1 is")


def test_unknown_keys_are_refused_with_a_suggestion() -> None:
    known(["name"], ["name", "tags"], "here")
    with pytest.raises(ValueError, match=r"here has a field 'nam' .*: did you mean 'name'\?"):
        known(["nam"], ["name", "tags"], "here")
    with pytest.raises(ValueError, match="known are name, tags"):
        known([7], ["name", "tags"], "here")  # type: ignore[list-item]
    assert text_of(" a ", "here") == "a"
    with pytest.raises(ValueError, match="here is int, not text: put it in quotes"):
        text_of(3, "here")
