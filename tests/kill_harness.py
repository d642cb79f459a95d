"""Kill real processes by SIGKILL at given moments, start the work again, and compare.

A test describes its work as a *leg*: a function of ``(folder, killer, **options)`` that begins or
resumes the work in ``folder`` and brings it to its end. It passes the calls in which a process may
die through ``killer.wrap``. ``run_killed`` then starts

    python tests/kill_harness.py FILE LEG JOB.json

Each leg is a process of its own, forked from one that has imported everything and computed nothing:
so a leg costs its steps and not its imports.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple


class Kill(NamedTuple):
    """The moment at which a process dies."""

    place: str  # a name that the leg gives to a call
    call: int  # its number in this process, from 1
    when: Literal["before", "after", "torn"]  # torn: its result is half written


class Killer:
    """End the process at one moment, or never."""

    def __init__(self, kill: Kill | None):
        self.kill = kill
        self.calls: Counter[str] = Counter()

    def wrap(
        self, place: str, work: Callable[..., Any], tear: Callable[[], None] | None = None
    ) -> Callable[..., Any]:
        """Return ``work`` with the moments of ``place`` around it.

        Args:
            place: what a ``Kill`` calls it; several functions of one place are counted together.
            work: any function.
            tear: damage what ``work`` wrote, as a process does that dies while it writes.
        """

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[place] += 1
            number = self.calls[place]
            if self.kill == (place, number, "before"):
                die()
            result = work(*args, **kwargs)
            if self.kill == (place, number, "torn") and tear is not None:
                tear()
                die()
            if self.kill == (place, number, "after"):
                die()
            return result

        return call


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], Any]) -> int:
    """Do the work in a child process; return its exit code: 0, or minus the signal's number."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def run_killed(
    leg: Callable[..., None], folder: Path, kills: Sequence[Kill], **options: Any
) -> tuple[Path, Path]:
    """Run a leg unbroken, and once more with every kill in turn and a last start without one.

    Args:
        leg: a function of the top level of its file.
        folder: an empty one.
        kills: the moments, one process each.
        options: keyword arguments of the leg, as JSON can hold them.

    Returns:
        The folders of the unbroken and of the killed run.
    """
    job = folder / "job.json"
    job.write_text(json.dumps({"kills": kills, "options": options}))
    done = subprocess.run(
        [sys.executable, __file__, inspect.getfile(leg), leg.__name__, str(job)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ends = json.loads((folder / "ends.json").read_text())
    assert ends == [0, *[-signal.SIGKILL] * len(kills), 0], done.stderr
    return folder / "whole", folder / "killed"


def main(file: str, name: str, job: str) -> None:
    """Start all legs of a job, one after another."""
    folder, asked = Path(job).parent, json.loads(Path(job).read_text())
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    described = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = described
    spec.loader.exec_module(described)
    leg = getattr(described, name)
    kills = [Kill(*kill) for kill in asked["kills"]]
    ends = []
    for home, kill in [("whole", None), *(("killed", kill) for kill in [*kills, None])]:
        (folder / home).mkdir(exist_ok=True)
        ends.append(forked(partial(leg, folder / home, Killer(kill), **asked["options"])))
    (folder / "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    # a leg's file imports this module by its name: let both be one
    sys.modules["kill_harness"] = sys.modules["__main__"]
    main(*sys.argv[1:])
