"""Every mistake gets one sentence: the table that is provoked here and shown in docs/errors.md.

``python tests/test_errors.py --write`` writes the page again.
"""

from __future__ import annotations

import json
import logging
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import BatchSizeFinder, Callback, EarlyStopping
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lightning_rlhf import Backbone, DPOModule, FindTokenBudget, PreferenceData, SFTModule
from lightning_rlhf.cli import main
from lightning_rlhf.modules.guards import check_trainer
from support import number_pairs

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"
GOOD = number_pairs(20)
LONG = {"prompt": " ".join(["w1"] * 50), "chosen": " ".join(["w2"] * 30), "rejected": "w3"}
LAST = "out/run/version_0/checkpoints/last.ckpt"
CONFIG = """\
model:
  class_path: lightning_rlhf.DPOModule
  init_args:
    backbone:
      class_path: lightning_rlhf.Backbone
      init_args: {name_or_path: base, dtype: float32, lora: {r: 4}}
    lr: 0.01
data:
  class_path: lightning_rlhf.PreferenceData
  init_args: {source: good.jsonl, val_fraction: 0.2}
trainer:
  accelerator: cpu
  max_steps: 2
  enable_progress_bar: false
  enable_model_summary: false
  logger:
    class_path: pytorch_lightning.loggers.CSVLogger
    init_args: {save_dir: out, name: run, version: 1}
  callbacks:
    - class_path: pytorch_lightning.callbacks.ModelCheckpoint
      init_args: {save_last: true}
    - class_path: pytorch_lightning.callbacks.EarlyStopping
      init_args: {monitor: val/loss, patience: 3}
"""


class Mistake(NamedTuple):
    """What somebody did, what does it here, and what is said."""

    did: str
    provoke: Callable[[], str]
    says: str


# ---- provoking ----


def typed(*args: str, rows: list[Any] | None = None, **files: str) -> Callable[[], str]:
    """What ``lightning-rlhf fit --config run.yaml`` says to more arguments.

    Args:
        args: behind the config; a verb of its own if it comes first, without dashes.
        rows: of ``rows.jsonl``, which the data then is: dicts, or lines as bytes.
        files: to be written before, underscores for dots.
    """

    def provoke() -> str:
        for name, text in files.items():
            Path(name.replace("_", ".")).write_text(text)
        line = [*args]
        if rows is not None:
            lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows]
            Path("rows.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
            line.append("--data.source=rows.jsonl")
        verb = [] if args and not args[0].startswith("-") else ["fit", "--config", "run.yaml"]
        return stderr_of([*verb, *line])

    return provoke


def stderr_of(line: list[str]) -> str:
    """The sentence with which the command stops; nothing but it may be an error."""
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr(sys.stderr, "write", said.append)
        with pytest.raises(SystemExit) as stopped:
            main(line)
    assert stopped.value.code == 2
    text = "".join(said)
    assert "Traceback" not in text
    return text.rpartition("error: ")[2].strip()


def raised(do: Callable[[], Any]) -> Callable[[], str]:
    """What an exception says."""

    def provoke() -> str:
        with pytest.raises((ValueError, FileNotFoundError)) as found:
            do()
        return str(found.value)

    return provoke


def module(**options: Any) -> DPOModule:
    return DPOModule(Backbone("base", dtype="float32", **options))


def trainer(**options: Any) -> Trainer:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "max_steps": 1}
    return Trainer(**{**quiet, "enable_checkpointing": False, **options})


def with_strategy(kind: type, quantization: str | None) -> None:
    """As a Trainer of that strategy has it; most cannot be built without a GPU."""
    made = trainer()
    made.strategy.__class__ = kind
    check_trainer(made, quantization)


