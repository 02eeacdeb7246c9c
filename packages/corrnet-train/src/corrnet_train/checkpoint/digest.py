"""Digests of files, by which damage is noticed that leaves a file readable: a flipped bit loads as another number.

The SHA-256 of a file is its own end, which torch does not read.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch

from corrnet_train.utils.errors import InputError

_MARK = b"\ncorrnet-sha256:"
_LENGTH = len(_MARK) + 64
_BLOCK = 1 << 20


def seal(path: Path) -> None:
    """Add to a file the digest of what is in it, and wait until it is on disk."""
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.write(_MARK + digest.encode())
        file.flush()
        os.fsync(file.fileno())


def stated_digest(file: BinaryIO) -> str | None:
    """Return the digest that a file says it has, without comparing; None when it has none."""
    file.seek(max(0, _size(file) - _LENGTH))
    mark, digest = file.read(len(_MARK)), file.read()
    return digest.decode("ascii", "replace") if mark == _MARK and len(digest) == 64 else None


def check_digest(file: BinaryIO) -> str | None:
    """Read an open file and compare what is in it with its digest; leave it at its beginning.

    Who reads on in the same open file reads what was compared, whatever has the name by then.

    Returns:
        The digest as 64 hex digits; None when the file has none, as what others have saved with torch.

    Raises:
        InputError: They differ, or it is a file of torch whose end is missing.
    """
    name, stated = Path(file.name).name, stated_digest(file)
    if stated is None:
        if _is_cut(file):
            raise InputError(f"it is damaged: the end of {name} is missing")
        return None
    found = hashlib.sha256()
    left = _size(file) - _LENGTH
    file.seek(0)
    while block := file.read(min(left, _BLOCK)):
        found.update(block)
        left -= len(block)
    if found.hexdigest() != stated:
        raise InputError(f"it is damaged: the content of {name} does not match its digest")
    file.seek(0)
    return stated


def load_checked(path: Path) -> Any:
    """Read a file of torch onto the CPU, without running code from it, after comparing it with its digest.

    Raises:
        InputError: They differ, or its end is missing.
        Exception: It is no file of torch; there are many ways.
    """
    with path.open("rb") as file:
        check_digest(file)
        return torch.load(file, map_location="cpu", weights_only=True)


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _is_cut(file: BinaryIO) -> bool:
    """Whether a file begins as a zip archive, which files of torch are, and does not end as one."""
    file.seek(max(0, _size(file) - 22))
    end = file.read(4)
    file.seek(0)
    begin = file.read(4)
    file.seek(0)
    return begin == b"PK\3\4" and end != b"PK\5\6"
