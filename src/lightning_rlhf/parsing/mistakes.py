"""Turn the multi-line errors of jsonargparse into one sentence."""

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
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lightning_rlhf.parsing import wording
from lightning_rlhf.text.display import printable, quoted, shortened
from lightning_rlhf.text.documents import not_utf8, parsed
from lightning_rlhf.text.suggest import did_you_mean, nearest
from lightning_rlhf.text.writing import refusal, system_error
from lightning_rlhf.training.hparams import argument_names

OWN = Path(__file__).parents[1]
LIGHTNING = [Path(str(p.__file__)).parent for p in (pytorch_lightning, lightning_fabric)]
MISTAKES = (ValueError, OSError, ImportError, MisconfigurationException, RuntimeError)
CONFIGURED = (Trainer, LightningModule, LightningDataModule, Callback, torch.nn.Module)
Verbs = Mapping[str, Callable[..., Any] | None]  # with the function, if its options are the verb's


def sentence(message: str, args: list[str], verbs: Verbs) -> str:
    """Say what a parser refused, where it is written, and what was probably meant.

    Args:
        message: of the parser, with many lines.
        args: of the command line, the verb first.
        verbs: all verbs.
    """
    return shortened(printable(_sentence(message, args, verbs)))


def _sentence(message: str, args: list[str], verbs: Verbs) -> str:
    for rule in (_other_package, _yaml, _option, _argument, _required, _verb, _name, _class):
        text = rule(message, args, verbs)
        if text is not None:
            return text
    key = ".".join(wording.KEY.findall(message))
    text = _expected(message)
    if text is None:
        lines = [re.sub(r"^- ", "", line.strip()) for line in message.splitlines()]
        reasons = dict.fromkeys(line for line in lines if line and not wording.NOISE.match(line))
        text = "; ".join(reasons)
        if not text or wording.OF_PYTHON.search(text):
            text = "a value has the wrong kind: compare it with --print_config"
    return f"{key}: {text}" if key else text


def _expected(message: str) -> str | None:
    """Name the expected type or choices, and the given value."""
    kind = wording.TYPE.search(message)
    if kind is not None:
        return f"expected {kind[1]}, got {kind[2]}"
    choices, given = wording.CHOICES.search(message), wording.GIVEN_VALUE.search(message)
    if choices is None or given is None:
        return None
    return f"expected {choices[1].replace(', ', ' or ')}, got {given[1]}"


def _required(message: str, args: list[str], verbs: Verbs) -> str | None:
    """Name an argument that is missing."""
    match = wording.REQUIRED.search(message)
    if match is None:
        return None
    owner = wording.CLASS_PATH.findall(message)
    flag = f"model.{match[1]}" if owner else match[1]
    of = f" of {owner[-1].rpartition('.')[2]}" if owner else ""
    return f"{match[1]}{of} is missing: give it in a config or as --{flag}"


def _other_package(message: str, args: list[str], verbs: Verbs) -> str | None:
    """Name a class of the package ``lightning``."""
    match = wording.OTHER_PACKAGE.search(message)
    if match is None:
        return None
    ours = match[0].replace("lightning.pytorch", "pytorch_lightning")
    return (
        f"{match[0]} is of the package lightning, whose classes a Trainer of pytorch_lightning "
        f"does not know: write {ours}"
    )


def _yaml(message: str, args: list[str], verbs: Verbs) -> str | None:
    """Name a config file that is missing or broken."""
    if not wording.BAD_CONFIG.search(message):
        return None
    for file in _configs(args):
        if not file.is_file():
            return f"no config file at {file}"
        try:
            parsed(file.read_text(encoding="utf-8"), file)
        except UnicodeDecodeError:
            return not_utf8(file, file.read_bytes())
        except ValueError as error:
            return str(error)
    match = wording.BAD_YAML.search(message)  # what a faster parser refuses
    if match is None:
        return None
    names = ", ".join(map(str, _configs(args)))
    return (
        f"{names} line {match[1]} is broken YAML: {match[3].strip()} in column {match[2]}; fix it"
    )


def _option(message: str, args: list[str], verbs: Verbs) -> str | None:
    """Name an option that a class does not have."""
    match = wording.OPTION_OF_A_CLASS.search(message)
    if match is None:
        return None
    given = wording.GIVEN_CLASS.search(message)
    paths = wording.CLASS_PATH.findall(message[: match.start()])
    if not given and not paths:
        return None  # the option of a function
    path = given[1] if given else paths[-1]
    option = match[1].rpartition(".")[2]
    near = did_you_mean(option, _parameters(locate(path)))
    owner = path.rpartition(".")[2]
    return f"{_written_in(option, args)}{owner} has no option {option}: {near}"


