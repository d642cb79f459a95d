"""Every mistake gets one sentence: a table that is tested here and shown in docs/errors.md.

``python tests/parsing/test_mistakes.py --write`` writes the page again.
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
from pytorch_lightning.callbacks import BatchSizeFinder, Callback
from pytorch_lightning.plugins.precision import FSDPPrecision
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lightning_rlhf import Backbone, DPOModule, FindTokenBudget, PreferenceData, SFTModule
from lightning_rlhf.cli.main import main
from lightning_rlhf.training.guards import check_trainer
from support import number_pairs

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
GOOD = number_pairs(20)
LONG = {"prompt": " ".join(["w1"] * 50), "chosen": " ".join(["w2"] * 30), "rejected": "w3"}
ROLE, LAST = "out/run/version_0/policy", "out/run/version_0/checkpoints/last.ckpt"
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
    """A mistake, a function that makes it, and the sentence that the user gets."""

    name: str
    make: Callable[[], str]
    sentence: str


# ---- making mistakes ----


def typed(*args: str, rows: list[Any] | None = None, **files: str) -> Callable[[], str]:
    """What ``lightning-rlhf fit --config run.yaml`` says to more arguments.

    Args:
        args: behind the config; a verb of its own if it comes first, without dashes.
        rows: of ``rows.jsonl``, which the data then is: dicts, or lines as bytes.
        files: to be written before, underscores for dots.
    """

    def make() -> str:
        for name, text in files.items():
            Path(name.replace("_", ".")).write_text(text)
        line = [*args]
        if rows is not None:
            lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows]
            Path("rows.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
            line.append("--data.source=rows.jsonl")
        verb = [] if args and not args[0].startswith("-") else ["fit", "--config", "run.yaml"]
        return stderr_of([*verb, *line])

    return make


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

    def make() -> str:
        with pytest.raises((ValueError, FileNotFoundError)) as found:
            do()
        return str(found.value)

    return make


def module(**options: Any) -> DPOModule:
    return DPOModule(Backbone("base", dtype="float32", **options))


def trainer(**options: Any) -> Trainer:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "max_steps": 1}
    return Trainer(**{**quiet, "enable_checkpointing": False, **options})


def fitted(callback: Callable[[], Callback]) -> Callable[[], str]:
    """What a fit with a callback says."""
    return raised(lambda: trainer(callbacks=[callback()]).fit(module(), PreferenceData(GOOD)))


def strategy(kind: type, quantization: str | None) -> Callable[[], str]:
    """As a Trainer of that strategy has it; most cannot be built without a GPU."""

    def check() -> None:
        made = trainer()
        made.strategy.__class__ = kind
        if kind is FSDPStrategy:
            made.strategy._precision_plugin = FSDPPrecision("32-true")
        check_trainer(made, quantization)

    return raised(check)


def logged() -> str:
    """Return the message about a file with one bad row."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)  # a quickstart before has silenced Lightning
    Path("rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [GOOD[0], WRONG, *GOOD]))
    try:
        PreferenceData("rows.jsonl", tokenizer=AutoTokenizer.from_pretrained("base")).setup()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
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
        return fitted(stand_in(patch).EarlyStopping)()


def mixed_trainer() -> str:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as said:
        stand_in(patch)
        SFTModule(Backbone("base"))
    return str(said[0].message)


def searched_again() -> str:
    search = FindTokenBudget()
    search.found = 512
    return raised(lambda: search.load_state_dict({"found": 256}))()


# ---- the table ----

WRONG = {**GOOD[1], "chosen": 7}
ALIKE = {**GOOD[0], "rejected": GOOD[0]["chosen"]}
LATIN = '{"prompt": "caf\xe9", "chosen": "w1", "rejected": "w2"}'.encode("latin1")
BACKBONE, RESUMED = "--model.backbone", f"--ckpt_path={LAST}"
STOP = "pytorch_lightning.callbacks.EarlyStopping"
ADAMW = "{class_path: torch.optim.AdamW, init_args: {weight_decay: 0.1, fused: true}}"
BARE = "model: {class_path: lightning_rlhf.DPOModule}\n"
PATIENT = f"[{{class_path: {STOP}, init_args: {{monitor: val/loss, patience: 9}}}}]"
COUNTS_TURNS = (
    "{{ messages | length }}:{% for m in messages %} {{ m.content }}{% endfor %}{{ eos_token }}"
)
DATA = [
    Mistake(
        "a file that is not there",
        typed("--data.source=nofile.jsonl"),
        "no data file at nofile.jsonl",
    ),
    Mistake(
        "a name that is neither a file's nor a data set's",
        typed("--data.source=nobody/nothing"),
        "nobody/nothing is not a file, and as a hub id it cannot be loaded: "
        "Couldn't reach 'nobody/nothing' on the Hub (OfflineModeIsEnabled)",
    ),
    Mistake("an empty file", typed(rows=[]), "rows.jsonl is empty: it holds no rows"),
    Mistake(
        "a file of an unknown kind",
        typed("--data.source=rows.txt", rows_txt="w"),
        "rows.txt: cannot read .txt; known are .json, .jsonl, .parquet, .csv",
    ),
    Mistake(
        "columns under other names",
        typed(rows=[{"question": "w1", "good": "w2", "bad": "w3"}]),
        "rows.jsonl has the columns {question, good, bad} but PreferenceData needs "
        "{chosen, prompt, rejected} or {chosen, rejected} or {completions, prompt, "
        "ranks} or {completions, prompt, ratings} or {completions, order, prompt} or "
        "{completions, prompt} or {completion, label, prompt} or {label, messages}; "
        "rename them with columns={'yours': 'ours'}",
    ),
    Mistake(
        "a prompt column under another name",
        typed(rows=[{"asked": "w1", "chosen": "w2", "rejected": "w3"}]),
        "rows.jsonl: no row can be used: 1 rows read, 0 kept; 1 dropped (without a "
        "prompt, an answer must be a conversation or transcript, first in row 1)",
    ),
    Mistake(
        "a number where text should be",
        typed(rows=[WRONG] * 3),
        "rows.jsonl: no row can be used: 3 rows read, 0 kept; 3 dropped (chosen is int,"
        " not text, first in row 1)",
    ),
    Mistake(
        "the same in one row of many: logged, and the run continues",
        logged,
        "rows.jsonl: 22 rows read, 21 kept; 1 dropped (chosen is int, not text, first in row 2)",
    ),
    Mistake(
        "broken JSON",
        typed(rows=[*GOOD[:2], b'{"prompt": "w1", "chosen": ', *GOOD]),
        "rows.jsonl line 3 is broken JSON: Expecting value in column 28; fix or remove that line",
    ),
    Mistake(
        "text that is not UTF-8",
        typed(rows=[*GOOD[:2], LATIN]),
        "rows.jsonl line 3: byte 0xe9 in column 16 is not UTF-8; save the file as UTF-8 "
        "(iconv -f latin1 -t utf-8)",
    ),
    Mistake(
        "two sides alike",
        typed(rows=[ALIKE]),
        "rows.jsonl: no row can be used: 1 rows read, 0 kept; 1 dropped (identical "
        "pair, first in row 1)",
    ),
    Mistake(
        "a side without text",
        typed(rows=[{**GOOD[0], "rejected": " "}]),
        "rows.jsonl: no row can be used: 1 rows read, 0 kept; 1 dropped (empty answer, "
        "first in row 1)",
    ),
    Mistake(
        "no row that can be used, for several reasons",
        typed(rows=[ALIKE, {**GOOD[0], "rejected": ""}, WRONG]),
        "rows.jsonl: no row can be used: 3 rows read, 0 kept; 1 dropped (identical "
        "pair, first in row 1); 1 dropped (empty answer, first in row 2); 1 dropped "
        "(chosen is int, not text, first in row 3)",
    ),
    Mistake(
        "a row longer than the model's context length",
        typed(rows=[*GOOD, LONG]),
        "rows.jsonl: a row takes 81 tokens, and the model has 64 positions "
        "(max_position_embeddings): give max_length=64, which cuts longer rows",
    ),
    Mistake(
        "a row beyond the budget",
        typed("--data.max_tokens=40", rows=[*GOOD, LONG]),
        "rows.jsonl: a row takes 83 tokens and max_tokens is 40: raise it, or lower max_length",
    ),
    Mistake(
        "a chat template that is not there",
        typed("--data.template=chat.jinja"),
        'template \'chat.jinja\' is neither "auto", "plain", "raw" nor a file: give one of these',
    ),
    Mistake(
        "a broken chat template",
        typed("--data.template=broken.jinja", broken_jinja="{% for m in messages %}"),
        "good.jsonl: no row can be used: 20 rows read, 0 kept; 20 dropped (the chat template "
        "refuses: Unexpected end of template. Jinja was looking for the following tags: "
        "'endfor' or 'else'. The innermost block that needs to be closed is 'for'., first in "
        "row 1)",
    ),
    Mistake(
        "a chat template that changes the prompt once the answer is there",
        typed("--data.template=turns.jinja", turns_jinja=COUNTS_TURNS),
        "the chat template does not keep the prompt as a prefix of the conversation: it writes "
        "'1: w39 w33 w10 w13<eos>' before an answer but '2: w39 w33 w10 w13 w2 w3<eos>' once the "
        'answer is there; give template="plain" or a Jinja file that renders both alike',
    ),
    Mistake(
        "all prompts held out",
        typed("--data.val_fraction=0.99", rows=GOOD[:1]),
        "rows.jsonl: every prompt fell into validation; lower val_fraction",
    ),
    Mistake(
        "data without a tokenizer",
        raised(lambda: PreferenceData(GOOD).setup()),
        "PreferenceData needs a tokenizer: give tokenizer=, or fit a module that has one",
    ),
]
MODEL = [
    Mistake(
        "a model that is not there",
        typed(f"{BACKBONE}.name_or_path=./nomodel"),
        "no model at ./nomodel: neither a folder, a .gguf file nor a hub id",
    ),
    Mistake(
        "a tokenizer without EOS",
        typed(f"{BACKBONE}.name_or_path=endless"),
        "the tokenizer of endless has no eos_token: set one, else no answer can end",
    ),
    Mistake(
        "a LoRA target the model does not have",
        typed(f"{BACKBONE}.lora.target_modules=[q_proj, v_porj]"),
        "LoRA target_modules ['v_porj'] name no layer of this model; did you mean "
        "'v_proj'? Its linear layers are ['down_proj', 'gate_proj', 'k_proj', "
        "'lm_head', 'o_proj', 'q_proj', 'up_proj', 'v_proj'], or use \"all-linear\"",
    ),
    Mistake(
        "an adapter of another base",
        typed(f"{BACKBONE}.name_or_path=wide", f"{BACKBONE}.adapters={{policy: {ROLE}}}"),
        "out/run/version_0/policy holds an adapter of another base model: 14 of 28 "
        "tensors do not fit, the first "
        "'base_model.model.model.layers.0.mlp.down_proj.lora_B.weight'; load it on the "
        "base its adapter_config.json names",
    ),
    Mistake(
        "an adapter that is not there",
        typed(f"{BACKBONE}.adapters={{policy: norole}}"),
        "norole holds no adapter_model.safetensors: give a folder written by save_role "
        "or by peft's save_pretrained",
    ),
    Mistake(
        "4-bit weights without LoRA",
        typed(f"{BACKBONE}.quantization=nf4", f"{BACKBONE}.lora=null"),
        "4-bit weights cannot be trained: give lora=LoRA(), or quantization=None",
    ),
    Mistake("a setting out of range", typed("--model.beta=-1"), "beta must be above 0, got -1.0"),
]
TRAINER = [
    Mistake(
        "half precision",
        typed("--trainer.precision=16-true"),
        'precision="16-true": fp16 weights give NaN losses; use precision="bf16-mixed" '
        'or "32-true" and give the frozen base its own dtype: '
        'Backbone(dtype="bfloat16")',
    ),
    Mistake(
        "NF4 with bf16-true",
        typed("--trainer.precision=bf16-true", f"{BACKBONE}.quantization=nf4"),
        'precision="bf16-true": it casts adapters and heads to bf16, where small '
        'updates vanish; use precision="bf16-mixed" or "32-true" and give the frozen '
        'base its own dtype: Backbone(dtype="bfloat16")',
    ),
    Mistake(
        "NF4 with a sharded strategy",
        strategy(ModelParallelStrategy, "nf4"),
        "ModelParallelStrategy loses the state of 4-bit weights: use strategy='ddp' "
        "(every process holds the 4-bit base), or quantization=None",
    ),
    Mistake(
        "FSDP",
        strategy(FSDPStrategy, None),
        "FSDPStrategy does not fit several forwards of one base in a step: use strategy='ddp'",
    ),
    Mistake(
        "a callback of the package `lightning`, by class path",
        typed("--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping"),
        "lightning.pytorch.callbacks.EarlyStopping is of the package lightning, whose "
        "classes a Trainer of pytorch_lightning does not know: write "
        "pytorch_lightning.callbacks.EarlyStopping",
    ),
    Mistake(
        "a callback of the package `lightning`, in Python",
        mixed_callback,
        "EarlyStopping is of lightning.pytorch, whose classes a Trainer of "
        "pytorch_lightning does not know: import EarlyStopping from "
        "pytorch_lightning.callbacks",
    ),
    Mistake(
        "`lightning` beside ours: a warning, before its Trainer refuses",
        mixed_trainer,
        "lightning.pytorch is imported as well: its Trainer does not take modules of "
        "pytorch_lightning, which ours are; write `from pytorch_lightning import "
        "Trainer`",
    ),
    Mistake(
        "Lightning's batch-size search within a fit",
        fitted(BatchSizeFinder),
        "BatchSizeFinder within a fit leaves the learning rate the schedule of the size"
        " it began with: call Tuner(trainer).scale_batch_size(...) before the fit",
    ),
    Mistake(
        "Lightning's batch-size search for tokens",
        fitted(lambda: BatchSizeFinder(batch_arg_name="max_tokens")),
        "scale_batch_size takes max_tokens for a number of rows, and tries any rows: "
        "give the Trainer lightning_rlhf.FindTokenBudget(), which tries the longest",
    ),
    Mistake(
        "a search for a budget below the longest row",
        fitted(lambda: FindTokenBudget(4)),
        "a row takes 14 tokens and FindTokenBudget goes to 4: raise most, or lower max_length",
    ),
]
TYPED = [
    Mistake(
        "a misspelt option",
        typed("--model.betta=0.2"),
        "DPOModule has no option betta: did you mean beta?",
    ),
    Mistake(
        "a misspelt option that every method has",
        typed("--model.wormup=0.2"),
        "DPOModule has no option wormup: did you mean warmup?",
    ),
    Mistake(
        "a misspelt option of a part",
        typed(f"{BACKBONE}.quantizaton=nf4"),
        "Backbone has no option quantizaton: did you mean quantization?",
    ),
    Mistake(
        "a misspelt option of the Trainer",
        typed("--trainer.max_stpes=2"),
        "Trainer has no option max_stpes: did you mean max_steps?",
    ),
    Mistake(
        "a misspelt group",
        typed("--trainr.max_steps=2"),
        "there is no option trainr.max_steps: did you mean trainer?",
    ),
    Mistake(
        "a misspelt option in a config",
        typed("--config=more.yaml", more_yaml="model:\n  init_args:\n    betta: 0.2\n"),
        "more.yaml line 3: DPOModule has no option betta: did you mean beta?",
    ),
    Mistake(
        "a misspelt option of the Trainer in a config",
        typed("--config", "more.yaml", more_yaml="trainer:\n  max_stpes: 2\n"),
        "more.yaml line 2: Trainer has no option max_stpes: did you mean max_steps?",
    ),
    Mistake(
        "a misspelt class",
        typed("--model=DPOModul"),
        "there is no DPOModul: did you mean DPOModule?",
    ),
    Mistake(
        "a misspelt loss",
        typed("--model.loss=lightning_rlhf.functional.dpo.ipoloss"),
        "lightning_rlhf.functional.dpo has no ipoloss: did you mean ipo_loss?",
    ),
    Mistake(
        "a misspelt verb",
        typed("fti", "--config", "run.yaml"),
        "there is no verb fti: did you mean fit?",
    ),
    Mistake(
        "a misspelt option of `chat`",
        typed("chat", "base", "--promt=w1"),
        "chat has no option promt: did you mean prompt?",
    ),
    Mistake(
        "a value of the wrong kind", typed("--model.lr=fast"), "model.lr: expected float, got fast"
    ),
    Mistake(
        "a value that is not a choice",
        typed(f"{BACKBONE}.quantization=nf5"),
        "model.backbone.quantization: expected 'nf4', got nf5",
    ),
    Mistake(
        "no model given",
        typed("fit", "--data=PreferenceData", "--data.source=x"),
        "model is missing: give it in a config or as --model",
    ),
    Mistake(
        "no backbone given",
        typed("fit", "--config=bare.yaml", bare_yaml=BARE),
        "backbone of DPOModule is missing: give it in a config or as --model.backbone",
    ),
    Mistake(
        "a config that is not there", typed("--config", "none.yaml"), "no config file at none.yaml"
    ),
    Mistake(
        "broken YAML",
        typed("--config", "more.yaml", more_yaml="trainer:\n max_steps: 2\n  max_epochs: 3\n"),
        "more.yaml line 3 is broken YAML: mapping values are not allowed here in column 13; "
        "fix that line",
    ),
]
RESUME = [
    Mistake(
        "a checkpoint that is not there",
        typed("--ckpt_path=no.ckpt"),
        "no checkpoint at no.ckpt: give the path of a .ckpt file",
    ),
    Mistake(
        "a file that is not a checkpoint",
        typed("--ckpt_path=run.yaml"),
        "run.yaml is not a checkpoint of a run: give a .ckpt file; a role's folder goes "
        "into backbone.adapters",
    ),
    Mistake(
        "a checkpoint of another module",
        typed("--model=RewardModule", RESUMED),
        "out/run/version_0/checkpoints/last.ckpt is a checkpoint of DPOModule, not of "
        "RewardModule: resume it as that, or start RewardModule from the role folder "
        "which that run wrote (backbone.adapters)",
    ),
    Mistake(
        "a checkpoint of another rank",
        typed(f"{BACKBONE}.lora.r=8", RESUMED),
        "the checkpoint is of another base model or LoRA rank: "
        "'model.model.layers.0.mlp.down_proj.lora_A.policy.weight' has shape (4, 64) "
        "there and (8, 64) here; resume with the base and the LoRA it was trained with",
    ),
    Mistake(
        "a learning rate that it overrides",
        typed("--model.lr=0.5", RESUMED),
        "out/run/version_0/checkpoints/last.ckpt resumes with lr=0.01, so that lr=0.5 "
        "would be overridden: give lr=0.01, or start anew from its role "
        "(backbone.adapters)",
    ),
    Mistake(
        "an optimizer's setting that it overrides",
        typed(f"--model.optimizer={ADAMW}", RESUMED),
        "out/run/version_0/checkpoints/last.ckpt resumes with "
        "optimizer.weight_decay=0.0, so that optimizer.weight_decay=0.1 would be "
        "overridden: give optimizer.weight_decay=0.0, or start anew from its role "
        "(backbone.adapters)",
    ),
    Mistake(
        "another optimizer",
        typed("--model.optimizer=torch.optim.SGD", RESUMED),
        "out/run/version_0/checkpoints/last.ckpt resumes with another kind of "
        "optimizer: resume with the one it was trained with, or start anew from its "
        "role (backbone.adapters)",
    ),
    Mistake(
        "a patience that it overrides",
        typed(f"--trainer.callbacks={PATIENT}", RESUMED),
        "out/run/version_0/checkpoints/last.ckpt resumes with EarlyStopping.patience=3,"
        " so that EarlyStopping.patience=9 would be overridden: give "
        "EarlyStopping.patience=3, or start anew from its role (backbone.adapters)",
    ),
    Mistake(
        "a search that finds another budget than before",
        searched_again,
        "the checkpoint is of a run with max_tokens=256, and max_tokens=512 is found "
        "now: give the first to resume, without FindTokenBudget",
    ),
]
TABLE = {
    "Data": DATA,
    "Model": MODEL,
    "Trainer": TRAINER,
    "Command line": TYPED,
    "Resuming": RESUME,
}
ALL = [mistake for mistakes in TABLE.values() for mistake in mistakes]


# ---- tests ----


@pytest.fixture(scope="module")
def place(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a model, a wider one, one without an EOS token, rows and a run."""
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


@pytest.mark.parametrize("mistake", ALL, ids=lambda mistake: mistake.name)
def test_a_mistake_gets_its_sentence(
    place: Path, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert mistake.make() == mistake.sentence


def test_the_page_shows_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


def page() -> str:
    """The table as a page."""
    lines = [
        "# Mistakes and their messages",
        "",
        "`tests/parsing/test_mistakes.py` makes each mistake, and writes this page from the table "
        "that it asserts. The command",
        "line prints `error:` and the message, and exits with status 2 before anything long has "
        "started. In Python the message is",
        "that of a `ValueError` or `FileNotFoundError`. `LIGHTNING_RLHF_TRACEBACK=1` shows the "
        "traceback.",
        "",
        "A tokenizer without a pad token is fine: rows are packed, and its end token pads "
        "whatever has to be padded.",
    ]
    for title, mistakes in TABLE.items():
        lines += ["", f"## {title}", "", "| mistake | message |", "|---|---|"]
        lines += [f"| {m.name} | {m.sentence.replace('|', chr(92) + '|')} |" for m in mistakes]
    return "\n".join(lines) + "\n"


if __name__ == "__main__" and "--write" in sys.argv:
    PAGE.write_text(page(), encoding="utf-8")
