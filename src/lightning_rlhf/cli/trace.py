"""``lightning-rlhf trace``: where a training row comes from."""

from __future__ import annotations

from rich.text import Text

from lightning_rlhf.cli.arguments import call_with
from lightning_rlhf.constitution.trace import find, story
from lightning_rlhf.text.display import PrintableConsole, printable


def main(args: list[str]) -> None:
    """Read the arguments of ``trace`` and call it."""
    call_with(trace, "trace", args)


def trace(row: str, folder: str) -> None:
    """Print the story of one training row: who said what, by which principle, as which seed.

    Args:
        row: its id.
        folder: a file of rows, or a folder in whose files it is looked for.
    """
    console = PrintableConsole()
    for match in find([folder], row):
        console.rule(printable(str(match["file"])))
        console.print(Text(printable(story(match))))
