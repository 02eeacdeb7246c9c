"""Ctrl-C and SIGTERM as a flag that a loop looks at, so that it can finish its step and save."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Flag:
    """Whether a signal has come."""

    set = False


@contextmanager
def interrupt_flag(*, once: bool = True) -> Iterator[Flag]:
    """Turn SIGINT and SIGTERM into a flag.

    Args:
        once: A second signal acts as usual, that is at once. Not so under torchrun, which passes on the signal that
            a terminal has already sent to all processes.
    """
    flag = Flag()
    previous: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        flag.set = True
        if once:
            signal.signal(number, previous[number])

    for name in (signal.SIGINT, signal.SIGTERM):
        previous[int(name)] = signal.signal(name, handle)
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
