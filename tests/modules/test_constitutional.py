"""Self-critique and AI feedback under a real Trainer, with a real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pytorch_lightning.loggers import WandbLogger

from lightning_rlhf import (
    AIFeedbackModule,
    DPOModule,
    PreferenceData,
    PromptData,
    RewardModule,
    Sampling,
    SelfCritiqueModule,
)
from lightning_rlhf.callbacks import WriteRows
from lightning_rlhf.constitution.ai_feedback import AIFeedback
from lightning_rlhf.constitution.chain import Chain
from lightning_rlhf.constitution.question import Question
from lightning_rlhf.constitution.readers import load
from lightning_rlhf.constitution.self_critique import SelfCritique
from lightning_rlhf.constitution.testing import ScriptedGenerator
from lightning_rlhf.text.messages import Message
from runs import Runs
from support import RULES, number_pairs

SHORT = Sampling(max_new_tokens=6)
ASKED = Question(direct="w1 {first} w2 {second}", reasoned="w1 {first} w2 {second}", conclude="w3")


def loop(seed: int = 5) -> SelfCritique:
    return SelfCritique(RULES, rounds=2, transcripts=(), seed=seed)


def feedback() -> AIFeedback:
    return AIFeedback(RULES, transcripts=(), labels=("w8", "w9"), question=ASKED, seed=5)


def prompts(n: int = 8) -> list[dict[str, str]]:
    return [{"prompt": row["prompt"]} for row in number_pairs(n)]


def critique(runs: Runs, rows: list[dict], batch_size: int = 4, **kwargs: object) -> list[dict]:
    module = SelfCritiqueModule(runs.backbone(), loop(), sampling=SHORT, template="raw", **kwargs)
    data = PromptData(rows, val_fraction=0, batch_size=batch_size)
    batches = runs.trainer(logger=False).predict(module, data)
    return [row for batch in batches for row in batch]


def test_rows_do_not_depend_on_their_batch(runs: Runs, tmp_path: Path) -> None:
    """A row regenerated alone is the same; so are all rows in another order and other batches."""
    rows = prompts()
    whole = {row["id"]: row for row in critique(runs, rows, journal=str(tmp_path / "a.jsonl"))}
    assert len(whole) == 8
    backwards = critique(runs, rows[::-1], batch_size=3, journal=str(tmp_path / "b.jsonl"))
    assert {row["id"]: row for row in backwards} == whole
    alone = critique(runs, rows[3:4], journal=str(tmp_path / "c.jsonl"))
    assert alone == [whole[alone[0]["id"]]]
    assert len({row["draft"]["text"] for row in whole.values()}) > 1


def test_a_row_stores_its_constitution_and_generator(runs: Runs) -> None:
    row = critique(runs, prompts(1))[0]
    chain = Chain.from_row(row)
    assert chain.constitution["sha256"] == RULES.sha256
    assert {"model", "role", "weights", "sampling"} <= chain.generator.keys()
    assert [r.principle for r in chain.rounds] == [
        RULES.draw("critique", 5, chain.id, k).id for k in (1, 2)
    ]


def test_labels_are_soft_and_train(runs: Runs, tmp_path: Path) -> None:
    """Sampled pairs, judged by the model itself; its rows train a reward model and DPO."""
    module = AIFeedbackModule(
        runs.backbone(), feedback(), sampling=SHORT, template="raw", journal=str(tmp_path / "j")
    )
    trainer = runs.trainer(logger=False, callbacks=[WriteRows(str(tmp_path / "rows.jsonl"))])
    trainer.predict(module, PromptData(prompts(), val_fraction=0, batch_size=4))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert 0 < len(rows) <= 8
    assert all(0.5 <= row["label"] <= 1 for row in rows)
    assert all(len(row["orders"]) == 2 for row in rows)
    report = json.loads((tmp_path / "feedback.json").read_text())
    assert report["pairs"] == 8
    for method in (RewardModule, DPOModule):
        data = PreferenceData(str(tmp_path / "rows.jsonl"), val_fraction=0, batch_size=4)
        runs.trainer(max_steps=1).fit(method(runs.backbone(), lr=1e-3), data)


def test_revisions_are_judged_and_not_assumed(runs: Runs, tmp_path: Path) -> None:
    """A judge of positions gives every pair the label 0.5."""
    chains = critique(runs, prompts())

    def score(messages: list[Message], option: str) -> float:
        return 0.0 if option == "w8" else -3.0

    always_first = ScriptedGenerator(lambda m, s: "w1", score)
    module = AIFeedbackModule(
        runs.backbone(), feedback(), pairs="revision_vs_draft", judge=always_first,
        journal=str(tmp_path / "j"),
    )  # fmt: skip
    data = PromptData(chains, val_fraction=0, batch_size=4)
    rows = [row for batch in runs.trainer(logger=False).predict(module, data) for row in batch]
    assert rows
    assert {row["label"] for row in rows} == {0.5}
    assert {row["status"] for row in rows} == {"inconsistent"}


@pytest.mark.parametrize("pairs", ["best", "rounds_1", "revision"])
def test_an_unknown_kind_of_pairs(runs: Runs, pairs: str) -> None:
    with pytest.raises(ValueError, match=r'pairs must be "sampled", "revision_vs_draft"'):
        AIFeedbackModule(runs.backbone(), pairs=pairs)


def test_it_trains_nothing(runs: Runs) -> None:
    module = SelfCritiqueModule(runs.backbone(), loop(), sampling=SHORT)
    with pytest.raises(ValueError, match="trains nothing: use predict"):
        runs.trainer().fit(module, PromptData(prompts(), val_fraction=0, batch_size=4))


def test_rows_and_constitution_become_artifacts(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Weights & Biases; without it the same files are in the run's folder."""
    logger = WandbLogger(save_dir=tmp_path, project="tests", offline=True)
    files: list[str] = []
    monkeypatch.setattr(
        type(logger.experiment),
        "log_artifact",
        lambda self, file, name, type: files.append(file),
    )
    rows = WriteRows(str(tmp_path / "rows.jsonl"))
    module = SelfCritiqueModule(
        runs.backbone(), loop(), sampling=SHORT, template="raw", journal=str(tmp_path / "j")
    )
    trainer = runs.trainer(logger=logger, callbacks=[rows])
    trainer.predict(module, PromptData(prompts(2), val_fraction=0, batch_size=2))
    logger.experiment.finish()
    assert [Path(file).name for file in files] == ["rows.jsonl", "constitution.yaml"]
    assert load(Path(files[1])).sha256 == RULES.sha256
