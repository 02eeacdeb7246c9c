"""Ctrl-C and SIGTERM end a command alike, are never lost, and leave nothing half made.

FFmpeg reads a file through Python functions, and an exception in one of them is printed and forgotten. So it is in
callbacks of C code while a module is imported, and while compiled Cython notes for a traceback where it raised. A
loader that is interrupted while it starts its workers cannot end them. A signal that arrives in one of these raises
nothing until it is over.
"""

import _thread
import importlib
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

_COME_AGAIN = 0.05  # seconds after which an interrupt comes again that was put off, or that Python dropped

_IMPORT: CodeType = importlib._bootstrap._find_and_load.__code__  # type: ignore[attr-defined]
# Cython evaluates this expression to get a frame, where it is built for several versions of Python, as PyAV is. It
# drops what is raised there, and goes on with the exception that it had.
_NOTES_TRACEBACK = ("_getframe",)
_not_interrupted: set[CodeType] = set()
_put_off = False  # a signal has come that is yet to raise KeyboardInterrupt


def not_interrupted(function: F) -> F:
    """Decorate a function in which a signal is put off; its callers call it inside of `put_off_until_end`.

    C code calls it, so that no exception but a plain `Exception` gets out, or it would leave something half made.
    """
    _not_interrupted.add(function.__code__)
    return function


def is_put_off() -> bool:
    """Whether a signal to this thread waits until C code has returned; what C code calls then ends its work."""
    return _put_off and _is_main_thread()


@contextmanager
def put_off_until_end() -> Iterator[None]:
    """Enter a block at the end of which a signal that was put off raises KeyboardInterrupt."""
    global _put_off
    try:
        yield
    finally:
        if is_put_off() and not _is_within(_puts_off, sys._getframe()):
            _put_off = False
            raise KeyboardInterrupt


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _puts_off(code: CodeType) -> bool:
    return code in _not_interrupted or code.co_names == _NOTES_TRACEBACK


def _is_within(is_meant: Callable[[CodeType], bool], frame: FrameType | None) -> bool:
    while frame is not None:
        if is_meant(frame.f_code):
            return True
        frame = frame.f_back
    return False


@contextmanager
def interrupts(*, sigterm: bool = True) -> Iterator[None]:
    """Enter a block in which Ctrl-C and SIGTERM raise KeyboardInterrupt, put off to its end at the latest.

    A second signal is not put off: a read may wait for a storage that is gone. Signals that the caller handles or
    ignores are left to it, as is everything on another thread. Signals within half a second count as one. Where Python
    drops an exception, as in a callback of a weak reference, the KeyboardInterrupt comes again.

    Args:
        sigterm: Whether SIGTERM is meant, too.
    """
    global _put_off
    first: float | None = None
    comes_again = False
    timer: threading.Timer | None = None

    if not _is_main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        global _put_off
        nonlocal first, comes_again
        now = time.monotonic()
        if comes_again:
            comes_again = False
            if not _put_off:  # it has been raised since
                return
        elif first is None:
            first = now
        elif now - first < ONE_SIGNAL:
            return
        else:
            first, frame = now, None  # nowhere is a second one put off
        _put_off = _is_within(lambda code: code is _IMPORT or _puts_off(code), frame)
        if not _put_off:
            raise KeyboardInterrupt
        come_again(signal.Signals(number))

    def come_again(number: signal.Signals) -> None:
        nonlocal timer

        def come() -> None:
            nonlocal comes_again
            comes_again = True
            _thread.interrupt_main(number)

        timer = threading.Timer(_COME_AGAIN, come)
        timer.daemon = True
        timer.start()

    def on_dropped(what: Any) -> None:
        global _put_off
        if issubclass(what.exc_type, KeyboardInterrupt) and taken:
            _put_off = True
            come_again(next(iter(taken)))
        elif first is None:  # afterwards it is of what was left half made
            previous_hook(what)

    previous_hook = sys.unraisablehook
    defaults: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler}
    if sigterm:
        defaults[signal.SIGTERM] = signal.SIG_DFL
    taken = {number: default for number, default in defaults.items() if signal.getsignal(number) is default}
    try:
        for number in taken:
            signal.signal(number, handle)
        sys.unraisablehook = on_dropped
        with put_off_until_end():
            yield
    finally:
        sys.unraisablehook = previous_hook
        if timer is not None:
            timer.cancel()
        for number, default in taken.items():
            signal.signal(number, default)
