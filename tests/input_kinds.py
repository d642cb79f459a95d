"""Bad inputs of every kind, each drawn by a seed: what becomes of one is used, dropped or refused.

A *kind* is a function that draws an input and gives it to the package as a user would. A refusal
is a sentence of ours. Anything else that is raised is foreign. ``tests/test_bad_inputs.py`` tries
the first of every kind, ``benchmarks/bad_inputs.py`` thousands.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import gzip
import io
import json
import math
import random
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from transformers import PreTrainedTokenizerBase

import lightning_rlhf
from data.test_every_format import SAMPLES
from data.test_mutated_files import WRITERS, mutated
from lightning_rlhf.cli.main import main
from lightning_rlhf.constitution import readers, transcripts
from lightning_rlhf.data.datamodules import DemonstrationData, PreferenceData, PromptData
from lightning_rlhf.data.layouts import FORMATS, NAMES, OURS
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.generators.journal import reopen
from lightning_rlhf.recipes.prepare import prepare
from lightning_rlhf.recipes.recipe import read_recipe
from lightning_rlhf.text.display import CONTROL

OWN = Path(lightning_rlhf.__file__).parent
LONGEST = 700  # characters of a sentence
SECONDS = 60  # of an input
CONFIGS = Path(__file__).parents[1] / "configs"
READERS = (PreferenceData, DemonstrationData, PromptData)
Kind = Callable[[random.Random, "Place"], str]


class Place(NamedTuple):
    """What inputs are tried with."""

    folder: Path  # the working folder, with a model at "base"
    tokenizer: PreTrainedTokenizerBase


class Outcome(NamedTuple):
    """What became of an input."""

    word: str  # "used", "dropped", "refused", "foreign" or "slow"
    what: str = ""  # the sentence, or the foreign error and its place


class Slow(BaseException):
    """An input took longer than ``SECONDS``."""


class Refusal(Exception):
    """A verb stopped with a sentence."""


def outcome(kind: Kind, seed: int, place: Place) -> Outcome:
    """Try the input of a seed."""
    try:
        with limited(SECONDS):
            return Outcome(kind(random.Random(f"{kind.__name__} {seed}"), place))
    except Slow:
        return Outcome("slow")
    except Refusal as refusal:
        return _judged(str(refusal), "")
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} at {last.filename}:{last.lineno}"
        ours = isinstance(error, ValueError | FileNotFoundError)
        if not ours or not Path(last.filename).is_relative_to(OWN):
            return Outcome("foreign", f"{where}: {str(error)[:200]}")
        return _judged(str(error), where)


def _judged(sentence: str, where: str) -> Outcome:
    for wrong in (
        len(sentence) > LONGEST and f"{len(sentence)} characters",
        "Traceback" in sentence and "a traceback",
        not sentence.strip() and "says nothing",
    ):
        if wrong:
            return Outcome("foreign", f"{wrong} {where}: {sentence[:200]} ... {sentence[-300:]}")
    return Outcome("refused", sentence)


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Stop what takes too long."""

    def stop(*_: Any) -> None:
        raise Slow

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ---- values and mutations ----


def deep(levels: int, dicts: bool = False) -> Any:
    value: Any = "deep"
    for _ in range(levels):
        value = {"a": value} if dicts else [value]
    return value


TEXTS = (
    "",
    " ",
    "\n",
    "text",
    "007",
    "1e999",
    "null",
    "true",
    "nan",
    "2024-01-01",
    "\x00",
    "\x1b[2J",
    "\u202eabc",
    "\ud83d",
    "a\udc80b",
    "\ufeff",
    "é🙂",
    "x" * 5000,
    "{",
    "[1",
    "'",
    '"',
    "\\",
    "{}",
    "{{ 1/0 }}",
    "<s>",
    "</s>",
    "\n\nHuman: \n\nAssistant: ",
    "../..",
    "/",
    "~",
    "a:b",
    "%s",
    "${x}",
)
NUMBERS = (
    0, -1, 1, 2, 7, 2**31, 2**63, 2**70, -(2**70), 10**400, 0.5, -0.0, 1e308, math.nan, math.inf,
    -math.inf, True, False,
)  # fmt: skip


