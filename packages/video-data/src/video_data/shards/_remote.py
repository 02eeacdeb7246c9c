"""Shards behind a URL: whole files are fetched through fsspec into a bounded cache on disk and verified.

Files in the cache are named by the SHA-256 of their content, so processes and sets share them. What is there was right
when it came; what is found damaged later is fetched again. A file is fetched once by all processes of a machine that
share the cache.
"""

import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from video_data.shards.format import MANIFEST_NAME, Manifest, ShardEntry, parse_manifest
from video_data.utils.errors import InputError, RemoteError
from video_data.utils.files import locked, temporary_name
from video_data.utils.messages import hide_secrets
from video_data.utils.remote import MAY_PASS, Source, fetch, fetch_bytes

DEFAULT_CACHE_BYTES = 64 << 30
_CHUNK = 1 << 20
_MOST_EVICTIONS = 10
_MAX_METADATA = 1 << 30  # bytes of a manifest or an index
_LEFT_ALONE = (
    6 * 3600.0
)  # seconds without a byte after which a temporary file is left over, where no lock tells
_FETCHED = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]{8}\.tmp")

_log = logging.getLogger(__name__)


class RemoteFiles:
    """The files of a shard set behind a URL.

    Args:
        url: The folder, for example `s3://bucket/shards` or `https://host/shards`.
        cache: Folder for fetched files; None means `video-data` in the user's cache folder.
        cache_bytes: Size to which the cache is kept by removing the files that were used longest ago; files that are
            being fetched come on top.
        storage_options: Arguments for fsspec's file system, for example keys or an endpoint.
    """

    def __init__(
        self, url: str, cache: Path | None, cache_bytes: int, storage_options: Mapping[str, Any] | None
    ) -> None:
        self._url = url.rstrip("/")
        self._cache = cache or default_cache()
        self._cache_bytes = cache_bytes
        self._storage_options = dict(storage_options or {})
        self._cache.mkdir(parents=True, exist_ok=True)

    def load_manifest(self) -> tuple[Manifest, str]:
        """Fetch and check the manifest, and remove what killed fetches left in the cache.

        Raises:
            ValueError: It is missing or wrong, reading it is not allowed, or a file that it lists is larger than the
                cache.
            RemoteError: It cannot be fetched.
            ImportError: A package for this kind of URL is missing.
        """
        url = f"{self._url}/{MANIFEST_NAME}"
        try:
            content = fetch_bytes(url, _MAX_METADATA, storage_options=self._storage_options)
        except FileNotFoundError as error:
            raise InputError(
                hide_secrets(f"no finished shard set at {self._url}: {url} is not there")
            ) from error
        except RemoteError as error:
            if error.status is not None and 400 <= error.status < 500 and error.status not in MAY_PASS:
                raise InputError(str(error)) from error
            raise
        manifest, manifest_hash = parse_manifest(content, hide_secrets(url))
        largest = max((shard.size for shard in manifest.shards), default=0)
        if largest > self._cache_bytes:
            raise InputError(
                f"cache_bytes must be at least the largest shard, {largest}, got {self._cache_bytes}"
            )
        self._make_room()
        return manifest, manifest_hash

    def open(self, shard: ShardEntry, suffix: str, *, check: bool = False) -> int:
        """Return a descriptor of the tar or the index of a shard; the file is fetched when it is not in the cache.

        What is damaged in the cache is fetched again, once. A tar counts as damaged when it has not the size in the
        manifest, and with `check`, as an index always, when it has not the hash.

        Raises:
            OSError: The file cannot be fetched, or does not have the size or hash in the manifest.
        """
        digest = shard.sha256 if suffix == "tar" else shard.index_sha256
        size = shard.size if suffix == "tar" else None
        path, url = self._cache / digest, f"{self._url}/{shard.name}.{suffix}"
        for _ in range(_MOST_EVICTIONS):  # another process may remove the file between fetching and opening
            with self._locked(digest) as is_alone:
                if not _is_intact(path, size, digest if check or suffix != "tar" else None):
                    if path.exists():
                        _log.warning("%s is damaged and is fetched again from %s", path, hide_secrets(url))
                    limit = _MAX_METADATA if size is None else size
                    self._fetch(url, path, digest, limit, is_alone=is_alone)
                try:
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
            os.utime(descriptor, ns=(time.time_ns(),) * 2)  # the system's own clock for it is coarse
            return descriptor
        raise RemoteError(
            f"{path.name} vanished from the cache: cache_bytes is too small for the processes here"
        )

    def open_anew(self, shard: ShardEntry, suffix: str) -> BinaryIO:
        """Return the tar or the index of a shard as it is behind the URL now, past the cache and whatever its hash.

        A tar that is longer than the manifest says is cut one byte behind that.

        Raises:
            OSError: The file cannot be fetched.
        """
        size = shard.size + 1 if suffix == "tar" else _MAX_METADATA
        # Without a name: nothing stays when this process is killed.
        file = cast(BinaryIO, tempfile.TemporaryFile(dir=self._cache))  # noqa: SIM115

        def receive(source: Source) -> None:
            file.seek(0)
            file.truncate()
            while chunk := source.read(min(_CHUNK, size - file.tell())):
                file.write(chunk)
            file.seek(0)

        try:
            url = f"{self._url}/{shard.name}.{suffix}"
            fetch(url, receive, storage_options=self._storage_options)
        except BaseException:
            file.close()
            raise
        return file

    def _fetch(self, url: str, path: Path, digest: str, limit: int, *, is_alone: bool) -> None:
        """Fetch a file that may have at most `limit` bytes; what is more is not read.

        The caller holds the file's lock, which makes it alone with the file, unless the storage has no locks.
        """
        for left in self._cache.glob(f".{path.name}.*.tmp"):
            if is_alone or _is_old(left):  # of a process that was killed
                left.unlink(missing_ok=True)
        temporary = temporary_name(path)  # not written atomically: a flush of so many bytes takes long

        def receive(source: Source) -> None:
            sha256, size = hashlib.sha256(), 0
            with temporary.open("wb") as target:
                while size <= limit and (chunk := source.read(_CHUNK)):
                    target.write(chunk)
                    sha256.update(chunk)
                    size += len(chunk)
            if sha256.hexdigest() != digest:
                raise RemoteError(
                    f"{hide_secrets(url)}: {size} bytes without the hash in the manifest; it is damaged, or of "
                    "another manifest"
                )

        try:
            fetch(url, receive, storage_options=self._storage_options)
            self._make_room(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, fetched: Path | None = None) -> None:
        """Remove what killed fetches left, and the files that were used longest ago until a fetched one fits."""
        size = 0 if fetched is None else fetched.stat().st_size
        with self._locked("eviction"):
            entries = []
            for path in self._cache.iterdir():
                if _TEMPORARY.fullmatch(path.name) and path != fetched and self._is_left_over(path):
                    path.unlink(missing_ok=True)
                if not _FETCHED.fullmatch(path.name):
                    continue  # a file of the user's, or what is being fetched
                with suppress(FileNotFoundError):  # removed by hand, for example
                    stat = path.stat()
                    entries.append((stat.st_mtime, stat.st_size, path))
            total = sum(entry[1] for entry in entries)
            for _, entry_size, path in sorted(entries):
                if total + size <= self._cache_bytes:
                    return
                path.unlink(missing_ok=True)
                total -= entry_size

    def _is_left_over(self, temporary: Path) -> bool:
        """Whether no process writes a temporary file, which would hold the lock of the file that this will be."""
        try:
            with locked(self._cache / "locks" / temporary.name.split(".")[1], wait=False) as is_held:
                return is_held or _is_old(temporary)
        except BlockingIOError:
            return False

    @contextmanager
    def _locked(self, name: str) -> Iterator[bool]:
        """Hold a lock among all processes that share the cache; False where the storage has no locks."""
        folder = self._cache / "locks"
        folder.mkdir(exist_ok=True)
        with locked(folder / name, wait=True) as is_held:
            yield is_held


def _is_old(temporary: Path) -> bool:
    """Whether nothing was written to a temporary file for so long that its process must be gone."""
    try:
        return time.time() - temporary.stat().st_mtime > _LEFT_ALONE
    except FileNotFoundError:
        return False


def _is_intact(path: Path, size: int | None, digest: str | None) -> bool:
    """Whether a file is there with that size and hash; None stands for any."""
    try:
        with path.open("rb") as file:
            if size is not None and os.fstat(file.fileno()).st_size != size:
                return False
            return digest is None or hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:  # it is not there, or a block of the disk cannot be read
        return False


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL and not a local one."""
    return isinstance(path, str) and "://" in path


def default_cache() -> Path:
    """`video-data` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "video-data"
