"""What modules share that write rows under ``trainer.predict`` and train nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from lightning_rlhf.batches import PromptBatch
from lightning_rlhf.constitution.generator import Generator
from lightning_rlhf.constitution.principles import Constitution
from lightning_rlhf.data.tokens import prompt_of
from lightning_rlhf.generators.journal import Journaled
from lightning_rlhf.generators.role import RoleGenerator
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.sampler import Sampling
from lightning_rlhf.modules.base import AlignmentModule


class WritingModule(AlignmentModule):
    """Rows from prompts; every answer of a model is in a journal before it is used.

    So a killed ``predict`` that is begun again asks for nothing twice and writes the same rows.

    Args:
        backbone: the base and its roles.
        sampling: how roles answer.
        template: how messages become text, as in the data modules.
        journal: the file of answers; None for ``journal.jsonl`` in the Trainer's
            ``default_root_dir``. Many runs may share it.
    """

    trained: ClassVar[tuple[str, ...]] = ()

    def __init__(self, backbone: Backbone, sampling: Sampling, template: str, journal: str | None):
        super().__init__(backbone, lr=0.0)
        self.sampling = sampling
        self.template = template
        self.journal = journal
        self.left: list[Path] = []  # files beside the rows
        self._journals: dict[str, Journaled] = {}

    @property
    def constitution(self) -> Constitution:
        """By which rows are made.

        Raises:
            ValueError: it cannot be read, or has no texts for this stage.
        """
        raise NotImplementedError

    def asked(self) -> list[str | Generator]:
        """Whoever answers: roles of the backbone by their names, or generators."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        if stage != "predict":
            raise ValueError(f"{type(self).__name__} writes rows and trains nothing: use predict")
        assert self.constitution  # read before anything is loaded
        super().setup(stage)

    def add_roles(self) -> None:
        for role in self.asked():
            if isinstance(role, str):
                # without LoRA the base itself is the role, and need not be copied to be frozen
                self.backbone.add_role(role, trainable=self.backbone.lora is None)

    def on_predict_start(self) -> None:
        """Roles have their weights by now: their names in the journal are made of these."""
        self._journals, self.left = {}, []
        if self.trainer.world_size > 1:
            raise ValueError(
                f"{type(self).__name__} writes one journal: give Trainer(devices=1), or cut the "
                "prompts into several files"
            )
        self.backbone.eval()

    def answering(self, who: str | Generator) -> Journaled:
        """A role, or a generator, behind the journal."""
        name = who if isinstance(who, str) else f"{type(who).__name__} {id(who)}"
        if name not in self._journals:
            found: Generator
            if isinstance(who, str):
                found = RoleGenerator(self.backbone, who, self.sampling, self.template)
            else:
                found = who
            path = self.journal or Path(self.trainer.default_root_dir) / "journal.jsonl"
            self._journals[name] = Journaled(found, path)
        return self._journals[name]

    def rows_of(self, batch: Any) -> list[dict[str, Any]]:
        """The source's rows behind a batch of prompts, each with its ``prompt``."""
        if not isinstance(batch, PromptBatch):
            raise ValueError(
                f"{type(self).__name__} reads prompts: give it PromptData, "
                f"not {type(batch).__name__}"
            )
        rows = [json.loads(row) for row in batch.rows]
        return [{**row, "prompt": prompt_of(row)} for row in rows]

    def on_predict_end(self) -> None:
        """Leave the constitution beside the rows, and say what it took."""
        self.leave("constitution.yaml", self.constitution.to_yaml())
        for name, journal in self._journals.items():
            self.print(
                f"{name}: {journal.asked} answers made, {journal.found} found in the journal"
            )

    def leave(self, name: str, text: str) -> None:
        """A file in the run's folder."""
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        self.left.append(folder / name)