def junk(draw: random.Random) -> Any:
    """Any value that JSON can hold."""
    what = draw.random()
    if what < 0.4:
        return draw.choice(TEXTS)
    if what < 0.65:
        return draw.choice(NUMBERS)
    return copy.deepcopy(
        draw.choice(
            [None, [], {}, [[]], [None], [{}], {"a": None}, {"": 1}, ["a", 1, None], [1, "a"],
             {"role": "user"}, [{"role": "user", "content": 5}], [{"from": "human"}], deep(30),
             deep(30, True), [[1], ["a"]], [{"a": 1}, {"a": "b"}], "y" * 200_000,
             {"class_path": "os.getcwd"}, {"class_path": 5}, {"init_args": 5}]
        )
    )  # fmt: skip


def objects(draw: random.Random) -> Any:
    """A value that only Python has."""
    return draw.choice(
        [
            b"bytes",
            b"\xff",
            {1, 2},
            (1, "a"),
            1j,
            Path("a"),
            datetime.date(2024, 1, 1),
            print,
            print,
            datetime.datetime(1, 1, 1),
            datetime.timedelta(9),
            Fraction(1, 3),
            object(),
            range(3),
            np.float32(1.5),
            np.array([1, 2]),
            np.array(["a"], object),
            np.str_("text"),
            deep(3000),
            {1: 2},
            {None: 1},
            {(1, 2): 3},
            float,
            bytearray(b"a"),
            np.datetime64("2024-01-01"),
            NotImplemented,
        ]
    )


def places(value: Any) -> list[tuple[Any, Any]]:
    """List every (container, key) in a nested value; it may be deeper than Python calls."""
    found, containers = [], [value]
    while containers:
        inside = containers.pop(0)
        for key in list(inside) if isinstance(inside, dict) else range(len(inside)):
            found.append((inside, key))
            if isinstance(inside[key], dict | list):
                containers.append(inside[key])
    return found


MUTATIONS = "missing extra retyped nulled nested huge surrogate swapped renamed doubled".split()


def mutate(draw: random.Random, value: Any, value_of: Callable[[random.Random], Any] = junk) -> str:
    """Change one place of a nested value; return the name of the change."""
    everywhere = places(value)
    if not everywhere:
        return "nothing"
    node, key = draw.choice(everywhere)
    mutation = draw.choice(MUTATIONS)
    if mutation == "missing":
        del node[key]
    elif mutation == "extra":
        fresh = draw.choice(["extra", "label", "margin", "tools", "", "a\x1b[2J", "class_path", 5])
        node.update({fresh: value_of(draw)}) if isinstance(node, dict) else node.append(
            value_of(draw)
        )
    elif mutation == "retyped":
        node[key] = value_of(draw)
    elif mutation == "nulled":
        node[key] = None
    elif mutation == "nested":
        node[key] = draw.choice([[node[key]], {"a": node[key]}, [[node[key]]], [node[key]] * 2])
    elif mutation == "huge":
        node[key] = draw.choice(["z" * 5000, "w " * 60_000, 2**70, 10**30, ["a"] * 3000, deep(200)])
    elif mutation == "surrogate":
        node[key] = f"{node[key]}\ud83d" if isinstance(node[key], str) else "\udcff"
    elif mutation == "swapped":
        other, place = draw.choice(everywhere)
        if not _holds(node[key], other) and not _holds(other[place], node):
            node[key], other[place] = other[place], node[key]
    elif isinstance(node, dict):
        fresh = draw.choice([f"{key}s", f"{key}\x00", str(key).upper(), "", "\ud83d", f"{key}.a"])
        node[fresh] = node.pop(key) if mutation == "renamed" else copy.deepcopy(node[key])
    else:
        node.insert(key, copy.deepcopy(node[key]))
    return mutation


def _holds(value: Any, node: Any) -> bool:
    """Tell whether a container lies within a value."""
    if value is node:
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_holds(one, node) for one in inner)


