"""Files that are written whole or not at all, and a lock on a folder."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corrnet_train.utils.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    from video_data.utils.files import write_atomic  # not above: it takes torch along

    write_atomic(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; numbers that JSON lacks, infinite ones, as their names."""
    write_text(path, json.dumps(_named(value), indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def only_user(folder: Path) -> Iterator[None]:
    """Keeps other processes of this machine from using a folder in the same way; it is free again when this one ends.

    Raises:
        ValueError: another process uses it.
    """
    from video_data.utils.files import locked

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / ".lock", wait=False))
        except BlockingIOError:
            raise InputError(
                f"another process trains in {folder}: wait for it, or choose another run.dir"
            ) from None
        yield


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    return [_named(item) for item in value] if isinstance(value, (list, tuple)) else value
