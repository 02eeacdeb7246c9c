"""A lock on a folder in which one process at a time may work, on one machine or on several that share storage.

Among the processes of a machine it is a lock of the system, which is free as soon as its owner ends, however that
happens. Storage that machines share may have no such locks, or keep those of a machine that has failed. So the owner
also writes who it is into a file and touches that while it lives. Other machines watch the file: while it is touched,
the owner lives; when it is not for some time, they take over. No clocks are compared.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corrnet_train.utils.errors import InputError, WorkError
from corrnet_train.utils.files import write_text

BEAT = 5.0
"""Seconds between two touches."""
SILENCE = 30.0
"""Seconds without a touch after which an owner on another machine counts as gone."""
_LOCK, _OWNER = ".lock", ".owner"
_UNNAMED = 2.0  # seconds for an owner to write who it is
_POLL = 0.2


@contextmanager
def only_user(
    folder: Path,
    does: str,
    *,
    instead: str,
    patience: float = 0.0,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Callable[[], None]]:
    """Keep other processes, of this machine or another, from working in a folder in the same way.

    Args:
        folder: A folder that is there.
        does: What the process does there, for messages: "trains".
        instead: The setting that gives another folder, for messages.
        patience: Seconds that an owner which lives is given to end.
        say: Told what is waited for, in a line.

    Yields:
        A function that raises `WorkError` when another process has taken over because this one gave no sign of life.

    Raises:
        InputError: Another process works there; the message says which one, where, and since when.
    """
    path, own = folder / _OWNER, json.dumps(_self())
    with ExitStack() as stack:
        if not _is_free(path, patience, stack, lambda owner: say(_waiting(owner, does, folder))):
            raise InputError(
                f"another process {does} in {folder}, {_named(_read(path)[0])}: wait for it, stop it, or choose "
                f"another {instead}"
            )
        write_text(path, own)
        done = threading.Event()
        beats = threading.Thread(target=_touch, args=(path, own, done), name="lock", daemon=True)
        beats.start()

        def check() -> None:
            found = _read(path)[0]
            if found not in ("", own):
                raise WorkError(
                    f"another process {does} in {folder}, {_named(found)}; it took over as this one gave no sign of "
                    "life, so this one stops"
                )

        try:
            yield check
        finally:
            done.set()
            beats.join()
            if _read(path)[0] == own:
                path.unlink(missing_ok=True)
                path.with_name(_LOCK).unlink(missing_ok=True)


def _is_free(path: Path, patience: float, stack: ExitStack, on_wait: Callable[[str], None]) -> bool:
    """Wait until nobody works in the folder; the system's lock goes onto the stack where it can be had."""
    from video_data.utils.files import locked  # not above: it takes torch along

    start = since = time.monotonic()
    held, before = False, None
    while True:
        if not held:
            with contextlib.suppress(BlockingIOError):
                stack.enter_context(locked(path.with_name(_LOCK), wait=False))
                held = True
        seen, now = _read(path), time.monotonic()
        owner = _parsed(seen[0])
        if owner is None or owner["machine"] == _machine():
            lives = not held or (owner is not None and _runs(owner))
            if not lives:
                return True
        else:
            lives = before not in (None, seen)
            if seen != before:
                since = now
            if now - since >= SILENCE:
                return True
            if before is None:
                on_wait(seen[0])
        if lives and now - start >= max(patience, _UNNAMED if owner is None else 0):
            return False
        before = seen
        time.sleep(_POLL)


def _touch(path: Path, own: str, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with contextlib.suppress(OSError):  # storage that is away for a moment
            if _read(path)[0] == own:
                os.utime(path)


def _read(path: Path) -> tuple[str, int]:
    """Return what the owner wrote and when it last touched the file; nothing when there is none."""
    try:
        with path.open(encoding="utf-8") as file:  # opening makes a network file system look again
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return "", 0


def _self() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "start": _start_of(os.getpid()),
        "since": datetime.now(UTC).isoformat(sep=" ", timespec="seconds"),
    }


def _machine() -> str:
    """Return what tells this machine from others, and from itself before it was started again."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
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


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(text)) if text else None
    except ValueError:
        return None


def _named(text: str) -> str:
    """Return how messages call an owner."""
    owner = _parsed(text)
    if owner is None:
        return "which has not said its name yet"
    return f"process {owner['pid']} on {owner['host']} since {owner['since']}"


def _waiting(text: str, does: str, folder: Path) -> str:
    return f"{_named(text)} was the last one that {does} in {folder}: waiting up to {SILENCE:g} s for a sign of life"
