"""The tree is the diagram: imports point down, and some floors know no library."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "lightning_rlhf"
FLOORS = """
functional text batches data models constitution generators rewards training modules evaluation
reporting planning callbacks parsing recipes quickstart cli __main__
""".split()  # from the ground up; a room imports only from rooms before it
LIBRARIES = {"transformers", "peft", "bitsandbytes", "pytorch_lightning", "datasets"}
FORBIDDEN = {
    "functional": LIBRARIES,
    "text": {"torch", *LIBRARIES},
    "constitution": {"torch", *LIBRARIES},
}
DISTRIBUTION = {"yaml": "pyyaml", "lightning_fabric": "pytorch_lightning"}  # where names differ
# vLLM: imported by who asks for it, with a sentence; typing_extensions: by type checkers
OURS_OR_ASKED_FOR = {"lightning_rlhf", "vllm", "typing_extensions"}
PARTS = {
    "base",
    "online",
    "rollout",
    "rollout_metrics",
    "rollout_progress",
    "samples",
    "update_schedule",
    "writing",
}
TITLES = {"self_critique": "SelfCritiqueModule", "ai_feedback": "AIFeedbackModule"}
WRITERS = set(TITLES)
FILES = sorted(SOURCE.rglob("*.py"))


def room(module: str) -> str:
    return module.removeprefix("lightning_rlhf.").split(".")[0]


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_room(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_point_down(file: Path) -> None:
    if file == SOURCE / "__init__.py":
        return  # the shop window: it may show everything, and nobody inside looks at it
    here = own_room(file)
    for name in imports(file):
        assert name != "lightning_rlhf", f"{file} imports its own package root"
        if not name.startswith("lightning_rlhf."):
            assert name.split(".")[0] not in FORBIDDEN.get(here, set()), f"{here} imports {name}"
            continue
        there = room(name)
        if there != here:
            down = FLOORS.index(there) < FLOORS.index(here)
            assert down, f"{file.relative_to(SOURCE)} looks up or sideways to {name}"


def test_sibling_modules_import_only_their_base() -> None:
    for file in (SOURCE / "modules").glob("*.py"):
        for name in imports(file):
            if name.startswith("lightning_rlhf.modules."):
                assert name.split(".")[2] in PARTS, f"{file.name} imports its sibling {name}"


def test_data_never_sees_a_model() -> None:
    for file in (SOURCE / "data").glob("*.py"):
        assert not any(name.startswith("lightning_rlhf.models") for name in imports(file))


def test_every_method_has_its_one_name_everywhere() -> None:
    root = SOURCE.parents[1]
    for file in (SOURCE / "modules").glob("*.py"):
        method = file.stem
        if method in {"__init__"} | PARTS:
            continue
        assert f"class {method.replace('_', '')}module(" in file.read_text().lower()
        if method in WRITERS:  # they train nothing: what they do is strings in, strings out
            assert (SOURCE / "constitution" / f"{method}.py").is_file()
            assert f"`{TITLES[method]}`" in (root / "docs/methods/constitutional.md").read_text()
            continue
        assert (SOURCE / "functional" / f"{method}.py").is_file()
        assert f"def {method}_loss(" in (SOURCE / "functional" / f"{method}.py").read_text()
        assert (root / "configs" / f"{method}.yaml").is_file()
        assert (root / "docs" / "methods" / f"{method}.md").is_file()


def test_every_package_that_is_imported_is_declared() -> None:
    """As a dependency, or as an extra; what has to be there anyway is declared all the same."""
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["gguf"]]
    declared = {re.split(r"[^\w.-]", line)[0].lower().replace("-", "_") for line in wanted}
    for file in FILES:
        for name in imports(file):
            package = name.split(".")[0]
            if package in sys.stdlib_module_names or package in OURS_OR_ASKED_FOR:
                continue
            assert DISTRIBUTION.get(package, package) in declared, f"{file.name} imports {package}"


def test_constructors_have_few_arguments() -> None:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                count = len(node.args.args) + len(node.args.kwonlyargs) - (node.name == "__init__")
                assert count <= 12, f"{file.name}:{node.lineno} {node.name} takes {count} arguments"