def words_of(value: Any) -> str:
    """Join every text in a nested value, in JSON within texts too."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            inner = json.loads(value) if value.lstrip()[:1] in ("[", "{") else None
            return value + "\n" + (words_of(inner) if inner else "")
        return value
    if not isinstance(value, dict | list | int | float | None):
        return str(value)  # a date, say
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return "\n".join(words_of(one) for one in inner)


# ---- rows ----


class Drawn(NamedTuple):
    """Rows of a layout, and the class that reads them."""

    reader: type[RowsData]
    rows: list[Any]
    format: str


def some_layout(draw: random.Random) -> Drawn:
    """Rows of a layout: those of its sample, or its columns filled by their names."""
    if draw.random() < 0.5:
        sample = draw.choice(SAMPLES)
        return Drawn(sample.kind, [copy.deepcopy(sample.row)], sample.forced)
    layout = draw.choice(FORMATS)
    reader = next(r for r in READERS if any(wanted <= layout.gives for wanted in r.accepts))
    row = {name: filled(draw, name) for name in sorted(layout.columns)}
    return Drawn(reader, [row], layout.name if layout.asked else "auto")


def filled(draw: random.Random, column: str) -> Any:
    """A value that a column of such a name may hold."""
    if any(word in column for word in ("conversation", "messages", "chosen", "context")):
        answer = {"role": "assistant", "content": f"Fine, {draw.randrange(99)}."}
        return draw.choice([[{"role": "user", "content": "How?"}, answer], "Fine."])
    if any(word in column for word in ("score", "rank", "rating", "strength", "annotator", "tie")):
        return draw.choice([0, 1, 2, 0.5, "3"])
    if any(word in column for word in ("label", "safe", "winner", "prefer", "choice")):
        return draw.choice([True, 0, 1, "model_a", "tie"])
    if any(word in column for word in ("completions", "answers", "summaries", "generations")):
        return [
            {"text": "Good.", "answer": "Good.", "response": "Good.", "score": 2, "rank": 1},
            {"text": "Bad.", "answer": "Bad.", "response": "Bad.", "score": 1, "rank": 2},
        ]
    return f"Some {column} {draw.randrange(99)}"


def bad_rows(draw: random.Random, most: int, value_of: Callable[[random.Random], Any]) -> Drawn:
    """Several rows of a layout, of which some are changed."""
    drawn = some_layout(draw)
    rows: list[Any] = [copy.deepcopy(drawn.rows[0]) for _ in range(draw.randint(1, most))]
    for _ in range(draw.randint(1, 3)):
        row = draw.choice(rows)
        if isinstance(row, dict):
            mutate(draw, row, value_of)
    if draw.random() < 0.05:
        rows[draw.randrange(len(rows))] = value_of(draw)
    reader = draw.choice(READERS) if draw.random() < 0.1 else drawn.reader
    forced = draw.choice(["auto", OURS, *NAMES]) if draw.random() < 0.1 else drawn.format
    return Drawn(reader, rows, forced)


def train_on(draw: random.Random, place: Place, drawn: Drawn, source: Any) -> str:
    """Read a source and make its batches; every trained text is one of the rows'."""
    template = draw.choice(["plain", "plain", "auto", "raw"])
    data = drawn.reader(
        source, format=drawn.format, template=template, tokenizer=place.tokenizer,
        val_fraction=draw.choice([0.0, 0.0, 0.3]), max_length=draw.choice([1024, 1024, 12]),
        batch_size=2,
    )  # fmt: skip
    data.setup()
    assert sum(1 for _ in data.train_dataloader()), "no batch"
    words = words_of(drawn.rows)
    for row in data.sample_rows(8):
        for ids, mask in zip(row.completion_ids, row.loss_mask, strict=True):
            if template != "auto" and "tool" not in words and "function" not in words:
                check_text(place.tokenizer, ids, mask, words)
    reports = [reading.report for reading in data.readings.values()]
    for report in reports:
        assert report.read == report.kept + sum(report.dropped.values()), report
    return "dropped" if any(report.dropped for report in reports) else "used"


def check_text(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], mask: list[bool], words: str
) -> None:
    """What is trained on is text of the rows, not the Python or JSON of a value."""
    runs: list[list[int]] = [[]]
    for token, inside in zip(ids, mask, strict=True):
        if inside and token != tokenizer.eos_token_id:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    for run in runs:
        text = str(tokenizer.decode(run, skip_special_tokens=False)).strip().strip("\ufffd").strip()
        assert text in words, f"{text[:200]!r} is not of the rows"


