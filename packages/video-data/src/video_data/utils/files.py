"""Files that appear under their final name only when they are complete, and locks on files."""

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from video_data.utils.errors import InputError, WorkError

_STORAGE_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_OF_TORCH = ("PytorchStreamWriter failed", "inline_container.cc", "iostream error")

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_locks: set[IO[bytes]] = set()  # files that this process has locked


def what_instead_of_file(path: str | Path) -> str | None:
    """Return what is at a path in place of a file, in words; None where there is a file or nothing.

    A program that opens a named pipe, a socket or a device waits for what may never come.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no file")


def check_file(path: str | Path) -> None:
    """Check, before it is opened, that what is at a path is a file.

    Raises:
        InputError: It is something else; where there is nothing, opening it says so.
    """
    if what := what_instead_of_file(path):
        raise InputError(f"{path} is {what}, and a file is wanted")


def display_text(path: str | os.PathLike[str]) -> str:
    """Return a path as one line of text that everything takes.

    Bytes that are no UTF-8 and control characters, as line breaks, are escapes in it, and a backslash is two.
    """
    text = os.fspath(path).replace("\\", "\\\\") if os.sep == "/" else Path(path).as_posix()
    text = os.fsencode(text).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, whose file takes the name `path` when the block ends without an exception.

    The content is on disk before the rename. After an exception, as on a full disk, the temporary file is removed and
    what stood under `path` is as it was. The folder is made when it does not exist. Who may read the file is for the
    umask to say, also where the library that writes it lets nobody else, as safetensors does.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with naming(path):
            temporary.touch()
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if stat.S_IMODE(temporary.stat().st_mode) != mode:
                temporary.chmod(mode)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Enter a block that writes a file: where the storage fails, as a full disk does, an `OSError` names the file.

    The system names no file when writing fails, torch and safetensors say it in classes of their own, and torch at
    times without the reason.
    """
    try:
        yield
    except Exception as error:
        number = _errno_of(error, path)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _errno_of(error: BaseException | None, path: Path) -> int | None:
    """Return the number of the fault of the storage that an error stands for; None where it stands for another."""
    of_torch = False
    while error is not None and not isinstance(error, InputError | WorkError):
        if isinstance(error, OSError) and error.errno in _STORAGE_FAULTS:
            is_of_another = error.filename is not None and path.name not in str(error.filename)
            return None if is_of_another else error.errno
        if found := re.search(r"\(os error (\d+)\)", str(error)):  # of safetensors, which is written in Rust
            return int(found[1])
        of_torch |= isinstance(error, RuntimeError) and any(text in str(error) for text in _OF_TORCH)
        error = error.__cause__ or error.__context__
    if not of_torch:
        return None
    return errno.ENOSPC if shutil.disk_usage(path.parent).free < 1 << 20 else errno.EIO


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing as `atomic_path` names it."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader sees all of it or nothing."""
    with atomic_file(path) as file:
        file.write(content)


def temporary_name(path: Path) -> Path:
    """Return a hidden name beside `path`; random, since machines that share a folder have equal process numbers."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextmanager
def locked(path: Path, *, wait: bool, shared: bool = False) -> Iterator[bool]:
    """Hold a lock on a file, which is made when it does not exist, among all threads and processes of this machine.

    It is free when the block ends or this process does, however it ends and whatever processes it leaves behind. On
    storage and systems without such locks the block runs without one.

    Args:
        path: The file; what is in it stays. Who holds the lock may remove it.
        wait: Whether to wait until the lock is free.
        shared: Whether others may hold it too that share it.

    Yields:
        Whether the lock is held; False where there are no locks.

    Raises:
        BlockingIOError: It is not free, and `wait` is False.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    # A lock by `lockf` would not keep threads apart, and closing any other descriptor of the file would end it.
    while True:
        with path.open("ab") as file:
            _locks.add(file)
            is_held = False
            try:
                fcntl.flock(
                    file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
                )
                is_held = True
            except (BlockingIOError, PermissionError):  # systems differ in how they say it
                _locks.remove(file)
                raise BlockingIOError(f"{path} is locked by another process") from None
            except OSError:
                pass  # storage without locks
            if not _is_at(file, path):  # the last owner has removed it
                _locks.discard(file)
                continue
            try:
                yield is_held
                return
            finally:
                _locks.discard(file)


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file still has the name by which it was opened."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _leave_locks() -> None:
    """Close the locks in a forked process, which would hold them when its parent is killed."""
    while _locks:
        _locks.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks)
