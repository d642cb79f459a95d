"""SIGTERM and Ctrl-C: end at the next place where nothing is half done, or soon at any."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

GRACE = 5.0  # seconds that a step may still take; then it is left wherever it is
SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Stopped(SystemExit):
    """A run was stopped by a signal; the exit status is 143 for SIGTERM and 130 for Ctrl-C.

    Attributes:
        number: of the signal.
        checkpoint: the file to go on from; None if there is none.
    """

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number
        self.checkpoint: Path | None = None

    @property
    def name(self) -> str:
        """The signal's name for a message."""
        return SIGNALS.get(signal.Signals(self.number), str(self.number))


class StopRequest:
    """Take SIGTERM and Ctrl-C as a request, which the caller grants where it suits.

    A request that is not granted within ``GRACE`` seconds, or a second signal, raises ``Stopped``
    in the main thread, wherever that is, unless the caller is ``busy``.

    Args:
        noticed: called when a signal comes.
        last_resort: called before the process ends at once, where even ``Stopped`` was caught.
    """

    def __init__(self, noticed: Callable[[], None], last_resort: Callable[[], None]):
        self.received: int | None = None
        self.busy = False  # in a part that must not be left half done
        self._raised = 0
        self._noticed = noticed
        self._last_resort = last_resort
        self._before: dict[int, Any] = {}  # handlers, while this one listens
        self._earlier: dict[int, Any] = {}
        self._timed = hasattr(signal, "setitimer")

    def listen(self) -> None:
        """Begin to take signals; only the main thread can."""
        if threading.current_thread() is not threading.main_thread() or self._before:
            return
        self.received, self._raised = None, 0
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        if any(handler != self._receive for handler in self._before.values()):
            self._earlier = dict(self._before)

    def end(self) -> None:
        """Give signals back to whom they belonged before."""
        before, self._before = self._before, {}
        self._arm(0)
        for number, handler in before.items():
            if signal.getsignal(number) == self._receive:
                signal.signal(number, handler)

    def grant(self) -> None:
        """End here if a signal has come.

        Raises:
            Stopped: it has.
        """
        if self.received is not None:
            raise Stopped(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._before:  # Lightning puts back the handlers that it found, also this one
            earlier = self._earlier[number]
            signal.signal(number, earlier)
            os.kill(os.getpid(), number)
            return
        again = self.received is not None
        self.received = self.received or number
        if again:
            self._insist(number, frame)
            return
        self._noticed()
        name = SIGNALS[signal.Signals(number)]
        sys.stderr.write(f"\n{name}: the run stops after this step; a second one stops it now\n")
        self._arm(GRACE)

    def _insist(self, number: int, frame: FrameType | None) -> None:
        """Leave whatever runs; a caller that is busy is asked again."""
        if self.received is None or not self._before:
            return
        self._arm(1.0 if self.busy else GRACE)
        if self.busy:
            return
        self._raised += 1
        if self._raised > 2:  # somebody catches every exception
            self._last_resort()
            os._exit(128 + self.received)
        raise Stopped(self.received)

    def _arm(self, seconds: float) -> None:
        if not self._timed or threading.current_thread() is not threading.main_thread():
            return
        if seconds:
            signal.signal(signal.SIGALRM, self._insist)
        signal.setitimer(signal.ITIMER_REAL, seconds)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise ``Stopped`` on SIGTERM and Ctrl-C inside, also where nothing is trained."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