def row_lists(draw: random.Random, place: Place) -> str:
    """Rows in memory, with values that only Python has."""
    either = [junk, junk, objects]
    drawn = bad_rows(draw, 5, lambda d: d.choice(either)(d))
    source: Any = drawn.rows
    if draw.random() < 0.1 and all(isinstance(row, dict) for row in drawn.rows):
        names = dict.fromkeys(name for row in drawn.rows for name in row)
        source = {name: [row.get(name) for row in drawn.rows] for name in names}
    return train_on(draw, place, drawn, source)


def row_files(draw: random.Random, place: Place) -> str:
    """Rows in JSON files, in memory and as a stream."""
    drawn = bad_rows(draw, 5, junk)
    suffix = draw.choice([".jsonl", ".jsonl", ".json", ".jsonl.gz"])
    escaped = draw.random() < 0.7
    lines = [json.dumps(row, ensure_ascii=escaped) for row in drawn.rows]
    text = f"[{','.join(lines)}]" if suffix == ".json" else "\n".join(lines)
    content = text.encode(errors="surrogatepass")
    file = place.folder / f"rows{draw.getrandbits(60)}{suffix}"
    file.write_bytes(gzip.compress(content, mtime=0) if suffix.endswith("gz") else content)
    prefix = "stream:" if draw.random() < 0.2 and drawn.reader is not PromptData else ""
    if not prefix:
        return train_on(draw, place, drawn, str(file))
    data = drawn.reader(
        f"{prefix}{file}", format=drawn.format, template="plain", tokenizer=place.tokenizer,
        val_fraction=0.0,
    )  # fmt: skip
    data.setup()
    for _, _ in zip(range(3), data.train_dataloader(), strict=False):
        pass
    return "used"


def single_rows(draw: random.Random, place: Place) -> str:
    """One row, in memory or in a file."""
    drawn = bad_rows(draw, 1, junk)
    if draw.random() < 0.5:
        return train_on(draw, place, drawn, drawn.rows)
    file = place.folder / f"row{draw.getrandbits(60)}.jsonl"
    file.write_text(json.dumps(drawn.rows[0]) + "\n")
    return train_on(draw, place, drawn, str(file))


def damaged_files(draw: random.Random, place: Place) -> str:
    """Bytes of data files, damaged."""
    _, suffix, content = mutated(draw, draw.choice([*WRITERS]))
    file = place.folder / f"rows{draw.getrandbits(60)}{suffix}"
    file.write_bytes(content)
    data = PreferenceData(str(file), tokenizer=place.tokenizer, val_fraction=0.0)
    data.setup()
    return "used"


ROWS: tuple[Kind, ...] = (row_lists, row_files, single_rows, damaged_files)


# ---- documents ----


def damaged(draw: random.Random, text: str) -> bytes:
    """Bytes of a text file, damaged."""
    data = bytearray(text.encode(errors="surrogatepass"))
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data) + 1)
        what = draw.randrange(4)
        if what == 0:
            del data[at : at + draw.choice([1, 5, 10**6])]
        elif what == 1:
            data[at:at] = draw.choice(
                [
                    b"\x00",
                    b"\xff",
                    b"\t",
                    b"\n",
                    b"\x85",
                    b"{",
                    b"[",
                    b": ",
                    b"- ",
                    b"&a ",
                    b"*a ",
                    b"!!python/object:os.system ",
                    b"\xed\xa0\x80",
                    b"'",
                    b'"',
                    b"\xe2\x80\xae",
                    b"%",
                    b"<<: *a\n",
                    b"#",
                    b"|",
                    b">",
                    b"? ",
                    b"---\n",
                    b"...\n",
                    b"\xef\xbb\xbf",
                    b"2024-13-45",
                    b"0x",
                    b"1_000",
                ]
            )
        elif data:
            data[at % len(data)] ^= 1 << draw.randrange(8)
    return bytes(data)


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


