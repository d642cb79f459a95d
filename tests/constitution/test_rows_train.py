"""The data modules read the rows of both stages: soft pairs and demonstrations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lightning_rlhf import DemonstrationData, PreferenceData
from lightning_rlhf.constitution.ai_feedback import AIFeedback
from lightning_rlhf.constitution.chain import Chain
from lightning_rlhf.constitution.demonstrations import demonstrations
from lightning_rlhf.constitution.pairs import pairs
from lightning_rlhf.constitution.readers import load
from lightning_rlhf.constitution.self_critique import SelfCritique
from lightning_rlhf.constitution.testing import ScriptedGenerator
from lightning_rlhf.quickstart.model import word_tokenizer
from lightning_rlhf.text.messages import Message
from support import NUMBERS

PROMPTS: dict[str, list[Any]] = {
    "text": ["w1 w2", "w3"],
    "messages": [[{"role": "user", "content": text}] for text in ("w1 w2", "w3")],
}


def model() -> ScriptedGenerator:
    def score(messages: list[Message], option: str) -> float:
        text = messages[-1]["content"]
        if "w3\n" in text.split("(A)")[0]:
            return -math.inf  # unparseable
        first, second = (text.index(f"({label}) w") for label in "AB")
        better = text[first + 4 : second] > text[second + 4 :]
        return math.log(0.8 if better == (option == "A") else 0.2)

    return ScriptedGenerator(lambda m, s: f"w{s % 60} w{s % 7}", score)


@pytest.fixture(params=["text", "messages"])
def chains(request: pytest.FixtureRequest) -> list[Chain]:
    rows = [{"prompt": prompt} for prompt in PROMPTS[request.param]]
    return SelfCritique(load(), rounds=2).run(model(), rows)


@pytest.fixture(params=["list", "file"])
def form(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def given(rows: list[dict[str, Any]]) -> Any:
        if request.param == "list":
            return rows
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(file)

    return given


def test_labels_train_as_soft_pairs(form: Any, chains: list[Chain]) -> None:
    feedback = AIFeedback(load())
    verdicts = feedback.label(model(), pairs(chains, "revision_vs_draft"))
    assert [v.status for v in verdicts] == ["decided", "unparseable"]
    rows = feedback.rows(verdicts)
    tokenizer = word_tokenizer(NUMBERS)
    data = PreferenceData(form(rows), val_fraction=0.0, batch_size=2, tokenizer=tokenizer)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert sorted(batch.label.tolist()) == pytest.approx([0.5, 0.8])


def test_revisions_train_as_demonstrations(form: Any, chains: list[Chain]) -> None:
    rows = demonstrations(chains)
    tokenizer = word_tokenizer(NUMBERS)
    data = DemonstrationData(form(rows), val_fraction=0.0, batch_size=8, tokenizer=tokenizer)
    data.setup("fit")
    assert len(data.train_dataloader().dataset) == 4
