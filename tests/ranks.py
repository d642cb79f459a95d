"""Run work in several real processes that talk over gloo, as DDP on a CPU does.

A test describes its work as a function of ``(folder, rank, processes, **options)`` at the top level
of its file. ``run_ranks`` then starts

    python tests/ranks.py FILE JOB.json

which imports everything once, and forks as many processes as each leg of the job asks for: so a leg
costs its steps and not its imports. Lightning finds the addresses in the environment.
"""

from __future__ import annotations

import gc
import importlib.util
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

Leg = tuple[int, Callable[..., None], dict[str, Any]]  # processes, work, options


def run_ranks(folder: Path, legs: Sequence[Leg], seconds: float = 240) -> None:
    """Run legs one after another, each in processes of its own.

    Args:
        folder: where they read and write.
        legs: the number of processes, a function of the top level of its file, and its options as
            JSON can hold them.
        seconds: of all legs together; then they are killed and the caller fails.
    """
    job = folder / "job.json"
    job.write_text(json.dumps([(count, work.__name__, options) for count, work, options in legs]))
    done = subprocess.run(
        [sys.executable, __file__, inspect.getfile(legs[0][1]), str(job), str(seconds)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]


def main(file: str, job: str, seconds: str) -> None:
    """Run all legs of a job; exit 1 where a process fails or the time is over."""
    import torch

    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    described = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = described
    spec.loader.exec_module(described)
    gc.freeze()  # a collection, and Lightning asks for some, need not go through every import
    end = time.monotonic() + float(seconds)
    for count, name, options in json.loads(Path(job).read_text()):
        work = partial(getattr(described, name), Path(job).parent, **options)
        port = free_port()
        running = {forked(partial(work, rank, count), rank, count, port) for rank in range(count)}
        if not all_end_well(running, end):
            sys.exit(1)


def forked(work: Callable[[], None], rank: int, count: int, port: int) -> int:
    """Start the work in a child process, and return its id."""
    process = os.fork()
    if process:
        return process
    if count > 1:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
            "NODE_RANK": "0", "LOCAL_RANK": str(rank),
        }  # fmt: skip
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def all_end_well(running: set[int], end: float) -> bool:
    """Wait for processes; kill the others when one fails or the time is over."""
    while running:
        process, status = os.waitpid(-1, os.WNOHANG)
        running.discard(process)
        late = time.monotonic() > end
        if late:
            print("the processes did not end in time", file=sys.stderr)
        if late or status:
            for other in running:
                os.kill(other, signal.SIGKILL)
            return False
        time.sleep(0 if process else 0.005)
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