def _argument(message: str, args: list[str], verbs: Verbs) -> str | None:
    """Name an option that neither a class nor the command line has."""
    match = wording.UNKNOWN_OPTION.search(message)
    if match is None:
        return None
    group, _, option = match[1].rpartition(".")
    inside = wording.GROUP.search(message)
    group = inside[1] if inside else group
    function = verbs.get(args[0])
    if function is not None:
        near = did_you_mean(option, _parameters(function))
        text = f"{args[0]} has no option {option}: {near}"
    elif group == "trainer":
        text = f"Trainer has no option {option}: {did_you_mean(option, _parameters(Trainer))}"
    else:
        first = match[1].split(".")[0]
        groups = ("model", "data", "trainer", "seed_everything", "ckpt_path", "config", "gpu")
        text = f"there is no option {match[1]}: {did_you_mean(first, groups)}"
    return _written_in(option, args) + text


def _verb(message: str, args: list[str], verbs: Verbs) -> str | None:
    """Name a verb that does not exist."""
    match = wording.BAD_VERB.search(message)
    return f"there is no verb {match[1]}: {did_you_mean(match[1], verbs)}" if match else None


def _name(message: str, args: list[str], verbs: Verbs) -> str | None:
    """Name an attribute that a module does not have."""
    match = wording.UNKNOWN_NAME.search(message)
    if match is None:
        return None
    names = [n for n in vars(locate(match[1])) if not n.startswith("_")]
    near = nearest(match[2], names)
    return f"{match[1]} has no {match[2]}" + (f": did you mean {near}?" if near else "")


def _class(message: str, args: list[str], verbs: Verbs) -> str | None:
    """Name a class that does not exist; only known classes can be given without their module."""
    match = wording.UNKNOWN_CLASS.search(message)
    if match is None:
        return None
    key = wording.LAST_KEY.findall(message)[-1]
    root = {"model": LightningModule, "data": LightningDataModule}.get(key, Callback)
    names = {k.__name__ for k in _kinds(root) if k.__module__.startswith("lightning_rlhf.")}
    return f"there is no {match[1]}: {did_you_mean(match[1], names)}"


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
    """Name the config that holds an option, and its line; empty if the option was typed."""
    if any(re.match(rf"--?([\w.]+\.)?{option}\b", a) for a in args):
        return ""
    for file in _configs(args):
        text = file.read_text(encoding="utf-8")
        match = re.search(rf"\b{option}\b\s*:", text)
        if match:
            return f"{file} line {text.count(chr(10), 0, match.start()) + 1}: "
    return ""


def written_for_users(error: BaseException | None) -> BaseException | str | None:
    """Return the error that this package or Lightning raised, without a parser's wrapping.

    Of a refusal by the system, wherever it was met, return a sentence with the file.
    """
    refused = system_error(error) if isinstance(error, OSError) else None
    if refused is not None:
        return refusal(refused)
    while error is not None:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if any(raised_in.is_relative_to(package) for package in (OWN, *LIGHTNING)):
            return error
        if isinstance(error, RuntimeError):
            return None  # a fault of torch is not a mistake of the user
        for other in _alternatives(error):
            if (found := written_for_users(other)) is not None:
                return found
        error = error.__cause__ or error.__context__
    return None


def of_the_config(error: Exception) -> str | None:
    """Write the sentence for what a constructor raises that was not made for such a value.

    None if it is raised by code that is neither of this package nor of a library: there a fault is
    the user's own to find.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    last = Path(frames[-1].f_code.co_filename)
    if not last.is_relative_to(OWN) and not {"site-packages", "lib"} & set(last.parts):
        return None
    made = [type(frame.f_locals["self"]) for frame in frames if "self" in frame.f_locals]
    named = [kind.__name__ for kind in made if issubclass(kind, CONFIGURED)]
    owner = f"{named[-1]} cannot take" if named else "nothing can take"
    return (
        f"the config holds a value that {owner} ({type(error).__name__}: {quoted(str(error))}): "
        "compare it with --print_config"
    )


def _alternatives(error: BaseException) -> list[BaseException]:
    """List why a value is none of a union's types; jsonargparse keeps only the first as a cause."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    inside = frame.f_code.co_name == "raise_union_unexpected_value"
    return frame.f_locals.get("exceptions", []) if inside else []
