"""The tree is the diagram: imports point down, files stay small, some rooms know no library."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from structure import (
    FILES,
    FLOORS,
    PACKAGE,
    SOURCE,
    climbing,
    cycles,
    functions,
    graph,
    imports,
    length,
    method_files,
    module_name,
    percentile,
    room,
    tree,
)

LIBRARIES = {"transformers", "peft", "bitsandbytes", "pytorch_lightning", "datasets"}
FORBIDDEN = {
    "functional": LIBRARIES,
    "text": {"torch", *LIBRARIES},
    "constitution": {"torch", *LIBRARIES},
}
DISTRIBUTION = {"yaml": "pyyaml", "lightning_fabric": "pytorch_lightning"}  # where names differ
# vLLM: imported where a user asks for it, with a sentence; typing_extensions: by type checkers
OURS_OR_ASKED_FOR = {PACKAGE, "vllm", "typing_extensions"}
AT_THE_ROOT = {"__init__.py", "__main__.py", "batches.py"}
TITLES = {"self_critique": "SelfCritiqueModule", "ai_feedback": "AIFeedbackModule"}


def test_rooms_import_only_lower_rooms() -> None:
    assert climbing(graph()) == []


def test_no_files_import_one_another() -> None:
    """Imports inside functions count too: a hidden cycle is a cycle."""
    assert cycles(graph()) == []


def test_cycles_are_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": set(), "f": {"f"}}
    assert cycles(edges) == [["a", "b", "c"], ["f"]]


def test_nobody_imports_the_package_root() -> None:
    for file in FILES:
        assert PACKAGE not in imports(file), f"{file} imports its own package root"


def test_every_room_has_its_floor_and_no_file_is_loose() -> None:
    assert {file.name for file in SOURCE.glob("*.py")} == AT_THE_ROOT
    assert {room(name) for name in graph()} == set(FLOORS)


@pytest.mark.parametrize("here", FORBIDDEN)
def test_some_rooms_know_no_library(here: str) -> None:
    for file in FILES:
        if room(module_name(file)) == here:
            known = {name.split(".")[0] for name in imports(file)}
            assert not known & FORBIDDEN[here], f"{file} imports {known & FORBIDDEN[here]}"


def test_methods_import_only_their_bases() -> None:
    methods = {f"modules.{name}" for name in method_files()}
    for here, targets in graph().items():
        if room(here) == "modules":
            assert not targets & methods, f"{here} imports a method: {targets & methods}"


@pytest.mark.parametrize("here", ["planning", "callbacks", "training"])
def test_a_new_method_needs_no_change_here(here: str) -> None:
    """These rooms ask a module for what they need, and know no method by its name."""
    methods = {"modules.online", *(f"modules.{name}" for name in method_files())}
    for name, targets in graph().items():
        if room(name) == here:
            assert not targets & methods, f"{name} imports a method: {targets & methods}"


def test_data_never_sees_a_model() -> None:
    for here, targets in graph().items():
        if room(here) == "data":
            assert not any(room(name) == "models" for name in targets), here


def test_every_method_has_its_one_name_everywhere() -> None:
    root = SOURCE.parents[1]
    for method in method_files():
        if method in TITLES:  # they train nothing: what they do is strings in, strings out
            assert (SOURCE / "constitution" / f"{method}.py").is_file()
            assert f"`{TITLES[method]}`" in (root / "docs/methods/constitutional.md").read_text()
            continue
        loss = SOURCE / "functional" / f"{method}.py"
        assert f"def {method}_loss(" in loss.read_text()
        assert (root / "configs" / f"{method}.yaml").is_file()
        assert (root / "docs" / "methods" / f"{method}.md").is_file()


def test_every_package_that_is_imported_is_declared() -> None:
    """As a dependency, or as an extra; a package that others bring is declared all the same."""
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


# ---- sizes ----


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_files_are_small(file: Path) -> None:
    name = module_name(file)
    method = room(name) == "modules" and file.stem in method_files()
    most = {"modules.dpo": 140}.get(name, 200 if method else 350)
    assert length(file) <= most, f"{name} has {length(file)} lines, more than {most}"


def test_functions_are_small() -> None:
    every = [function for file in FILES for function in functions(file)]
    for function in every:
        assert function.lines <= 50, f"{function.file}:{function.line} {function.name}"
    assert percentile([function.lines for function in every], 0.95) <= 30


def constructors(file: Path) -> list[tuple[str, int]]:
    """Each constructor of a file: its class, and how many arguments may be positional."""
    found = []
    for node in ast.walk(tree(file)):
        if not isinstance(node, ast.ClassDef):
            continue
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                found.append((node.name, len(method.args.args) - 1))
        decorated = [d for d in node.decorator_list if "dataclass" in ast.unparse(d)]
        if decorated:
            keyword = "kw_only=True" in ast.unparse(decorated[0])
            fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and is_field(f)]
            marks = [n for n, f in enumerate(fields) if "KW_ONLY" in ast.unparse(f.annotation)]
            found.append((node.name, 0 if keyword else marks[0] if marks else len(fields)))
    return found


def is_field(node: ast.AnnAssign) -> bool:
    """Leave out class variables and fields that the constructor does not take."""
    text = ast.unparse(node)
    return "ClassVar" not in text and "init=False" not in text


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_constructors_take_three_arguments_by_place(file: Path) -> None:
    for name, positional in constructors(file):
        assert positional <= 3, f"{file.name} {name}: arguments beyond the third are keyword-only"


def test_functions_take_at_most_twelve_arguments() -> None:
    for file in FILES:
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.FunctionDef):
                count = len(node.args.args) + len(node.args.kwonlyargs) - (node.name == "__init__")
                assert count <= 12, f"{file.name}:{node.lineno} {node.name} takes {count} arguments"


def test_no_call_passes_six_arguments_by_place() -> None:
    for file in FILES:
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) != "zip":
                plain = [a for a in node.args if not isinstance(a, ast.Starred)]
                assert len(plain) < 6, f"{file.name}:{node.lineno} passes {len(plain)} by place"
