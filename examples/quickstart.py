"""The quickstart as a script: copy src/lightning_rlhf/quickstart/run.py to start your own."""

from lightning_rlhf.quickstart.run import quickstart

if __name__ == "__main__":
    quickstart()
