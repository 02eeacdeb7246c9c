"""Ctrl-C and SIGTERM end a command alike, and are not lost while C code calls Python.

FFmpeg reads a file through Python functions, and an exception in one of them is printed and forgotten. So a signal that
arrives there raises nothing until FFmpeg has returned.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., object])

# What `timeout` and torchrun send to a process, they send to its group as well.
ONE_SIGNAL = 0.5  # seconds within which signals count as one

_callbacks: set[CodeType] = set()
_put_off = False  # a signal came while C code called Python


def called_by_c(function: F) -> F:
    """Decorate a function that C code calls, from which no exception but a plain `Exception` gets out."""
    _callbacks.add(function.__code__)
    return function


def is_put_off() -> bool:
    """Whether a signal waits until C code has returned; what C code calls then ends its work."""
    return _put_off


@contextmanager
def put_off_until_end() -> Iterator[None]:
    """Enter a block that runs C code, at the end of which a signal that was put off raises KeyboardInterrupt."""
    global _put_off
    try:
        yield
    finally:
        if _put_off:
            _put_off = False
            raise KeyboardInterrupt


@contextmanager
def interrupts(*, sigterm: bool = True) -> Iterator[Callable[[], bool]]:
    """Enter a block in which Ctrl-C and SIGTERM raise KeyboardInterrupt, but not while C code calls Python.

    A second signal always does: a read may wait for a storage that is gone. Signals that the caller handles or ignores
    are left to it, as is everything on another thread. Signals within half a second count as one.

    Args:
        sigterm: Whether SIGTERM is meant, too.

    Yields:
        A function that says whether a signal has come in the block.
    """
    global _put_off
    first: float | None = None

    def has_come() -> bool:
        return first is not None

    if threading.current_thread() is not threading.main_thread():
        yield has_come
        return

    def handle(number: int, frame: FrameType | None) -> None:
        global _put_off
        nonlocal first
        now = time.monotonic()
        if first is not None and now - first < ONE_SIGNAL:
            return
        while frame is not None and first is None:
            if frame.f_code in _callbacks:
                first, _put_off = now, True
                return
            frame = frame.f_back
        first = now
        raise KeyboardInterrupt

    defaults: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
    if sigterm:
        defaults[signal.SIGTERM] = signal.SIG_DFL
    taken = {number: default for number, default in defaults.items() if signal.getsignal(number) is default}
    try:
        for number in taken:
            signal.signal(number, handle)
        yield has_come
    finally:
        for number, default in taken.items():
            signal.signal(number, default)
            _put_off = False
