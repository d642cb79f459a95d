"""Base of the modules that write rows under ``trainer.predict`` and train nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from lightning_rlhf.batches import PromptBatch
from lightning_rlhf.constitution.generator import Generator
from lightning_rlhf.constitution.principles import Constitution
from lightning_rlhf.data.template_settings import Template
from lightning_rlhf.generators.journal import Journaled
from lightning_rlhf.generators.role import RoleGenerator
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.sampler import Sampling
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.text.messages import prompt_of


class WritingModule(AlignmentModule):
    """Write rows from prompts; each answer of a model is journaled before it is used.

    So a killed ``predict`` that starts again repeats no request and writes the same rows.

    Args:
        backbone: the base and its roles.
        sampling: how roles answer.
        template: how messages become text, as in the data modules.
        journal: the file of answers; None for ``journal.jsonl`` in the Trainer's
            ``default_root_dir``. Many runs may share it.
    """

    trained: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, backbone: Backbone, sampling: Sampling, template: Template, *, journal: str | None
    ):
        super().__init__(backbone, lr=0.0)
        self.sampling = sampling
        self.template = template
        self.journal = journal
        self.artifacts: list[Path] = []  # files beside the rows
        self._journals: dict[str, Journaled] = {}

    @property
    def constitution(self) -> Constitution:
        """The constitution of the rows.

        Raises:
            ValueError: it cannot be read, or has no texts for this stage.
        """
        raise NotImplementedError

    def generators(self) -> list[str | Generator]:
        """List the models that answer: names of roles, or generators."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        if stage != "predict":
            raise ValueError(f"{type(self).__name__} writes rows and trains nothing: use predict")
        assert self.constitution  # read before anything is loaded
        super().setup(stage)

    def add_roles(self) -> None:
        for role in self.generators():
            if isinstance(role, str):
                # without LoRA the base itself is the role, and need not be copied to be frozen
                self.backbone.add_role(role, trainable=self.backbone.lora is None)

    def on_predict_start(self) -> None:
        """Start without journals: their keys hash the roles' weights, which are loaded by now."""
        self._journals, self.artifacts = {}, []
        if self.trainer.world_size > 1:
            raise ValueError(
                f"{type(self).__name__} writes one journal: give Trainer(devices=1), or split the "
                "prompts into several files"
            )
        self.backbone.eval()

    def journaled(self, generator: str | Generator) -> Journaled:
        """Wrap a role, or a generator, in the journal."""
        if isinstance(generator, str):
            name = generator
        else:
            name = f"{type(generator).__name__} {id(generator)}"
        if name not in self._journals:
            if isinstance(generator, str):
                generator = RoleGenerator(
                    self.backbone, generator, self.sampling, template=self.template
                )
            path = self.journal or Path(self.trainer.default_root_dir) / "journal.jsonl"
            self._journals[name] = Journaled(generator, path)
        return self._journals[name]

    def rows_of(self, batch: Any) -> list[dict[str, Any]]:
        """Read the source's rows behind a batch of prompts, each with its ``prompt``."""
        if not isinstance(batch, PromptBatch):
            raise ValueError(
                f"{type(self).__name__} reads prompts: give it PromptData, "
                f"not {type(batch).__name__}"
            )
        rows = [json.loads(row) for row in batch.rows]
        return [{**row, "prompt": prompt_of(row)} for row in rows]

    def on_predict_end(self) -> None:
        """Write the constitution beside the rows, and print the number of answers."""
        self.write_artifact("constitution.yaml", self.constitution.to_yaml())
        for name, journal in self._journals.items():
            self.print(
                f"{name}: {journal.asked} answers made, {journal.found} found in the journal"
            )

    def write_artifact(self, name: str, text: str) -> None:
        """Write a file into the run's folder and add it to ``artifacts``."""
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        self.artifacts.append(folder / name)
