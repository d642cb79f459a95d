"""The quickstart as a script; its recipe is src/lightning_rlhf/quickstart/quickstart.yaml."""

from lightning_rlhf.cli.quickstart import quickstart

if __name__ == "__main__":
    quickstart()
