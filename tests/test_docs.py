"""What the docs tell people to type works as it stands there."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from lightning_rlhf import Backbone
from lightning_rlhf.models.lora import read
from structure import FLOORS
from support import number_pairs

ROOT = Path(__file__).parents[1]
TESTED = (
    "test_architecture.py", "test_configs.py", "functional/test_unlikelihood.py", "training",
    "modules/test_base.py", "modules/test_trainer.py", "modules/test_contract.py",
)  # fmt: skip


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


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository as CONTRIBUTING's reader has it, with every block written to its file."""
    folder = tmp_path / "repository"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "runs")
    for name in ("src", "tests", "configs", "docs", "examples", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for file in [*ROOT.glob("*.md"), ROOT / "pyproject.toml", ROOT / "Makefile"]:
        shutil.copy(file, folder)
    text, path, touched = (ROOT / "CONTRIBUTING.md").read_text(), "", set()
    pattern = r"(?:file|from|in) `([\w/]+\.\w+)`[^`]*?:|```(\w+)\n(.*?)```"
    for named, language, block in re.findall(pattern, text, re.S):
        if named:
            path = named
            continue
        file = folder / path
        touched.add(path)
        if language == "diff":
            edit(file, block)
        else:
            assert not file.exists(), file
            file.write_text(block)
    assert len(touched) <= 8, touched
    (folder / "touched").write_text("\n".join(touched))
    return folder


def edit(file: Path, diff: str) -> None:
    """Add a diff's new lines behind the line before them."""
    anchor, *added = diff.splitlines()
    assert anchor[0] == " " and all(line[0] == "+" for line in added), diff
    text, before = file.read_text(), f"{anchor[1:]}\n"
    assert text.count(before) == 1, before
    file.write_text(text.replace(before, before + "".join(f"{line[1:]}\n" for line in added)))


def python(folder: Path, *args: str) -> str:
    """Run the copy's own package."""
    env = {**os.environ, "PYTHONPATH": f"{folder / 'src'}", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_a_method_in_four_steps(copy: Path, tiny_base: str, rows: Path) -> None:
    """CONTRIBUTING's own blocks, in the package: checked, tested, planned, trained and resumed."""
    touched = [name for name in (copy / "touched").read_text().split() if name.endswith(".py")]
    python(copy, "-m", "ruff", "check", *touched)
    python(copy, "-m", "ruff", "format", "--check", *touched)
    files = [f"tests/{name}" for name in TESTED]
    slow = "precision or progress or logger or optimizers or tuner or budget or time"
    chosen = f"test_architecture or (unlikelihood and not ({slow}))"
    passed = python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", chosen)
    assert int(re.findall(r"(\d+) passed", passed)[-1]) > 200

    config = ["--config", "configs/unlikelihood.yaml", f"--data.source={rows}"]
    config += [f"--model.backbone.name_or_path={tiny_base}"]
    assert "forward as policy" in python(copy, "-m", "lightning_rlhf", "plan", *config)
    config += ["--trainer.enable_progress_bar=false", "--model.lr=0.01"]
    run = Path("runs/unlikelihood/version_0")
    again = [f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}", "--trainer.max_epochs=2"]
    fits = f"fit = ['fit', *{config}]; main(fit); main(fit + {again})"
    python(copy, "-c", f"from lightning_rlhf.cli.main import main; {fits}")
    assert (copy / run / "policy" / "adapter_model.safetensors").is_file()


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


def test_the_steps_page_names_what_exists() -> None:
    """Every `file` `name` of the tables of docs/steps.md is defined in that file."""
    page = (ROOT / "docs/steps.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|.*\| `([\w/]+\.py)` `(\w+)` \|$", page, flags=re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    for number, file, name in rows:
        tree = ast.parse((ROOT / "src/lightning_rlhf" / file).read_text(encoding="utf-8"))
        kinds = (ast.FunctionDef, ast.ClassDef)
        names = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
        assert name in names, f"row {number}: {file} defines no {name}"


def test_the_trees_of_the_docs_are_the_rooms() -> None:
    """The README's tree and the table of docs/design.md list the rooms in their true order."""
    rooms = [name for name in FLOORS if name not in ("batches", "__main__")]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme[readme.index("src/lightning_rlhf/  ") : readme.index("\ntests/  ")]
    assert re.findall(r"^  (\w+)/ ", tree, flags=re.MULTILINE) == rooms
    design = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)/` \|", design, flags=re.MULTILINE) == rooms
