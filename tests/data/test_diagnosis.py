"""What is said of files that cannot be read: the line and the byte."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from lightning_rlhf import PreferenceData
from lightning_rlhf.data.diagnosis import unreadable

ROW = '{"prompt": "one", "chosen": "a", "rejected": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b" \n", "is empty: it holds no rows"),
        ("b.jsonl", (ROW + "{\n").encode(), "line 2 is broken JSON: Expecting property name"),
        ("c.json", b'[{"a": 1},\n {"a": }]', "line 2 is broken JSON: Expecting value in column 8"),
        ("d.jsonl", (ROW + "7\n").encode(), "line 2 is int, not a row of named fields"),
        ("e.jsonl.gz", gzip.compress((ROW + "{\n").encode(), mtime=0), "line 2 is broken JSON"),
        ("f.csv", b"prompt\ncaf\xe9\n", "line 2: byte 0xe9 in column 4 is not UTF-8; save"),
        ("g.json", "\ufeff[{]".encode("utf-16"), "line 1: byte 0xff in column 1 is not UTF-8"),
        ("h.parquet", b"PAR", "cannot be read as parquet: its first or last bytes are wrong; give"),
    ],
)
def test_the_place_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    kind = file.name.removesuffix(".gz").rpartition(".")[2].replace("jsonl", "json")
    said = unreadable([str(file)], kind, ValueError("why")).text
    assert said.startswith(str(file))
    assert says in said


def test_wrong_bytes_met_in_a_row_of_a_folder(
    tokenizers: dict[str, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    """Arrow reads them; the sentence names the file among others, and its line."""
    (tmp_path / "a.jsonl").write_text(ROW)
    bad = ROW.replace("one", "caf\xe9").encode("latin1")
    (tmp_path / "b.jsonl").write_bytes(ROW.encode() + bad + ROW.encode())
    data = PreferenceData(str(tmp_path), tokenizer=tokenizers["byte_level"], val_fraction=0)
    with pytest.raises(ValueError, match=r"b\.jsonl line 2: byte 0xe9 in column 16 is not UTF-8"):
        data.setup()
