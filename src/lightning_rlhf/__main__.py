"""``python -m lightning_rlhf``, as the command ``lightning-rlhf``."""

from lightning_rlhf.cli.main import main

main()