def document(draw: random.Random, value: Any) -> tuple[str, bytes]:
    """A YAML or JSON file of a value that was changed, or of damaged bytes."""
    value = copy.deepcopy(value)
    for _ in range(draw.randint(1, 2)):
        mutate(draw, value)
    if draw.random() < 0.05:
        return ".yaml", draw.choice(
            [BOMB, "&a [*a]\n", "[" * 3000, "{a: " * 3000, "9" * 5000]
        ).encode()
    suffix = draw.choice([".yaml", ".yaml", ".json"])
    text = json.dumps(value, default=str) if suffix == ".json" else as_yaml(value)
    if draw.random() < 0.15:
        return suffix, damaged(draw, text)
    return suffix, text.encode(errors="surrogatepass")


def as_yaml(value: Any) -> str:
    try:
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError:
        return json.dumps(value, default=str)


def _written(draw: random.Random, place: Place, value: Any, suffix: str = "") -> Path:
    made, content = document(draw, value)
    file = place.folder / f"file{draw.getrandbits(60)}{suffix or made}"
    file.write_bytes(content)
    return file


TEXT = "Which answer is more honest, and why is the other one less so?"
CONSTITUTIONS: list[Any] = [
    {"name": "ours", "version": "1", "principles": [
        {"id": "a", "critique": TEXT, "revision": TEXT, "comparison": TEXT, "tags": ["x"],
         "weight": 2.0, "source": "me"},
        {"id": "b", "comparison": TEXT}]},
    {"a": {"prompt": [TEXT], "edit_request": TEXT}, "b": {"prompt": [TEXT], "edit_request": TEXT}},
    {"constitutions": [{"critic": TEXT, "revision": TEXT}, {"critic": TEXT, "revision": TEXT}]},
    [TEXT, f"{TEXT} Now?"],
]  # fmt: skip
TRANSCRIPTS: list[Any] = [
    yaml.safe_load(transcripts.DEFAULT.read_text(encoding="utf-8")),
    {"system_chat": [[{"role": r, "content": TEXT} for r in ("user", "assistant") * 3]]},
]


def constitutions(draw: random.Random, place: Place) -> str:
    """Files of principles, in every shape."""
    constitution = readers.load(_written(draw, place, draw.choice(CONSTITUTIONS)))
    for kind in ("critique", "comparison"):
        with contextlib.suppress(ValueError):
            constitution.draw(kind, 0, "row")  # type: ignore[arg-type]
    assert constitution.sha256 and constitution.to_yaml()
    return "used"


def worked_examples(draw: random.Random, place: Place) -> str:
    """Files of transcripts and comparisons."""
    file = _written(draw, place, draw.choice(TRANSCRIPTS))
    read = draw.choice([transcripts.load_transcripts, transcripts.load_comparisons])
    assert isinstance(read(file), tuple)
    return "used"


def raw_bytes(draw: random.Random, place: Place) -> str:
    """Bytes that are no document, as any of the files that are read."""
    content = draw.choice([draw.randbytes(draw.randint(0, 60)), damaged(draw, TEXT), BOMB.encode()])
    file = place.folder / f"raw{draw.getrandbits(60)}{draw.choice(['.yaml', '.json', '.yml', ''])}"
    file.write_bytes(content)
    reads: list[Callable[[Path], Any]] = [
        readers.load,
        transcripts.load_transcripts,
        transcripts.load_comparisons,
        read_recipe,
        reopen,
    ]
    draw.choice(reads)(file)
    return "used"


def journals(draw: random.Random, place: Place) -> str:
    """Journals of answers."""
    rows: list[Any] = [
        {"key": "a", "text": "t", "finished": True}, {"key": "b", "logprobs": [-1.0, None]},
    ] * 2  # fmt: skip
    for _ in range(draw.randint(1, 2)):
        mutate(draw, rows)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    file = place.folder / f"journal{draw.getrandbits(60)}.jsonl"
    file.write_bytes(damaged(draw, text) if draw.random() < 0.5 else text.encode())
    for row in reopen(file).values():
        assert isinstance(row.get("text", row.get("logprobs")), str | list), row
    return "used"


# ---- recipes and configs ----


