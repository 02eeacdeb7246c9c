"""Files that are written whole or not at all, and a lock on a folder."""

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its name when the block ends without an error.

    The content is flushed to disk before it is renamed. On an error (a full disk, an interrupt) the temporary
    file is removed and whatever stood under `path` before is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; numbers that JSON lacks, infinite ones, as their names."""
    write_text(path, json.dumps(_named(value), indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def only_user(folder: Path) -> Iterator[None]:
    """Keeps other processes of this machine from using a folder in the same way; it is free again when this one ends.

    Raises:
        ValueError: another process uses it.
    """
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ValueError(
                f"another process trains in {folder}: wait for it, or choose another run.dir"
            ) from None
        except OSError:
            pass  # storage without locks
        yield


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    return [_named(item) for item in value] if isinstance(value, (list, tuple)) else value
