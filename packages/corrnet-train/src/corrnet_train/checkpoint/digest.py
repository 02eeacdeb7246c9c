"""Digests of files, by which damage is noticed that leaves a file readable: a flipped bit loads as another number.

The SHA-256 of a file is its own end, which torch does not read.
"""

import hashlib
import os
from pathlib import Path

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


def stated_digest(path: Path) -> str | None:
    """Return the digest that a file says it has, without comparing; None when it has none."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LENGTH))
        mark, digest = file.read(len(_MARK)), file.read()
    return digest.decode("ascii", "replace") if mark == _MARK and len(digest) == 64 else None


def check_digest(path: Path) -> str | None:
    """Read a file and compare what is in it with its digest.

    Returns:
        The digest as 64 hex digits; None when the file has none, as what others have saved with torch.

    Raises:
        InputError: They differ, or it is a file of torch whose end is missing.
    """
    stated = stated_digest(path)
    if stated is None:
        if _is_cut(path):
            raise InputError(f"it is damaged: the end of {path.name} is missing")
        return None
    found = hashlib.sha256()
    left = path.stat().st_size - _LENGTH
    with path.open("rb") as file:
        while block := file.read(min(left, _BLOCK)):
            found.update(block)
            left -= len(block)
    if found.hexdigest() != stated:
        raise InputError(f"it is damaged: the content of {path.name} does not match its digest")
    return stated


def _is_cut(path: Path) -> bool:
    """Whether a file begins as a zip archive, which files of torch are, and does not end as one."""
    with path.open("rb") as file:
        begin = file.read(4)
        file.seek(max(0, path.stat().st_size - 22))
        return begin == b"PK\3\4" and file.read(4) != b"PK\5\6"
