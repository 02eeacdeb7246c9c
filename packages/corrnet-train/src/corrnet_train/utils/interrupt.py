"""Ctrl-C and SIGTERM as a flag that a loop looks at, so that it can finish its step and save."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from video_data.utils.interrupts import ONE_SIGNAL


class Stopped(Exception):
    """The work was left because the flag was set."""


class Flag:
    """Whether this process is to stop.

    Args:
        launcher: The process that started this one and has to outlive it: torchrun, which can no longer end it once
            it was killed itself. None: there is none.
    """

    def __init__(self, launcher: int | None = None) -> None:
        self._launcher = launcher
        self._has_signal = False

    @property
    def is_set(self) -> bool:
        """Whether a signal has come, or the launcher is gone."""
        return self._has_signal or (self._launcher is not None and os.getppid() != self._launcher)

    def set(self) -> None:
        """Set the flag."""
        self._has_signal = True


@contextmanager
def interrupt_flag(*, launcher: int | None = None) -> Iterator[Flag]:
    """Turn SIGINT and SIGTERM into a flag.

    Without a launcher a second signal acts as usual, that is at once; those within half a second count as one. torchrun
    passes on the signal that a terminal or a scheduler has already sent to all processes.

    Args:
        launcher: See `Flag`.
    """
    flag = Flag(launcher)
    previous: dict[int, Any] = {}
    first: float | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        flag.set()
        now = time.monotonic()
        if first is None:
            first = now
        elif launcher is None and now - first > ONE_SIGNAL:
            signal.signal(number, previous[number])
            signal.raise_signal(number)

    for name in (signal.SIGINT, signal.SIGTERM):
        previous[int(name)] = signal.signal(name, handle)
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
