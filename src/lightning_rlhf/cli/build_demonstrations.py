"""``lightning-rlhf build-demonstrations``: revisions that pass the gates, as rows to train on."""

from __future__ import annotations

from lightning_rlhf.cli.arguments import call_with
from lightning_rlhf.constitution.demonstrations import write_demonstrations


def main(args: list[str]) -> None:
    """Read the arguments of ``write_demonstrations`` and call it."""
    call_with(write_demonstrations, "build-demonstrations", args)
