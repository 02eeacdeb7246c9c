"""Ctrl-C and SIGTERM end a command alike, and are not lost while C code calls Python.

FFmpeg reads a file through Python functions, and an exception in one of them is printed and forgotten. So a signal that
arrives there raises nothing until FFmpeg has returned.
"""

import _thread
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., object])

# What `timeout` and torchrun send to a process, they send to its group as well.
ONE_SIGNAL = 0.5  # seconds within which signals count as one

_COME_AGAIN = 0.05  # seconds after which an interrupt that Python dropped comes again

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
    are left to it, as is everything on another thread. Signals within half a second count as one. Where Python drops an
    exception, as in a callback of a weak reference, the KeyboardInterrupt comes again.

    Args:
        sigterm: Whether SIGTERM is meant, too.

    Yields:
        A function that says whether a signal has come in the block.
    """
    global _put_off
    first: float | None = None
    come_again: threading.Timer | None = None

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

    def on_dropped(dropped: Any) -> None:
        nonlocal first, come_again
        if issubclass(dropped.exc_type, KeyboardInterrupt) and taken:
            first = -math.inf  # so that it does not count as the same signal
            come_again = threading.Timer(_COME_AGAIN, _thread.interrupt_main, [next(iter(taken))])
            come_again.daemon = True
            come_again.start()
        elif first is None:  # afterwards it is of what was left half made
            previous_hook(dropped)

    previous_hook = sys.unraisablehook
    defaults: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
    if sigterm:
        defaults[signal.SIGTERM] = signal.SIG_DFL
    taken = {number: default for number, default in defaults.items() if signal.getsignal(number) is default}
    try:
        for number in taken:
            signal.signal(number, handle)
        sys.unraisablehook = on_dropped
        yield has_come
    finally:
        sys.unraisablehook = previous_hook
        if come_again is not None:
            come_again.cancel()
        for number, default in taken.items():
            signal.signal(number, default)
            _put_off = False
