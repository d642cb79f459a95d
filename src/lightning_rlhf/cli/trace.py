"""``lightning-rlhf trace``: where a training row comes from."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from lightning_rlhf.cli.arguments import call_with
from lightning_rlhf.constitution.trace import find, story


def main(args: list[str]) -> None:
    """Read the arguments of ``trace`` and call it."""
    call_with(trace, "trace", args)


def trace(row: str, folder: str) -> None:
    """Print the story of one training row: who said what, by which principle, as which seed.

    Args:
        row: its id.
        folder: a file of rows, or a folder in whose files it is looked for.
    """
    console = Console()
    for match in find([folder], row):
        console.rule(str(match["file"]))
        console.print(Text(story(match)))
