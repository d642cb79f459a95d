"""Build and check a whole recipe before its first stage runs; no model is loaded."""

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
from lightning_rlhf.recipes.build import build, function_of, named_function, outputs_of
from lightning_rlhf.recipes.files import check_backbone, check_files
from lightning_rlhf.recipes.recipe import Recipe, Stage
from lightning_rlhf.recipes.references import references_in, resolve


class PreparedStage(NamedTuple):
    """A stage that is ready to run."""

    stage: Stage
    spec: dict[str, Any]  # references resolved
    folder: Path
    seed: int
    outputs: dict[str, str]  # name -> path, of the files it will write
    after: list[str]  # the stages it depends on

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self.stage.name


def prepare(recipe: Recipe) -> list[PreparedStage]:
    """Build the classes of every stage once, and check its files and references.

    Raises:
        ValueError: a stage is wrong; names it.
    """
    ready: list[PreparedStage] = []
    names = [stage.name for stage in recipe.stages]
    for i, stage in enumerate(recipe.stages):
        with naming_stage(stage, recipe.file):
            ready.append(_prepare_stage(recipe, stage, ready, names[i:]))
    return ready


def _prepare_stage(
    recipe: Recipe, stage: Stage, before: list[PreparedStage], later: list[str]
) -> PreparedStage:
    folder = recipe.folder / stage.name
    outputs = {done.name: done.outputs for done in before}
    places = {"folder": str(recipe.folder), "here": str(folder), "seed": str(recipe.seed)}
    spec = resolve(stage.spec, outputs, places, later)
    needs = stage.spec.get("needs", [])
    if unknown := [name for name in needs if name not in outputs]:
        raise ValueError(f"needs: there is no stage {unknown[0]} before {stage.name}")
    if (about := stage.spec.get("about")) is not None and about not in outputs:
        raise ValueError(f"about: there is no stage {about} before {stage.name}")
    seed = spec.get("seed", zlib.crc32(f"{recipe.seed} {stage.name}".encode()))
    written = {name: str(folder / file) for name, file in spec.get("outputs", {}).items()}
    promised = [path for paths in outputs.values() for path in paths.values()]
    if stage.verb == "call":
        for value in function_of(spec, folder, seed).keywords.values():
            if isinstance(value, Backbone):
                check_backbone(value, promised)
    else:
        with quiet_lightning():
            cli = build(spec, stage.verb, folder, seed)
        check_files(cli, spec.get("ckpt_path"), promised)
        written = outputs_of(cli, stage.verb, folder) | written
    after = list(dict.fromkeys([*(name for name, _ in references_in(stage.spec)), *needs]))
    return PreparedStage(stage, spec=spec, folder=folder, seed=seed, outputs=written, after=after)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence the messages of Lightning about seed and devices while stages are checked."""
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
def naming_stage(stage: Stage, file: Path) -> Iterator[None]:
    """Raise a user's mistake as one sentence that names the stage."""
    try:
        yield
    except argparse.ArgumentError as error:
        verbs = {path: named_function(path) for path in [stage.spec.get("call")] if path}
        reason = sentence(
            str(error), [stage.spec.get("call", stage.verb), f"--config={file}"], verbs
        )
        raise ValueError(f"stage {stage.name}: {reason}") from error
    except MISTAKES as error:
        cause = written_for_users(error)
        if stage.verb == "call" and isinstance(error, ValueError | FileNotFoundError):
            cause = error  # a gate stops the recipe by a ValueError, also one of the user's code
        if cause is None:
            raise
        raise ValueError(f"stage {stage.name}: {cause}") from error
