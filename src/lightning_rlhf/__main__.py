"""``python -m lightning_rlhf``, as the command ``lightning-rlhf``."""

from lightning_rlhf.cli import main

main()