def recipe_of() -> dict[str, Any]:
    """A recipe of three stages."""
    backbone = {"name_or_path": "base", "dtype": "float32", "lora": {"r": 2}}
    data = {"source": "{rows.pairs}", "batch_size": 4}
    return {
        "folder": "run", "seed": 3, "title": "A recipe",
        "defaults": {"model": {"init_args": {"backbone": {
            "class_path": "lightning_rlhf.Backbone", "init_args": backbone}}},
            "trainer": {"accelerator": "cpu", "max_steps": 2}},
        "stages": [
            {"name": "rows", "call": "recipe_parts.write_pairs", "args": {"n": 4},
             "outputs": {"pairs": "rows.jsonl"}},
            {"name": "sft", "model": {"class_path": "lightning_rlhf.SFTModule"},
             "data": {"class_path": "lightning_rlhf.DemonstrationData", "init_args": data}},
            {"name": "dpo", "needs": ["sft"], "about": "sft", "report": ["train/loss"],
             "model": {"class_path": "lightning_rlhf.DPOModule", "init_args": {"lr": 0.01}},
             "data": {"class_path": "lightning_rlhf.PreferenceData", "init_args": data},
             "trainer": {"max_epochs": 1}},
        ],
    }  # fmt: skip


def recipes(draw: random.Random, place: Place) -> str:
    """Recipes, read and prepared."""
    file = _written(draw, place, recipe_of(), ".yaml")
    if draw.random() < 0.3:
        return verb(["run", str(file), "--dry"])
    prepare(read_recipe(file))
    return "used"


def overrides(draw: random.Random, place: Place) -> str:
    """``--set`` of a recipe."""
    keys = ["seed", "folder", "title", "stages", "stages.sft", "stages.sft.trainer.max_steps",
            "stages.sft.model", "stages.dpo.data.source", "stages.rows.args.n", "defaults.trainer",
            "stages.nobody.x", "", ".", "stages.", "a.b.c", "stages.sft.seed", "stages.sft.outputs",
            "stages.sft.name", "defaults.model.backbone.lora.r", "stages.rows.call"]  # fmt: skip
    key = draw.choice(keys)
    if draw.random() < 0.15:
        key = "".join(draw.choice([*key, ".", "\x00", "\ud83d", "="]) for _ in range(9))
    value = draw.choice(
        [
            *TEXTS,
            "[1",
            "{a",
            "1e999",
            "{}",
            "[]",
            "&a [*a]",
            "{folder}",
            "{x.y}",
            "!!x y",
            "{seed}",
            "9" * 5000,
            "[" * 3000,
            "*a",
            "2001-01-01",
            "0o9",
            "@",
            "`",
        ]
    )
    file = place.folder / "recipe.yaml"
    if not file.is_file():
        file.write_text(yaml.safe_dump(recipe_of()))
    text = f"{key}={value}" if draw.random() < 0.95 else key
    if draw.random() < 0.3:
        return verb(["run", str(file), "--dry", "--set", text])
    recipe = read_recipe(file, [text])
    if draw.random() < 0.5:
        prepare(recipe)
    return "used"


RUNNABLE = "dpo kto sft reward ppo grpo rloo smollm2_dpo smollm2_sft ppo_8gb".split()


def config_of(name: str) -> dict[str, Any]:
    """A shipped config, on a small model and a few rows."""
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    config: dict[str, Any] = yaml.safe_load(text)
    model = config.get("model", {}).get("init_args", {})
    if "backbone" in model:
        backbone = model["backbone"].setdefault("init_args", {})
        backbone |= {"name_or_path": "base", "quantization": None, "dtype": "float32"}
        backbone.pop("adapters", None)
        backbone["lora"] = {"r": 2}
    if "reward" in model or "sampling" in model:
        model["reward"] = "input_kinds.count_words"
    data = config.get("data", {}).get("init_args", {})
    if data:
        kto = "kto" in name
        data |= {"source": "labels.jsonl" if kto else "pairs.jsonl", "max_length": 32}
        data.pop("max_tokens", None)
    config.get("trainer", {}).pop("callbacks", None)
    return config


def count_words(prompts: list[str], completions: list[str], rows: list[Any]) -> list[float]:
    """A reward."""
    return [float(len(text.split())) for text in completions]


