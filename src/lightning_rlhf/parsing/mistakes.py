"""Floor 4. What was typed wrong, as one sentence: the parser's pages, boiled down."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from pydoc import locate
from typing import Any

import lightning_fabric
import pytorch_lightning
import yaml
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lightning_rlhf.text.documents import broken
from lightning_rlhf.text.suggest import did_you_mean, nearest
from lightning_rlhf.training.hparams import argument_names

OWN = Path(__file__).parents[1]
LIGHTNING = [Path(str(p.__file__)).parent for p in (pytorch_lightning, lightning_fabric)]
MISTAKES = (
    ValueError, FileNotFoundError, ImportError, MisconfigurationException, RuntimeError,
)  # fmt: skip
Verbs = Mapping[str, Callable[..., Any] | None]  # with the function, where its options are its own
NOISE = re.compile(
    r"""^(-\ )?(Expected\ a\ <class\ 'NoneType'>|Does\ not\ validate|Subtypes:|Errors:|Given\ value
    |Problem\ with\ given|Parser\ key|Subclass\ types|Not\ a\ valid\ subclass|a\ class\ path
    |a\ dict\ with|Expected\ a\ path|Expected\ a\ <class\ 'list'>)""",
    re.X,
)
CLASS = r"given class_path '([\w.]+)'"


def sentence(message: str, args: list[str], verbs: Verbs) -> str:
    """What a parser refused, where it stands, and what was probably meant.

    Args:
        message: the parser's, of many lines.
        args: of the command line, the verb first.
        verbs: that there are.
    """
    for rule in (_other_package, _yaml, _option, _argument, _required, _verb, _name, _class):
        said = rule(message, args, verbs)
        if said is not None:
            return said
    key = ".".join(k for k in re.findall(r'Parser key "([\w.]+)"', message))
    said = _expected(message)
    if said is None:
        lines = [re.sub(r"^- ", "", line.strip()) for line in message.splitlines()]
        reasons = dict.fromkeys(line for line in lines if line and not NOISE.match(line))
        said = "; ".join(reasons) or "cannot be read"
    return f"{key}: {said}" if key else said


def _expected(message: str) -> str | None:
    """What kind of value was wanted, and which was given."""
    kind = re.search(r"Expected an? <class '(\w+)'>. Got value: (.*)", message)
    if kind is not None:
        return f"expected {kind[1]}, got {kind[2]}"
    choices = re.search(r"Expected a typing.Literal\[(.*)\]", message)
    given = re.search(r"Given value: (.*)", message)
    if choices is None or given is None:
        return None
    return f"expected {choices[1].replace(', ', ' or ')}, got {given[1]}"


def _required(message: str, args: list[str], verbs: Verbs) -> str | None:
    found = re.search(r"arguments are required: (?:(?:fit|validate|test|predict)\.)?(\w+)", message)
    if found is None:
        return None
    owner = re.findall(CLASS, message)
    flag = f"model.{found[1]}" if owner else found[1]
    of = f" of {owner[-1].rpartition('.')[2]}" if owner else ""
    return f"{found[1]}{of} is missing: give it in a config or as --{flag}"


def _other_package(message: str, args: list[str], verbs: Verbs) -> str | None:
    found = re.search(r"\blightning\.pytorch[\w.]*", message)
    if found is None:
        return None
    ours = found[0].replace("lightning.pytorch", "pytorch_lightning")
    return (
        f"{found[0]} is of the package lightning, whose classes a Trainer of pytorch_lightning "
        f"does not know: write {ours}"
    )


def _yaml(message: str, args: list[str], verbs: Verbs) -> str | None:
    if "Problems parsing config" not in message and "File does not exist" not in message:
        return None
    for file in _configs(args):
        if not file.is_file():
            return f"no config file at {file}"
        try:
            yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.MarkedYAMLError as error:
            return broken(file, error)
    return None


def _option(message: str, args: list[str], verbs: Verbs) -> str | None:
    """An option a class does not have."""
    found = re.search(r"Option '([\w.]+)' is not accepted", message)
    if found is None:
        return None
    path = re.search(r"is not accepted. Got value: Namespace\(class_path='([\w.]+)'", message)
    paths = re.findall(CLASS, message[: found.start()])
    if not path and not paths:
        return None  # a function's
    name = path[1] if path else paths[-1]
    option = found[1].rpartition(".")[2]
    there = _parameters(locate(name))
    owner = name.rpartition(".")[2]
    near = did_you_mean(option, there)
    return f"{_written_in(option, args)}{owner} has no option {option}: {near}"


def _argument(message: str, args: list[str], verbs: Verbs) -> str | None:
    """An option nobody has, by its dotted name."""
    found = re.search(
        r"(?:does not accept option '|Option '|unrecognized arguments: (?:\S+ )*?--?)([\w.]+)",
        message,
    )
    if found is None:
        return None
    group, _, option = found[1].rpartition(".")
    inside = re.search(r"Group '([\w.]+)' does not accept", message)
    group = inside[1] if inside else group
    own = verbs.get(args[0])
    if own is not None:
        said = f"{args[0]} has no option {option}: {did_you_mean(option, _parameters(own))}"
    elif group == "trainer":
        said = f"Trainer has no option {option}: {did_you_mean(option, _parameters(Trainer))}"
    else:
        first = found[1].split(".")[0]
        groups = ("model", "data", "trainer", "seed_everything", "ckpt_path", "config", "gpu")
        said = f"there is no option {found[1]}: {did_you_mean(first, groups)}"
    return _written_in(option, args) + said


def _verb(message: str, args: list[str], verbs: Verbs) -> str | None:
    found = re.search(r"argument subcommand: invalid choice: '([^']+)'", message)
    return f"there is no verb {found[1]}: {did_you_mean(found[1], verbs)}" if found else None


def _name(message: str, args: list[str], verbs: Verbs) -> str | None:
    """A name that a module does not have."""
    found = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message)
    if found is None:
        return None
    there = [n for n in vars(locate(found[1])) if not n.startswith("_")]
    likely = nearest(found[2], there)
    return f"{found[1]} has no {found[2]}" + (f": did you mean {likely}?" if likely else "")


def _class(message: str, args: list[str], verbs: Verbs) -> str | None:
    """A class by its bare name, which only those known to be there may have."""
    found = re.search(r"Expected a dot import path string: (\w+)", message)
    if found is None:
        return None
    key = re.findall(r'Parser key "(?:trainer\.)?(\w+)"', message)[-1]
    root = {"model": LightningModule, "data": LightningDataModule}.get(key, Callback)
    there = {k.__name__ for k in _kinds(root) if k.__module__.startswith("lightning_rlhf.")}
    return f"there is no {found[1]}: {did_you_mean(found[1], there)}"


def _kinds(root: type) -> Iterator[type]:
    kind: type
    for kind in root.__subclasses__():
        yield kind
        yield from _kinds(kind)


def _parameters(thing: Any) -> list[str]:
    if isinstance(thing, type):
        return argument_names(thing)
    return [n for n in inspect.signature(thing).parameters if n not in ("args", "kwargs")]


def _configs(args: list[str]) -> list[Path]:
    flags = ("-c", "--config")
    given = [b for a, b in pairwise(args) if a in flags]
    return [Path(f) for f in given + [a[9:] for a in args if a.startswith("--config=")]]


def _written_in(option: str, args: list[str]) -> str:
    """The config that holds an option, and its line; nothing if it was typed."""
    if any(re.match(rf"--?([\w.]+\.)?{option}\b", a) for a in args):
        return ""
    for file in _configs(args):
        text = file.read_text(encoding="utf-8")
        found = re.search(rf"\b{option}\b\s*:", text)
        if found:
            return f"{file} line {text.count(chr(10), 0, found.start()) + 1}: "
    return ""


def written_for_users(error: BaseException | None) -> BaseException | None:
    """The error we or Lightning raised, also under those that parsers wrapped around it."""
    while error is not None:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if any(raised_in.is_relative_to(package) for package in (OWN, *LIGHTNING)):
            return error
        if isinstance(error, RuntimeError):
            return None  # torch's faults are nobody's wording
        error = error.__cause__ or error.__context__
    return None
