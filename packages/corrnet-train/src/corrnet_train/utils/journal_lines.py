"""Lines of files to which a process appends until it is done or killed: JSON values, in journals with a checksum."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

from corrnet_train.utils.errors import InputError
from video_data.utils.files import check_file

T = TypeVar("T")


def sealed_line(value: Any) -> str:
    """Return a line of JSON with a value and its checksum."""
    return json.dumps([_checksum(value), value]) + "\n"


def unsealed(line: bytes) -> Any:
    """Return the value of a line of `sealed_line`.

    Raises:
        ValueError: It is not as it was written.
    """
    checksum, value = json.loads(line.decode())
    if checksum != _checksum(value):
        raise ValueError("its checksum does not fit")
    return value


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a file, without a last one that a kill has cut off; none where there is nothing.

    Raises:
        InputError: It is something else than a file.
    """
    check_file(path)
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def parsed_lines(
    lines: Sequence[bytes], parse: Callable[[bytes], T], *, path: Path, remedy: str, first: int = 1
) -> list[T]:
    """Return what lines hold.

    Args:
        lines: Lines in a row of a file.
        parse: Returns what one of them holds.
        path: The file.
        remedy: What to do about a damaged line.
        first: Number of the first line, from 1.

    Raises:
        InputError: `parse` failed; the message names file, line and remedy.
    """
    parsed = []
    for number, line in enumerate(lines, first):
        try:
            parsed.append(parse(line))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise InputError(f"line {number} of {path} is damaged ({error}): {remedy}") from None
    return parsed


def _checksum(value: Any) -> int:
    return crc32(json.dumps(value).encode())
