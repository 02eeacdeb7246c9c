"""Reading WebDataset tars of unknown origin, member by member, without trusting any of them.

Nothing is extracted and nothing is unpickled: only regular members with plain names and known endings are handed out,
as bytes. All others are counted by reason.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from video_data.media.limits import MAX_BYTES, VIDEO_SUFFIXES
from video_data.shards.format import FLOW_SUFFIX
from video_data.utils.error_budget import ErrorBudget
from video_data.utils.files import check_file

METADATA_SUFFIXES = frozenset(("cls", "json", "txt"))
MAX_METADATA_BYTES = 1 << 20
_VIDEO_ENDINGS = VIDEO_SUFFIXES | {FLOW_SUFFIX}
_BLOCK = tarfile.BLOCKSIZE
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)

Sample = dict[str, str | bytes]


def tar_samples(path: str | Path, budget: ErrorBudget) -> Iterator[Sample]:
    """Return the samples of a local WebDataset tar.

    Members of a sample follow each other and have one key: the name up to its first dot.

    Args:
        path: The tar; never a URL or a command.
        budget: Counts the members that are refused, and a tar that is damaged or ends early.

    Yields:
        `__key__`, `__url__`, and the content of each member by its ending.

    Raises:
        InputError: It is no file, but a named pipe or a folder.
        OSError: The file cannot be opened.
        WorkError: The budget is passed.
    """
    check_file(path)
    with Path(path).open("rb") as file:
        yield from read_samples(file, str(path), budget)


def read_samples(file: BinaryIO, name: str, budget: ErrorBudget) -> Iterator[Sample]:
    """As `tar_samples`, from an open file that can seek; `name` stands for it in messages."""
    sample: Sample = {}
    for member, content in _members(file, name, budget):
        suffix = _suffix(member)
        key = member[: -len(suffix) - 1]
        if key != sample.get("__key__"):
            if sample:
                yield sample
            sample = {"__key__": key, "__url__": name}
        sample[suffix] = content
    if sample:
        yield sample


def _members(file: BinaryIO, tar: str, budget: ErrorBudget) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the members that are allowed."""
    end = file.seek(0, 2)
    file.seek(0)
    seen: set[str] = set()
    extended = False
    while True:
        try:
            info = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "replace")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            return
        except (tarfile.HeaderError, ValueError):
            budget.add(tar, "a tar is damaged or ends early", f"{tar}: no header at byte {file.tell()}")
            return
        start = file.tell()
        if not 0 <= info.size <= end - start:
            budget.add(
                tar, "a tar is damaged or ends early", f"{tar}: {info.name!r} declares {info.size} bytes"
            )
            return
        if info.type in _EXTENDED:
            extended = extended or _names_next(info, file)
        else:
            name = info.name.removeprefix("./")
            reason = "name in an extended header" if extended else _refusal(info, name, seen)
            extended = False
            if reason:
                budget.add(f"{tar}: {info.name}", reason, f"{reason} ({info.size} bytes)")
            else:
                seen.add(name)
                yield name, file.read(info.size)
        file.seek(start + -(-info.size // _BLOCK) * _BLOCK)


def _suffix(name: str) -> str:
    """Return the ending of a member: what follows the last dot, or the two parts of the ending of flow."""
    return FLOW_SUFFIX if name.endswith(f".{FLOW_SUFFIX}") else name.rpartition(".")[2]


def _names_next(info: tarfile.TarInfo, file: BinaryIO) -> bool:
    """Whether an extended header says more of the next member than times and owners."""
    if info.type not in (tarfile.XHDTYPE, tarfile.XGLTYPE) or info.size > MAX_METADATA_BYTES:
        return True
    content = file.read(info.size)
    return any(field in content for field in (b" path=", b" linkpath=", b" size=", b" GNU.sparse"))


def _refusal(info: tarfile.TarInfo, name: str, seen: set[str]) -> str | None:
    """Why a member is refused."""
    path = PurePosixPath(name)
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        return "not a regular file"
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name:
        return "name outside of the tar"
    suffix = _suffix(name)
    if path.name.startswith(".") or name.count(".") - suffix.count(".") != 1:
        return "not one dot in the name"
    if suffix not in _VIDEO_ENDINGS | METADATA_SUFFIXES:
        return "ending that is not allowed"
    if info.size > (MAX_BYTES if suffix in _VIDEO_ENDINGS else MAX_METADATA_BYTES):
        return "too many bytes"
    if name in seen:
        return "two members with one name"
    return None
