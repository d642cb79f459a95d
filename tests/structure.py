"""Measure the package's structure: sizes, imports between rooms, cycles between files.

``python tests/structure.py`` prints the figures; ``test_architecture.py`` asserts the limits.
"""

from __future__ import annotations

import ast
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "lightning_rlhf"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE
FILES = sorted(SOURCE.rglob("*.py"))
FLOORS = """
functional text batches data models constitution generators rewards training modules evaluation
reporting planning callbacks parsing recipes quickstart cli __main__
""".split()  # from the ground up; a room imports only from rooms before it
BASES = ("base", "online", "writing")  # of methods


class Function(NamedTuple):
    """A function or method, and its length in lines, decorators left out."""

    file: Path
    name: str
    line: int
    lines: int


def tree(file: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(file.read_text(encoding="utf-8"))


def module_name(file: Path) -> str:
    """The dotted name of a file, the package's own name left out; "" for the package root."""
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str:
    """The top-level folder or file of a dotted name."""
    return name.split(".")[0]


def length(file: Path) -> int:
    """Lines of a file."""
    return len(file.read_text(encoding="utf-8").splitlines())


def functions(file: Path) -> Iterator[Function]:
    """Every function of a file, nested ones too."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield Function(file, node.name, node.lineno, node.end_lineno - node.lineno + 1)


def imports(file: Path) -> set[str]:
    """Dotted names a file imports anywhere in it, those inside functions included."""
    found: set[str] = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def graph() -> dict[str, set[str]]:
    """Imports between the files of the package: module -> modules, the root left out."""
    names = {module_name(file) for file in FILES} - {""}
    edges: dict[str, set[str]] = {name: set() for name in names}
    for file in FILES:
        here = module_name(file)
        own = {n.removeprefix(f"{PACKAGE}.") for n in imports(file) if n.startswith(f"{PACKAGE}.")}
        if here:
            edges[here] = (own & names) - {here}
    return edges


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another (strongly connected components above one)."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for name in edges[todo.pop()] - seen:
                seen.add(name)
                todo.append(name)
        return seen

    reach = {name: reachable(name) for name in edges}
    groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in edges if a in reach[a]}
    return sorted(sorted(group) for group in groups)


def climbing(edges: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Imports that do not point down to a lower room."""
    level = {name: number for number, name in enumerate(FLOORS)}
    return sorted(
        (here, there)
        for here, targets in edges.items()
        for there in targets
        if room(here) != room(there) and level[room(there)] >= level[room(here)]
    )


def percentile(values: list[int], share: float) -> int:
    """The smallest value that at least that share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def report() -> str:
    """The figures as lines of text."""
    files = {file: length(file) for file in FILES}
    every = [function for file in FILES for function in functions(file)]
    sizes = [function.lines for function in every]
    edges = graph()
    longest = max(files, key=lambda file: files[file])
    largest = max(every, key=lambda function: function.lines)
    methods = {name: files[SOURCE / "modules" / f"{name}.py"] for name in method_files()}
    rooms = [name for name in FLOORS if name not in ("batches", "__main__")]
    constitution = sum(1 for file in FILES if file.parent.name == "constitution")
    lines = [
        f"files                    {len(files)}, {sum(files.values()):,} lines, {len(rooms)} rooms",
        f"file: median, p95, max   {statistics.median(files.values()):g}, "
        f"{percentile(list(files.values()), 0.95)}, {files[longest]} ({module_name(longest)})",
        f"function: median, p95    {statistics.median(sizes):g}, {percentile(sizes, 0.95)}",
        f"function: max            {largest.lines} ({module_name(largest.file)}.{largest.name})",
        f"method files: max        {max(methods.values())} of "
        + ", ".join(f"{name} {n}" for name, n in methods.items()),
        f"constitution             {constitution} files",
        f"cycles between files     {len(cycles(edges))}",
        f"imports that climb       {len(climbing(edges))}",
        f"imports of the root      {sum(PACKAGE in imports(file) for file in FILES)}",
        f"files at the root        {', '.join(sorted(f.name for f in SOURCE.glob('*.py')))}",
    ]
    return "\n".join(lines)


def method_files() -> list[str]:
    """Files of ``modules/`` that are a method: their class has their name, and is not a base."""
    found = []
    for file in sorted((SOURCE / "modules").glob("*.py")):
        wanted = f"{file.stem.replace('_', '')}module"
        classes = [n.name.lower() for n in ast.walk(tree(file)) if isinstance(n, ast.ClassDef)]
        if wanted in classes and file.stem not in BASES:
            found.append(file.stem)
    return found


if __name__ == "__main__":
    print(report())
