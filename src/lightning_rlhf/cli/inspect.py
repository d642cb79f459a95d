"""``lightning-rlhf inspect``: show the data of a run, or of a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from datasets import IterableDataset
from rich.text import Text

from lightning_rlhf.cli.arguments import describe_run
from lightning_rlhf.data.datamodules import (
    DemonstrationData,
    PreferenceData,
    PromptData,
)
from lightning_rlhf.data.rows_data import RowsData
from lightning_rlhf.data.sources import Mixture, load_rows
from lightning_rlhf.data.streaming import first_rows
from lightning_rlhf.data.template_settings import Template
from lightning_rlhf.models.loading import load_tokenizer, resolve
from lightning_rlhf.reporting.data_view import show_data
from lightning_rlhf.text.display import PrintableConsole

READERS = {"preference": PreferenceData, "demonstration": DemonstrationData, "prompt": PromptData}


class FileArguments(NamedTuple):
    """Arguments that inspect a file, or a mixture of files, without a run's config."""

    source: str | Mixture
    tokenizer: str
    kind: str | None  # a key of READERS; None to choose by the columns
    options: dict[str, Any]  # of the DataModule


def main(args: list[str]) -> int:
    """Show the data of a run, by the arguments of ``fit``, or of a file; no weights are read."""
    shown, args = view_options(args)
    console, updates = PrintableConsole(), 0
    if any(arg.startswith(("--config", "-c", "--data", "--model")) for arg in args):
        cli = describe_run(args)
        tokenizers = (getattr(part, "tokenizer", None) for part in cli.model.modules())
        data, tokenizer = cli.datamodule, next((t for t in tokenizers if t is not None), None)
        updates = getattr(cli.model, "updates_per_rollout", 0)
        if tokenizer is None:
            raise ValueError(f"{type(cli.model).__name__} has no tokenizer to inspect data with")
    else:
        data = data_of(parse_file_arguments(args), console)
        tokenizer = data.tokenizer
    usable = show_data(
        data,
        tokenizer,
        shown.rows,
        console=console,
        updates=updates,
        against_template=shown.compare,
    )
    return 0 if usable else 1


def view_options(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split the options of what is shown from the other arguments."""
    return _view_parser().parse_known_args(args)


def _view_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("lightning-rlhf inspect", add_help=False, allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=3, help="number of rows to show")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="mark where these rows differ from the tokenizer's own apply_chat_template",
    )
    return parser


def parse_file_arguments(args: list[str]) -> FileArguments:
    """Parse the arguments that inspect a file."""
    parser = argparse.ArgumentParser(
        "lightning-rlhf inspect",
        description="Show rows as a model sees them. Instead of a file, give the arguments of fit: "
        "lightning-rlhf inspect --config configs/dpo.yaml",
        allow_abbrev=False,
        parents=[_view_parser()],
    )
    parser.add_argument("source", help="a file, a folder, a hub id or {source: weight, ...}")
    parser.add_argument("--tokenizer", required=True, help="a model or the folder of a tokenizer")
    parser.add_argument("--as", dest="kind", choices=READERS, help="else chosen by the columns")
    parser.add_argument("--format", default="auto")
    parser.add_argument("--template", default="auto")
    parser.add_argument("--max_length", type=int, default=1024)
    parser.add_argument("--max_tokens", type=int)
    parser.add_argument("--batch_size", type=int, default=8)
    options = vars(parser.parse_args(args))
    del options["rows"], options["compare"]
    source, tokenizer, kind = (options.pop(k) for k in ("source", "tokenizer", "kind"))
    options["val_fraction"] = 0.0
    options["template"] = _template(options["template"])
    return FileArguments(_mixture(source) or source, tokenizer, kind, options)


def _mixture(source: str) -> Mixture | None:
    """Parse a mixture as it is typed for ``--data.source``; None for any other source."""
    if not source.startswith("{"):
        return None
    try:
        weights = yaml.safe_load(source)
    except yaml.YAMLError:
        weights = None
    numbers = isinstance(weights, dict) and all(
        isinstance(weight, int | float) for weight in weights.values()
    )
    if not numbers:
        raise ValueError(f"{source} is not a mixture: write {{one.jsonl: 1.0, other.jsonl: 0.5}}")
    return {str(name): float(weight) for name, weight in weights.items()}


def _template(text: str) -> Template:
    """Parse a template as it is typed for ``--data.template``."""
    read = yaml.safe_load(text) if text.startswith("{") else text
    return read if isinstance(read, dict) else text


def data_of(file: FileArguments, console: PrintableConsole) -> RowsData:
    """Make the first data module that can read a file's columns; preferences are tried first.

    Raises:
        ValueError: none can read it.
    """
    folder = Path(file.tokenizer).expanduser()
    tokenizer = load_tokenizer(str(folder) if folder.is_dir() else resolve(file.tokenizer))
    name = file.kind or _kind_by_columns(file)
    if file.kind is None:
        console.print(Text(f"read as {name} data, by its columns; choose another with --as"))
    return READERS[name](file.source, tokenizer=tokenizer, **file.options)


def _kind_by_columns(file: FileArguments) -> str:
    """Choose the first kind of data that can read every source."""
    sources = list(file.source) if isinstance(file.source, dict) else [file.source]
    columns = {source: _columns(source) for source in sources}
    reasons: dict[str, str] = {}
    for name, reader in READERS.items():
        try:
            for source in sources:
                reader.recognize(columns[source], source, file.options["format"])
            return name
        except ValueError as reason:
            reasons[name] = str(reason)
    raise ValueError(reasons["preference"])


def _columns(source: str) -> list[str]:
    """Read the names of the columns of a source, of a stream those of its first block."""
    rows = load_rows(source)
    if isinstance(rows, IterableDataset):
        return [*dict.fromkeys(k for row in first_rows(rows, source) for k in row)]
    return list(rows.column_names)