def said_aloud() -> str:
    """What is logged of a file with one bad row."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    logger.addHandler(handler)
    Path("rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [GOOD[0], WRONG, *GOOD]))
    try:
        PreferenceData("rows.jsonl", tokenizer=AutoTokenizer.from_pretrained("base")).setup()
    finally:
        logger.removeHandler(handler)
    return found[-1]


def stand_in(patch: pytest.MonkeyPatch) -> Any:
    """The package ``lightning``, as far as a mistake needs it: the same names, other classes."""
    package, inner = types.ModuleType("lightning"), types.ModuleType("lightning.pytorch")
    inner.EarlyStopping = type(  # type: ignore[attr-defined]
        "EarlyStopping", (Callback,), {"__module__": "lightning.pytorch.callbacks.early_stopping"}
    )
    patch.setitem(sys.modules, "lightning", package)
    patch.setitem(sys.modules, "lightning.pytorch", inner)
    return inner


def mixed_callback() -> str:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = stand_in(patch).EarlyStopping()
        return raised(lambda: trainer(callbacks=[theirs]).fit(module(), PreferenceData(GOOD)))()


def mixed_trainer() -> str:
    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning) as said:
        stand_in(patch)
        SFTModule(Backbone("base"))
    return str(said[0].message)


def searched_again() -> str:
    search = FindTokenBudget()
    search.found = 512
    return raised(lambda: search.load_state_dict({"found": 256}))()


# ---- the table ----

WRONG = {**GOOD[1], "chosen": 7}
ANEW = "or start anew from its role (backbone.adapters)"
DATA = [
    Mistake(
        "a file that is not there",
        typed("--data.source=nofile.jsonl"),
        "no data file at nofile.jsonl",
    ),
    Mistake("an empty file", typed(rows=[]), "rows.jsonl is empty: it holds no rows"),
    Mistake(
        "a file of a kind nobody reads",
        typed("--data.source=rows.txt", rows_txt="w1"),
        "rows.txt: cannot read .txt; known are .json, .jsonl, .parquet, .csv",
    ),
    Mistake(
        "columns under other names",
        typed(rows=[{"question": "w1", "good": "w2", "bad": "w3"}]),
        "?",
    ),
    Mistake(
        "a prompt column under another name",
        typed(rows=[{"question": "w1", "chosen": "w2", "rejected": "w3"}]),
        "?",
    ),
    Mistake("a number where text should be", typed(rows=[WRONG] * 3), "?"),
    Mistake("the same in one row of many: said aloud, and the run goes on", said_aloud, "?"),
    Mistake("broken JSON", typed(rows=[*GOOD[:2], b'{"prompt": "w1", "chosen": ', *GOOD]), "?"),
    Mistake(
        "text that is not UTF-8",
        typed(rows=[*GOOD[:2], '{"prompt": "caf\xe9", "chosen": "w1", "rejected": "w2"}'.encode("latin1")]),
        "?",
    ),
    Mistake("two sides alike", typed(rows=[{**GOOD[0], "rejected": GOOD[0]["chosen"]}]), "?"),
    Mistake("a side without text", typed(rows=[{**GOOD[0], "rejected": " "}]), "?"),
    Mistake(
        "no row that can be used, for several reasons",
        typed(rows=[{**GOOD[0], "rejected": GOOD[0]["chosen"]}, {**GOOD[0], "rejected": ""}, WRONG]),
        "?",
    ),
    Mistake("a row longer than the model's window", typed(rows=[*GOOD, LONG]), "?"),
    Mistake("a row beyond the token budget", typed("--data.max_tokens=40", rows=[*GOOD, LONG]), "?"),
    Mistake("a chat template that is not there", typed("--data.template=chat.jinja"), "?"),
    Mistake("all prompts held out", typed("--data.val_fraction=0.99", rows=GOOD[:1]), "?"),
    Mistake("data without a tokenizer", raised(lambda: PreferenceData(GOOD).setup()), "?"),
]
MODEL = [
    Mistake("a model that is not there", typed("--model.backbone.name_or_path=./nomodel"), "?"),
    Mistake("a tokenizer without EOS", typed("--model.backbone.name_or_path=endless"), "?"),
    Mistake(
        "a LoRA target the model does not have",
        typed("--model.backbone.lora.target_modules=[q_proj, v_porj]"),
        "?",
    ),
    Mistake("an adapter of another base", typed("--model.backbone.name_or_path=wide", "--model.backbone.adapters={policy: out/run/version_0/policy}"), "?"),
    Mistake("an adapter that is not there", typed("--model.backbone.adapters={policy: norole}"), "?"),
    Mistake("4-bit weights without LoRA", typed("--model.backbone.quantization=nf4", "--model.backbone.lora=null"), "?"),
    Mistake("a setting out of range", typed("--model.beta=-1"), "?"),
]
TRAINER = [
    Mistake("half precision", typed("--trainer.precision=16-true"), "?"),
    Mistake("NF4 with bf16-true", typed("--trainer.precision=bf16-true", "--model.backbone.quantization=nf4"), "?"),
    Mistake("NF4 with a sharded strategy", raised(lambda: with_strategy(ModelParallelStrategy, "nf4")), "?"),
    Mistake("FSDP", raised(lambda: with_strategy(FSDPStrategy, None)), "?"),
    Mistake("a callback of the package `lightning`, by class path", typed("--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping"), "?"),
    Mistake("a callback of the package `lightning`, in Python", mixed_callback, "?"),
    Mistake("`lightning` imported beside ours: a warning, before its Trainer's TypeError", mixed_trainer, "?"),
    Mistake("Lightning's batch-size search within a fit", raised(lambda: trainer(callbacks=[BatchSizeFinder()]).fit(module(), PreferenceData(GOOD))), "?"),
    Mistake("Lightning's batch-size search for tokens", raised(lambda: trainer(callbacks=[BatchSizeFinder(batch_arg_name="max_tokens")]).fit(module(), PreferenceData(GOOD))), "?"),
    Mistake("a search for a budget below the longest row", raised(lambda: trainer(callbacks=[FindTokenBudget(most=4)]).fit(module(), PreferenceData(GOOD))), "?"),
]
TYPED = [
    Mistake("a misspelt option", typed("--model.betta=0.2"), "?"),
    Mistake("a misspelt option of a part", typed("--model.backbone.quantisation=nf4"), "?"),
    Mistake("a misspelt option of the Trainer", typed("--trainer.max_stpes=2"), "?"),
    Mistake("a misspelt group", typed("--trainr.max_steps=2"), "?"),
    Mistake("a misspelt option in a config", typed("--config", "more.yaml", more_yaml="model:\n  init_args:\n    betta: 0.2\n"), "?"),
    Mistake("a misspelt option of the Trainer in a config", typed("--config", "more.yaml", more_yaml="trainer:\n  max_stpes: 2\n"), "?"),
    Mistake("a misspelt class", typed("--model=DPOModul"), "?"),
    Mistake("a misspelt loss", typed("--model.loss=lightning_rlhf.functional.dpo.ipoloss"), "?"),
    Mistake("a misspelt verb", typed("fti", "--config", "run.yaml"), "?"),
    Mistake("a misspelt option of `chat`", typed("chat", "base", "--promt=w1"), "?"),
    Mistake("a value of the wrong kind", typed("--model.lr=fast"), "?"),
    Mistake("a value that is no choice", typed("--model.backbone.quantization=nf5"), "?"),
    Mistake("nothing given that must be", typed("fit", "--data=PreferenceData", "--data.source=good.jsonl"), "?"),
    Mistake("a config that is not there", typed("--config", "none.yaml"), "?"),
    Mistake("broken YAML", typed("--config", "more.yaml", more_yaml="trainer:\n max_steps: 2\n  max_epochs: 3\n"), "?"),
]
RESUME = [
    Mistake("a checkpoint that is not there", typed("--ckpt_path=no.ckpt"), "?"),
    Mistake("a file that is no checkpoint", typed("--ckpt_path=run.yaml"), "?"),
    Mistake("a checkpoint of another module", typed("--model=RewardModule", f"--ckpt_path={LAST}"), "?"),
    Mistake("a checkpoint of another rank", typed("--model.backbone.lora.r=8", f"--ckpt_path={LAST}"), "?"),
    Mistake("a learning rate that the checkpoint overrides", typed("--model.lr=0.5", f"--ckpt_path={LAST}"), "?"),
    Mistake("an optimizer setting that it overrides", typed("--model.optimizer=torch.optim.AdamW", "--model.optimizer.weight_decay=0.1", "--model.optimizer.fused=true", f"--ckpt_path={LAST}"), "?"),
    Mistake("another optimizer", typed("--model.optimizer=torch.optim.SGD", f"--ckpt_path={LAST}"), "?"),
    Mistake("a patience that it overrides", typed("--trainer.callbacks=[{class_path: pytorch_lightning.callbacks.EarlyStopping, init_args: {monitor: val/loss, patience: 9}}]", f"--ckpt_path={LAST}"), "?"),
    Mistake("a search that finds another budget than before", searched_again, "?"),
]
TABLE = {"Data": DATA, "Model": MODEL, "Trainer": TRAINER, "Command line": TYPED, "Resuming": RESUME}
ALL = [mistake for mistakes in TABLE.values() for mistake in mistakes]


# ---- tests ----


@pytest.fixture(scope="module")
def place(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, another of another width, one that cannot end, rows and a run."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "base").symlink_to(tiny_base)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    config = LlamaConfig.from_pretrained(tiny_base)
    config.hidden_size = 64
    LlamaForCausalLM(config).save_pretrained(folder / "wide")
    tokenizer.save_pretrained(folder / "wide")
    LlamaForCausalLM(config).save_pretrained(folder / "endless")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder / "endless")
    (folder / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOOD))
    (folder / "run.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", "--config", "run.yaml", "--trainer.logger.version=0"])
    assert (folder / LAST).is_file()
    return folder


@pytest.mark.parametrize("mistake", ALL, ids=lambda mistake: mistake.did)
def test_a_mistake_gets_its_sentence(
    place: Path, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert mistake.provoke() == mistake.says


def test_the_page_shows_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


def page() -> str:
    """The table as a page."""
    lines = [
        "# Mistakes and what is said to them",
        "",
        "Each is provoked by `tests/test_errors.py`, which writes this page from the table it "
        "asserts. The command line",
        "puts `error:` before a sentence and leaves with status 2, before anything long is begun; "
        "in Python it is the text",
        "of a `ValueError` or `FileNotFoundError`. `LIGHTNING_RLHF_TRACEBACK=1` shows where it "
        "came from.",
        "",
        "A tokenizer without a pad token is no mistake: rows are packed, and where something is "
        "padded its end token does it.",
    ]
    for title, mistakes in TABLE.items():
        lines += ["", f"## {title}", "", "| what was done | what is said |", "|---|---|"]
        lines += [f"| {m.did} | {m.says.replace('|', chr(92) + '|')} |" for m in mistakes]
    return "\n".join(lines) + "\n"


if __name__ == "__main__" and "--write" in sys.argv:
    PAGE.write_text(page(), encoding="utf-8")