def configs(draw: random.Random, place: Place) -> str:
    """Configs of ``configs/`` with one or two changed values: fit, inspect and plan."""
    config = config_of(draw.choice(RUNNABLE))
    for _ in range(draw.randint(1, 2)):
        mutate(draw, config)
    text = as_yaml(config)
    file = place.folder / f"config{draw.getrandbits(60)}.yaml"
    file.write_bytes(
        damaged(draw, text) if draw.random() < 0.1 else text.encode(errors="surrogatepass")
    )
    name = draw.choice(["fit", "inspect", "plan", "plan", "validate"])
    run = ["--trainer.fast_dev_run=true", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    more = {"fit": run, "validate": run, "inspect": [], "plan": ["--gpu", "1"]}[name]
    return verb([name, "--config", str(file), *more])


WORDS = [
    "fit",
    "validate",
    "inspect",
    "plan",
    "run",
    "trace",
    "judge-eval",
    "build-demonstrations",
    "--config",
    "--config=",
    "-c",
    "pairs.jsonl",
    "labels.jsonl",
    "base",
    "--tokenizer",
    "--tokenizer=base",
    "--rows",
    "--rows=x",
    "--gpu",
    "--gpu=nan",
    "--gpu=-1",
    "--completions=0",
    "--model",
    "--model=DPOModule",
    "--model=os.system",
    "--data=PreferenceData",
    "--data.source=pairs.jsonl",
    "--trainer.max_steps=1",
    "--trainer.max_time={a: 1}",
    "--trainer.max_time=x",
    "--trainer.callbacks=[1]",
    "--ckpt_path",
    "--ckpt_path=last",
    "--ckpt_path=\x00",
    "--model.backbone.name_or_path=base",
    "--model.lr=[1",
    "--set",
    "--dry",
    "--from",
    "--as",
    "--as=prompt",
    "--format=ours",
    "--max_length=-1",
    "{pairs.jsonl: 1",
    "{pairs.jsonl: 1.0}",
    "{pairs.jsonl: -1}",
    "{a: b}",
    "\ud83d",
    "a\udc80",
    "a\x00b",
    "",
    "-",
    "--",
    "---",
    "--=",
    "=",
    "--x",
    "z" * 5000,
    "--" + "z" * 5000,
    "\x1b[2J",
    "~",
    "/",
    ".",
    "..",
    "~nobody/x",
    "é",
    "recipe.yaml",
    "--trainer.logger=x",
    "--seed_everything=x",
    "--help=1",
    "stream:pairs.jsonl",
    "a:b:c:d",
    "--print_config=x",
    "--data.val_fraction=2",
    "--feedback={a: 1}",
    "--max_rows=-1",
    "--batch_size=0",
]


def command_lines(draw: random.Random, place: Place) -> str:
    """Words behind a verb."""
    first = draw.choice([*WORDS[:8], *WORDS[:8], draw.choice(WORDS)])
    return verb([first, *(draw.choice(WORDS) for _ in range(draw.randint(0, 6)))])


def verb(args: list[str]) -> str:
    """Run a verb as ``main`` does; a refusal is what it prints last.

    Raises:
        Refusal: it stopped with status 2.
    """
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(args)
    except SystemExit as stopped:
        if stopped.code == 2:
            said = err.getvalue()
            if "error: " not in said or "Traceback" in said:
                raise RuntimeError(said[-500:]) from stopped
            raise Refusal(said.rpartition("error: ")[2].strip()) from None
        if stopped.code not in (None, 0, 1):
            raise RuntimeError(f"status {stopped.code}") from stopped
    assert not CONTROL.search(out.getvalue()), "a terminal is moved"
    return "used"


SURFACE: tuple[Kind, ...] = (
    constitutions, worked_examples, raw_bytes, journals, recipes, overrides, configs, command_lines,
)  # fmt: skip


def prepared(folder: Path, base: str, tokenizer: PreTrainedTokenizerBase) -> Place:
    """Make the folder in which inputs are tried; change into it first."""
    if not (folder / "base").exists():
        shutil.copytree(base, folder / "base")
    words = [f"w{i}" for i in range(9)]
    pairs = [{"prompt": w, "chosen": f"{w} w1", "rejected": "w2"} for w in words]
    labels = [{"prompt": w, "completion": "w3", "label": i % 2} for i, w in enumerate(words)]
    for name, rows in (("pairs", pairs), ("labels", labels)):
        lines = (json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return Place(folder, tokenizer)
