"""Ctrl-C while C code calls Python.

FFmpeg reads a file through Python functions, and an exception in one of them is printed and forgotten. So a signal that
arrives there raises nothing until the work at hand is done.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])

_callbacks: set[CodeType] = set()


def called_by_c(function: F) -> F:
    """Decorate a function that C code calls, from which no exception gets out."""
    _callbacks.add(function.__code__)
    return function


@contextmanager
def interrupts() -> Iterator[Callable[[], None]]:
    """Enter a block in which Ctrl-C raises KeyboardInterrupt as usual, but not while C code calls Python.

    A second Ctrl-C always does: a read may wait for a storage that is gone. Where the caller handles SIGINT itself, or
    on another thread, nothing changes.

    Yields:
        A function for the places between two pieces of work, which raises a KeyboardInterrupt that was put off.
    """
    put_off = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal put_off
        while frame is not None and not put_off:
            if frame.f_code in _callbacks:
                put_off = True
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    def check() -> None:
        if put_off:
            raise KeyboardInterrupt

    on_main_thread = threading.current_thread() is threading.main_thread()
    if not on_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
