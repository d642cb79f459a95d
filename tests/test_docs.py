"""What the docs tell people to type works as it stands there."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from lightning_rlhf import Backbone
from lightning_rlhf.cli.main import main
from lightning_rlhf.models.lora import read
from support import number_pairs

ROOT = Path(__file__).parents[1]


def blocks(file: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / file).read_text(), re.S)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "preferences.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in number_pairs(40)))
    return file


def test_the_readmes_ten_lines(tiny_base: str, rows: Path) -> None:
    (lines,) = blocks("README.md", "python")
    assert len([line for line in lines.splitlines() if line.strip()]) <= 10
    scope: dict[str, object] = {}
    exec(lines.replace("HuggingFaceTB/SmolLM2-135M-Instruct", tiny_base), scope)
    backbone = scope["backbone"]
    assert isinstance(backbone, Backbone)
    assert backbone.quantization == "nf4"
    config, tensors = read(Path("runs/dpo"))
    assert config.r == 16
    assert any("lora_B" in n and t.abs().sum() > 0 for n, t in tensors.items())


def test_a_method_in_four_steps(
    tiny_base: str, tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONTRIBUTING's own blocks: one loss, module and config; it trains, resumes, saves."""
    loss, module = blocks("CONTRIBUTING.md", "python")
    (config,) = blocks("CONTRIBUTING.md", "yaml")
    package = tmp_path / "toy"
    package.mkdir()
    (package / "__init__.py").write_text("from toy.module import UnlikelihoodModule\n")
    (package / "loss.py").write_text(loss)
    (package / "module.py").write_text("from __future__ import annotations\n" + module)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [n for n in sys.modules if n.split(".")[0] == "toy"]:
        monkeypatch.delitem(sys.modules, name)
    file = tmp_path / "unlikelihood.yaml"
    file.write_text(
        config.replace("lightning_rlhf.UnlikelihoodModule", "toy.UnlikelihoodModule")
        .replace("runs/quickstart/sft/policy", tiny_base)
        .replace("runs/quickstart/data/preferences.jsonl", str(rows))
    )
    plain = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    plain += ["--trainer.logger.class_path=pytorch_lightning.loggers.CSVLogger"]
    plain += ["--trainer.logger.save_dir=runs", "--trainer.logger.name=toy"]
    main(["fit", "--config", str(file), *plain, "--model.lr=0.01"])
    run = tmp_path / "runs" / "toy" / "version_0"
    (checkpoint,) = (run / "checkpoints").glob("*.ckpt")
    assert (run / "policy" / "adapter_model.safetensors").is_file()
    main(
        [
            "fit",
            "--config",
            str(file),
            *plain,
            "--ckpt_path",
            str(checkpoint),
            "--trainer.max_epochs=2",
            "--model.lr=0.01",
        ]
    )


def test_every_path_the_readme_names_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\(((?:docs|benchmarks|examples|configs)/[^)]+)\)", text):
        assert (ROOT / link).exists(), link
    for config in re.findall(r"configs/[\w/]+\.yaml", text):
        assert (ROOT / config).is_file(), config


def test_every_dotted_name_in_the_docs_exists() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for name in set(
            re.findall(r"lightning_rlhf\.(?:functional\.)?\w+\.\w+_\w+", page.read_text())
        ):
            try:
                resolve_name(name)  # a module as well as what is in one
            except (ImportError, AttributeError) as error:
                raise AssertionError(f"{page.name}: {name}") from error
