"""Sources: which files of a folder are read, and that what they say arrives as it was written."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from lightning_rlhf import DemonstrationData, PreferenceData
from lightning_rlhf.data import sources
from lightning_rlhf.data.sources import is_mixture, load_rows, local_path
from lightning_rlhf.data.tables import read_json

SIDES = {"chosen": "a", "rejected": "b"}
CUT = gzip.compress(b'{"prompt": "p"}\n' * 99, mtime=0)[:-20]  # no time: it is a test's name


def write(file: Path, *rows: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def prompts(source: Any) -> list[str]:
    return load_rows(source)[:]["prompt"]


def refused(source: Any) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_rows(source)
    assert type(error.value) in (ValueError, FileNotFoundError)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- folders ----


@pytest.mark.parametrize(
    ("names", "read"),
    [
        ("train.jsonl test.jsonl", "train.jsonl"),
        ("training-1.jsonl training-2.jsonl dev.jsonl", "training-1.jsonl training-2.jsonl"),
        ("data/train-00000-of-00001.jsonl data/val-00000-of-00001.jsonl",
         "data/train-00000-of-00001.jsonl"),
        ("train/a.jsonl train/b.jsonl eval/c.jsonl", "train/a.jsonl train/b.jsonl"),
        ("hills.jsonl test.jsonl", "hills.jsonl"),
        ("a.jsonl b.jsonl contest.jsonl", "a.jsonl b.jsonl contest.jsonl"),
        ("test.jsonl", "test.jsonl"),
        ("a.jsonl deep/b.jsonl", "a.jsonl"),
        ("deep/a.jsonl deeper/b.jsonl", "deep/a.jsonl deeper/b.jsonl"),
        ("a.jsonl .b.jsonl .cache/c.jsonl __old/d.jsonl metadata.jsonl dataset_info.json "
         "a.jsonl.bak",
         "a.jsonl"),
        ("A.JSONL", "A.JSONL"),
    ],
)  # fmt: skip
def test_the_files_of_a_folder(names: str, read: str, tmp_path: Path) -> None:
    for name in names.split():
        write(tmp_path / name, {"prompt": name, **SIDES})
    assert prompts(str(tmp_path)) == read.split()
    rows = load_rows(f"stream:{tmp_path}")
    assert [row["prompt"] for row in rows] == read.split()


def test_the_log_names_the_files_that_are_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train.jsonl", "test.jsonl", "valid.jsonl"):
        write(tmp_path / name, {"prompt": name})
    (tmp_path / "metadata.csv").write_text("a\n1\n")
    with caplog.at_level(logging.INFO):
        load_rows(str(tmp_path))
    assert "split train, train.jsonl; left metadata.csv, test.jsonl, valid.jsonl" in caplog.text


def test_a_split_of_a_folder_by_name(tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl", "dev.jsonl"):
        write(tmp_path / name, {"prompt": name})
    assert prompts(f"{tmp_path}:test") == ["test.jsonl"]
    assert prompts(f"{tmp_path}:val") == ["dev.jsonl"]
    assert "has no split late but dev: give" not in refused(f"{tmp_path}:late")
    assert refused(f"{tmp_path}:late").startswith(f"{tmp_path} has no split late but ")
    file = tmp_path / "train.jsonl"
    assert refused(f"{file}:test") == f"{file} is a file, which has no splits: leave out :test"


def test_splits_without_train_are_asked_for(tmp_path: Path) -> None:
    for name in ("test.jsonl", "dev.jsonl"):
        write(tmp_path / name, {"prompt": name})
    assert "has no split train but validation, test: give one of them" in refused(str(tmp_path))


def test_shards_of_splits_with_longer_names(tmp_path: Path) -> None:
    for name in ("train_prefs", "train_sft"):
        write(tmp_path / f"{name}-00000-of-00001.jsonl", {"prompt": name})
    assert "no split train but train_prefs, train_sft" in refused(str(tmp_path))
    assert prompts(f"{tmp_path}:train_sft") == ["train_sft"]


def test_a_saved_folder_by_split(tmp_path: Path) -> None:
    parts = {name: Dataset.from_list([{"prompt": name}]) for name in ("train", "test")}
    DatasetDict(parts).save_to_disk(tmp_path)
    assert prompts(str(tmp_path)) == ["train"]
    assert prompts(f"{tmp_path}:test") == ["test"]
    next((tmp_path / "test").glob("*.arrow")).unlink()
    assert "cannot be read" in refused(f"{tmp_path}:test")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (7, "7"),
        ("007", 7),
        (True, "True"),
        (1, 0.5),
        ({"a": 1}, {"b": "x"}),
        (["a"], "a"),
        ([{"role": "user", "content": "x"}], [{"role": "user", "content": ["x"]}]),
        ("2024-01-01", "yesterday"),
        (None, 3),
    ],
)
def test_columns_of_other_types_in_several_files(one: Any, other: Any, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"tag": one, "prompt": "p"})
    write(tmp_path / "b.jsonl", {"tag": other, "prompt": "q"})
    rows = load_rows(str(tmp_path))
    assert rows[:]["prompt"] == ["p", "q"]
    if one == "2024-01-01":
        assert rows[1]["tag"] == other  # nobody reads the date
    else:
        assert rows[:]["tag"] == [one, other]
        assert [type(value) for value in rows[:]["tag"]] == [type(one), type(other)]


def test_a_column_that_differs_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.jsonl", {"id": 1, "prompt": "p"})
    write(tmp_path / "b.jsonl", {"id": "x", "prompt": "q"})
    with caplog.at_level(logging.INFO):
        load_rows(str(tmp_path))
    assert f"{tmp_path / 'b.jsonl'}: column 'id' is string, and int64 in" in caplog.text


# ---- text stays text ----

ANSWERS = ["007", "True", "1.0", "2024-01-01", "1e5", "None", "NA", "nan", "+3", "1,000", " 4"]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("streamed", ["", "stream:"])
def test_text_stays_text(answer: str, suffix: str, streamed: str, tmp_path: Path) -> None:
    """Every row has an answer of one kind, so that a reader takes the column for numbers."""
    file = tmp_path / f"rows{suffix}"
    frame = pd.DataFrame({"Frage": [answer] * 2, "output_3": [answer] * 2, "label": [1, 0.5]})
    if suffix == ".parquet":
        frame.to_parquet(file)
    elif suffix.startswith(".csv"):
        frame.to_csv(file, index=False)
    else:
        frame.to_json(file, orient="records", lines=suffix == ".jsonl")
    rows = list(load_rows(f"{streamed}{file}", {"Frage": "prompt"}))
    assert rows == [{"Frage": answer, "output_3": answer, "label": n} for n in (1, 0.5)]


@pytest.mark.parametrize(
    "values",
    [
        [7, "7", "007"],
        ["true", True],
        ["null", None, "x", 1],
        ['{"a": 1}', {"a": 1}],
        [[{"role": "tool", "content": '{"miles": 3}'}], [{"role": "tool", "content": [1]}]],
        [[{"role": "user", "content": "2024-01-01"}]],
        [1, "x", 1.5],
    ],
)
@pytest.mark.parametrize("source", ["list", "jsonl", "json", "stream"])
def test_values_of_several_types_keep_their_own(
    values: list[Any], source: str, tmp_path: Path
) -> None:
    rows = [{"prompt": "p", "messages": value} for value in values]
    given: Any = rows
    if source != "list":
        file = tmp_path / f"rows.{source.replace('stream', 'jsonl')}"
        write(file, *rows)
        if source == "json":
            file.write_text(json.dumps(rows))
        given = f"stream:{file}" if source == "stream" else str(file)
    read = [row["messages"] for row in load_rows(given)]
    assert read == values
    assert [type(v) for v in read] == [type(v) for v in values]


def test_json_is_read_the_same_value_by_value(tmp_path: Path) -> None:
    rows = [{"prompt": "\ufeffp\u2028q\0", "x": None}, {"prompt": "é", "y": [1, {"z": 2}]}]
    one = write(tmp_path / "a.jsonl", *rows)
    one.write_bytes(b"\xef\xbb\xbf\r\n" + one.read_bytes().replace(b"\n", b"\r\n"))
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1))
    expected = [{"prompt": "", "x": None, "y": None, **row} for row in rows]
    for file in (one, tmp_path / "b.json"):
        assert list(read_json([str(file)], None, False)) == expected


@pytest.mark.parametrize(
    "texts", [(1, "007"), ("q", "2024-01-01"), ("007", 5), (None, "2024-01-01")]
)
def test_text_after_the_first_ten_megabytes(texts: tuple[Any, str], tmp_path: Path) -> None:
    """A reader takes the type of a column from its first part."""
    rows = [{"prompt": text, "pad": "x" * 6_000} for text in texts for _ in range(2_000)]
    read = prompts(str(write(tmp_path / "a.jsonl", *rows)))
    assert [str(read[0]), str(read[-1])] == [str(text) for text in texts]


def test_columns_like_those_of_an_agents_log_stay(tmp_path: Path) -> None:
    row = {"id": "1", "source": "s", "model": "m", "system_prompt": "p", "messages": [{"a": "b"}]}
    assert load_rows(str(write(tmp_path / "a.jsonl", row)))[0] == row


# ---- broken files ----


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl.gz", b'{"prompt": "p"}\n', "is not a gzip archive, though its name says so"),
        ("b.jsonl.gz", CUT, "is cut or damaged: fetch"),
        ("c.json", b"[]", "is empty: it holds no rows"),
        ("d.csv", b"prompt,chosen\n", "is empty: it holds no rows"),
        ("e.jsonl", b'{"prompt": "p"}\n{"prompt": "\\ud83d"}\n', "line 2 holds half of a char"),
        ("f.json", b'[{"prompt": "p"}, {"prompt": "\\udc00"}]', "row 2 holds half of a char"),
        ("g.jsonl", b'{"prompt": "p", "prompt": "q"}\n', "line 1 gives the field 'prompt' twice"),
        ("h.csv", b"prompt,chosen\na,b,c\nd,e,f\n", "its rows have more fields than its"),
        ("i.csv", b"prompt,chosen\na,b\nd,e,f\n", "line 3 has 3 fields, and the lines before it 2"),
        ("j.csv", b'prompt,chosen\na,"b\n', "a quote in row 1 is not closed; close it"),
        ("k.jsonl", b"PAR1\x15\x04\x15PAR1", "is a parquet file: rename it to k.parquet"),
        ("l.parquet", b'{"prompt": "p"}\n', "its first or last bytes are wrong"),
        ("m.zip", b"PK\x03\x04", "cannot read .zip; known are"),
        ("n.jsonl.gz", b"PK\x03\x04", "is a zip archive: unpack it and give the file inside"),
        ("o.jsonl", b"[" * 100_000, "nested too deeply"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_a_broken_file_is_named(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    said = refused(str(file))
    assert said.startswith(str(file)) and says in said
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).write_bytes(content)
    assert name.endswith("zip") or str(folder / name) in refused(str(folder))


def test_gzip_under_a_plain_name_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(gzip.compress(b'{"prompt": 1}\n{"prompt": "01"}\n', mtime=0))
    assert prompts(str(file)) == [1, "01"]


# ---- Python objects ----

GIVEN: dict[str, Any] = {
    "list": [{"prompt": "p", **SIDES}, {"prompt": "q", **SIDES, "margin": 2.0}],
    "tuple": ({"prompt": "p"}, {"prompt": "q", "margin": 2.0}),
    "columns": {"prompt": ["p", "q"], "margin": (None, 2.0)},
    "frame": pd.DataFrame({"prompt": ["p", "q"], "margin": [None, 2.0]}, index=[5, 6]),
    "Dataset": Dataset.from_dict({"prompt": ["p", "q"], "margin": [None, 2.0]}),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_an_object_as_a_source(kind: str) -> None:
    """A field that only a later row has is read too."""
    rows = load_rows(GIVEN[kind])
    assert rows[:]["prompt"] == ["p", "q"] and rows[:]["margin"] == [None, 2.0]
    assert "__index_level_0__" not in rows.column_names and not is_mixture(GIVEN[kind])


def test_a_path_as_a_source(tmp_path: Path, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    file = write(tmp_path / "rows.jsonl", {"prompt": "one", **SIDES})
    given: Any = file
    for source in (given, {given: 1.0}):
        data = PreferenceData(source, tokenizer=tokenizers["byte_level"], val_fraction=0)
        data.setup()
        assert data.train_rows is not None and len(data.train_rows) == 1
    assert refused(tmp_path / "none.jsonl") == f"no data file at {tmp_path / 'none.jsonl'}"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (7, "the int given as source cannot be read: give a path"),
        ([{"prompt": "p"}, "q"], "the list given as source: row 2 is str, not a row of named"),
        ({"prompt": ["p"], "chosen": []}, "has columns of several lengths: prompt 1, chosen 0"),
        ([{"prompt": "p"}, {"prompt": "\ud83d"}], "row 2 holds half of a character pair"),
        ([], "is empty: it holds no rows"),
        (pd.DataFrame({"prompt": []}), "the DataFrame given as source is empty"),
    ],
)
def test_an_object_that_cannot_be_read(source: Any, says: str) -> None:
    assert says in refused(source)


# ---- configs ----


@pytest.fixture
def with_configs(tmp_path: Path) -> Path:
    """Write a folder as on the hub: two configs, one with a test split."""
    for name in ("hills/train", "hills/test", "lakes/train"):
        write(tmp_path / f"{name}.jsonl", {"prompt": name})
    configs = "".join(f"- config_name: {n}\n  data_files:\n" + "".join(
        f"  - {{split: {s}, path: {n}/{s}.jsonl}}\n" for s in splits
    ) for n, splits in (("hills", ("train", "test")), ("lakes", ("train",))))  # fmt: skip
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\nHills and lakes.\n")
    return tmp_path


@pytest.mark.parametrize("local", [True, False])
def test_a_config_and_a_split_by_name(
    local: bool, with_configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = sources.load_dataset
    monkeypatch.setattr(
        sources, "load_dataset", lambda name, *a, **k: load(str(with_configs), *a, **k)
    )
    name = str(with_configs) if local else "owner/set"
    assert prompts(f"{name}:lakes") == ["lakes/train"]
    assert prompts(f"{name}:hills:test") == ["hills/test"]
    assert [row["prompt"] for row in load_rows(f"stream:{name}:hills")] == ["hills/train"]
    says = f"has the configs hills, lakes: name one behind a colon, {name}:hills, or with a split"
    assert says in refused(name)
    assert says in refused(f"{name}:ponds")
    assert "Unknown split" in refused(f"{name}:lakes:test")
    assert "too many colons" in refused(f"{name}:a:b:c")


def test_the_path_of_a_source(tmp_path: Path) -> None:
    assert local_path("owner/set:test") is None
    assert local_path(f"stream:{tmp_path}:test") == tmp_path
    odd = write(tmp_path / "a:b.jsonl", {"prompt": "p"})
    assert local_path(str(odd)) == odd and prompts(str(odd)) == ["p"]


# ---- several readers ----


def test_one_source_for_several_tokenizers_and_readers(
    tokenizers: dict[str, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    """Each finds its own rows, before and after the others have read it."""
    file = write(tmp_path / "rows.jsonl", *[{"prompt": f"one {n}", **SIDES} for n in range(4)])
    seen: dict[tuple[str, str], Any] = {}
    for _ in range(2):
        for name, tokenizer in tokenizers.items():
            for reader in (PreferenceData, DemonstrationData):
                data = reader(str(file), tokenizer=tokenizer, val_fraction=0)
                data.setup()
                assert data.train_rows is not None
                rows = data.train_rows.to_list()
                assert seen.setdefault((name, reader.__name__), rows) == rows
                sides = len(rows[0]["completion_ids"])
                assert sides == (2 if reader is PreferenceData else 1)
                assert tokenizer.decode(rows[3]["completion_ids"][0]).startswith("a")
