"""A lock on a folder or a file, on which one process at a time may work, on one machine or several that share storage.

Among the processes of a machine it is a lock of the system, which is free as soon as its owner ends, however that
happens. Storage that machines share may have no such locks, or keep those of a machine that has failed. So the owner
also writes who it is into a file and touches that while it lives. Other machines watch the file: while it is touched,
the owner lives; when it is not for some time, they take over. No clocks are compared.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from corrnet_train.utils.errors import InputError, WorkError
from corrnet_train.utils.files import write_text
from video_data.utils.files import check_file, locked

BEAT = 5.0
"""Seconds between two touches."""
SILENCE = 30.0
"""Seconds without a touch after which an owner on another machine counts as gone."""
_log = logging.getLogger(__name__)

_LOCK, _OWNER = ".lock", ".owner"
_UNNAMED = 2.0  # seconds for an owner to write who it is
_POLL = 0.2
_SETTLES = 0.5  # seconds after which the file of one of several new owners stays


@contextmanager
def only_user(
    path: Path,
    does: str,
    *,
    instead: str,
    patience: float = 0.0,
    say: Callable[[str], None] = _log.warning,
) -> Iterator[Callable[[], None]]:
    """Keep other processes, of this machine or another, from working in a folder, or on a file, in the same way.

    Args:
        path: A folder that is there, or a file, there or not, in one that is.
        does: What the process does there, for messages: "trains in".
        instead: The setting that gives another path, for messages.
        patience: Seconds that an owner which lives is given to end.
        say: Told what is waited for, in a line.

    Yields:
        A function that raises `WorkError` when another process has taken over because this one gave no sign of life.

    Raises:
        InputError: Another process works there; the message says which one, where, and since when.
    """
    owner_path = _beside(path, _OWNER)
    lock_path, own = _beside(path, _LOCK), json.dumps(_self())
    with ExitStack() as stack:
        if not _enter(
            owner_path, lock_path, own, patience, stack, lambda text: say(_waiting(text, does, path))
        ):
            raise InputError(
                f"another process {does} {path}, {_named(_read(owner_path))}: wait for it, stop it, or choose "
                f"another {instead}"
            )
        done = threading.Event()
        beats = threading.Thread(target=_touch, args=(owner_path, own, done), name="lock", daemon=True)
        beats.start()

        def check() -> None:
            found = _read(owner_path)
            if found is not None and found.text != own:
                raise WorkError(
                    f"another process {does} {path}, {_named(found)}; it took over as this one gave no sign of "
                    "life, so this one stops"
                )

        try:
            yield check
        finally:
            done.set()
            beats.join()
            found = _read(owner_path)
            if found is not None and found.text == own:
                owner_path.unlink(missing_ok=True)
                lock_path.unlink(missing_ok=True)


class _Seen(NamedTuple):
    """An owner's file: what it wrote, and when it last touched the file, in nanoseconds."""

    text: str
    touched: int


class _Watch:
    """Tells an owner on another machine that lives from one that is gone, by its touches."""

    def __init__(self) -> None:
        self._seen: _Seen | None = None
        self._since = 0.0

    def lives(self, seen: _Seen) -> bool | None:
        """Whether the owner lives: it does when anything has changed; None while that is not known yet."""
        now, before = time.monotonic(), self._seen
        if seen != before:
            self._seen, self._since = seen, now
            return None if before is None else True
        return None if now - self._since < SILENCE else False


def _enter(
    path: Path,
    lock_path: Path,
    own: str,
    patience: float,
    stack: ExitStack,
    on_wait: Callable[[_Seen], None],
) -> bool:
    """Become the owner once nobody is; return False where one lives on for longer than `patience` seconds.

    The system's lock goes onto the stack where it can be had.
    """
    start, watch = time.monotonic(), None
    held = False
    while True:
        held = held or _lock(lock_path, stack)
        seen = _read(path)
        owner = _parsed(seen)
        lives: bool | None
        if seen is None:
            lives = not held
        elif owner is not None and owner["machine"] == _machine():
            lives = not held or _runs(owner)
        else:
            if watch is None:
                watch = _Watch()
                on_wait(seen)
            lives = watch.lives(seen)
        if lives is False and _write_owner(path, own, seen):
            return True
        if lives is not None and time.monotonic() - start >= max(patience, _UNNAMED if owner is None else 0):
            return False
        time.sleep(_POLL)


def _lock(path: Path, stack: ExitStack) -> bool:
    """Take the system's lock onto the stack; return whether it was free, as it is where there are no such locks."""
    with contextlib.suppress(BlockingIOError):
        stack.enter_context(locked(path, wait=False))
        return True
    return False


def _write_owner(path: Path, own: str, before: _Seen | None) -> bool:
    """Write who the owner is in place of one that is gone; return False where another process was faster."""
    if before is None:
        return _create(path, own)
    write_text(path, own)
    time.sleep(_SETTLES)  # another machine may replace it in the same moment
    found = _read(path)
    return found is not None and found.text == own


def _create(path: Path, own: str) -> bool:
    """Make the owner's file; return False where there is one."""
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(own)
    except OSError:  # a full disk
        path.unlink()
        raise
    return True


def _touch(path: Path, own: str, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with contextlib.suppress(OSError):  # storage that is away for a moment
            found = _read(path)
            if found is None:  # somebody removed it
                _create(path, own)
            elif found.text == own:
                os.utime(path)


def _read(path: Path) -> _Seen | None:
    """Return what is in an owner's file; None where there is nothing."""
    check_file(path)
    try:
        with path.open(
            encoding="utf-8", errors="replace"
        ) as file:  # opening makes a network file system look again
            return _Seen(file.read(), os.fstat(file.fileno()).st_mtime_ns)
    except OSError:
        return None


def _beside(path: Path, ending: str) -> Path:
    """Return the path of a lock or of an owner's file: in a folder, or beside a file."""
    return path / ending if path.is_dir() else path.with_name(f".{path.name}{ending}")


def _self() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "start": _start_of(os.getpid()),
        "since": datetime.now(UTC).isoformat(sep=" ", timespec="seconds"),
    }


def _machine() -> str:
    """Return what tells this machine from others, and from itself before it was started again.

    Containers of one machine that number their processes apart count as several.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return socket.gethostname()


def _start_of(pid: int) -> str | None:
    """Return when a process of this machine was started, in ticks since the machine was; None where none runs."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else fields[18]


def _runs(owner: dict[str, Any]) -> bool:
    """Whether an owner on this machine lives, for storage without locks."""
    return owner["start"] is not None and _start_of(owner["pid"]) == owner["start"]


def _parsed(seen: _Seen | None) -> dict[str, Any] | None:
    """Return what an owner wrote; None where it has not yet, or something else has."""
    try:
        owner = json.loads(seen.text) if seen else None
    except ValueError:
        return None
    return owner if isinstance(owner, dict) and owner.keys() >= _self().keys() else None


def _named(seen: _Seen | None) -> str:
    """Return how messages call an owner."""
    owner = _parsed(seen)
    if owner is None:
        return "which has not said its name yet"
    return f"process {owner['pid']} on {owner['host']} since {owner['since']}"


def _waiting(seen: _Seen, does: str, path: Path) -> str:
    owner = "a process without a name" if _parsed(seen) is None else _named(seen)
    return f"{owner} was the last one that {does} {path}: waiting up to {SILENCE:g} s for a sign of life"
