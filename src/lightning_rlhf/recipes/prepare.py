"""The whole recipe read, built and checked before its first stage runs; nothing is loaded."""

from __future__ import annotations

import argparse
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.parsing.mistakes import MISTAKES, sentence, written_for_users
from lightning_rlhf.recipes.build import build, function_of, leaves, named_function
from lightning_rlhf.recipes.files import check_backbone, check_files
from lightning_rlhf.recipes.recipe import Recipe, Stage
from lightning_rlhf.recipes.references import resolve, taken


class Prepared(NamedTuple):
    """A stage that can run."""

    stage: Stage
    spec: dict[str, Any]  # references resolved
    folder: Path
    seed: int
    outputs: dict[str, str]  # name -> path, of what it will leave
    after: list[str]  # the stages it takes something from

    @property
    def name(self) -> str:
        """Of the stage."""
        return self.stage.name


def prepare(recipe: Recipe) -> list[Prepared]:
    """Every stage, its classes built once and thrown away, its files and references checked.

    Raises:
        ValueError: names the stage, and what is wrong with it.
    """
    ready: list[Prepared] = []
    names = [stage.name for stage in recipe.stages]
    for i, stage in enumerate(recipe.stages):
        with named(stage, recipe.file):
            ready.append(_prepared(recipe, stage, ready, names[i:]))
    return ready


def _prepared(recipe: Recipe, stage: Stage, before: list[Prepared], later: list[str]) -> Prepared:
    folder = recipe.folder / stage.name
    outputs = {done.name: done.outputs for done in before}
    places = {"folder": str(recipe.folder), "here": str(folder), "seed": str(recipe.seed)}
    spec = resolve(stage.spec, outputs, places, later)
    needs = stage.spec.get("needs", [])
    if alien := [name for name in needs if name not in outputs]:
        raise ValueError(f"needs: there is no stage {alien[0]} before {stage.name}")
    if (about := stage.spec.get("about")) is not None and about not in outputs:
        raise ValueError(f"about: there is no stage {about} before {stage.name}")
    seed = spec.get("seed", zlib.crc32(f"{recipe.seed} {stage.name}".encode()))
    made = {name: str(folder / file) for name, file in spec.get("outputs", {}).items()}
    coming = [path for paths in outputs.values() for path in paths.values()]
    if stage.verb == "call":
        for value in function_of(spec, folder, seed).keywords.values():
            if isinstance(value, Backbone):
                check_backbone(value, coming)
    else:
        with hushed():
            cli = build(spec, stage.verb, folder, seed)
        check_files(cli, spec.get("ckpt_path"), coming)
        made = leaves(cli, stage.verb, folder) | made
    after = list(dict.fromkeys([*(name for name, _ in taken(stage.spec)), *needs]))
    return Prepared(stage, spec, folder, seed, made, after)


@contextmanager
def hushed() -> Iterator[None]:
    """Without what a Trainer that is only looked at says of its seed and devices."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def named(stage: Stage, file: Path) -> Iterator[None]:
    """Whatever is the user's mistake in here, as one sentence with the stage's name."""
    try:
        yield
    except argparse.ArgumentError as error:
        verbs = {path: named_function(path) for path in [stage.spec.get("call")] if path}
        said = sentence(str(error), [stage.spec.get("call", stage.verb), f"--config={file}"], verbs)
        raise ValueError(f"stage {stage.name}: {said}") from error
    except MISTAKES as error:
        reason = written_for_users(error)
        if stage.verb == "call" and isinstance(error, ValueError | FileNotFoundError):
            reason = error  # a gate's, whoever wrote it
        if reason is None:
            raise
        raise ValueError(f"stage {stage.name}: {reason}") from error
