"""Shards behind a URL: whole files are fetched through fsspec into a bounded cache on disk and verified.

Files in the cache are named by the SHA-256 of their content, so processes and sets share them, and what is there
was right when it came. A file is fetched once by all processes of a machine that share the cache.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from video_data.shards.format import MANIFEST_NAME, Manifest, ShardEntry, load_manifest
from video_data.utils.errors import InputError, MissingPackageError, RemoteError, describe
from video_data.utils.files import locked, temporary_name, write_atomic

DEFAULT_CACHE_BYTES = 64 << 30
_CHUNK = 1 << 20
_ATTEMPTS = 3
_MOST_EVICTIONS = 10
_MAX_METADATA = 1 << 30  # bytes of a manifest or an index


class RemoteFiles:
    """The files of a shard set behind a URL.

    Args:
        url: the folder, for example `s3://bucket/shards` or `https://host/shards`.
        cache: folder for fetched files; None means `video-data` in the user's cache folder.
        cache_bytes: size to which the cache is kept by removing the files that were used longest ago; files that are
            being fetched come on top.
        storage_options: arguments for fsspec's file system, for example keys or an endpoint.
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
        """Fetch and check the manifest.

        Raises:
            ValueError: it is missing or wrong, or a file that it lists is larger than the cache.
            ImportError: a package for this kind of URL is missing.
        """
        url = f"{self._url}/{MANIFEST_NAME}"
        try:
            with self._open_remote(url) as file:
                content = file.read(_MAX_METADATA)
        except (FileNotFoundError, RemoteError) as error:
            raise InputError(f"no finished shard set at {self._url}: {describe(error)}") from error
        folder = self._cache / "manifests" / hashlib.sha256(content).hexdigest()
        write_atomic(folder / MANIFEST_NAME, content)
        manifest, manifest_hash = load_manifest(folder)
        largest = max((shard.size for shard in manifest.shards), default=0)
        if largest > self._cache_bytes:
            raise InputError(
                f"cache_bytes must be at least the largest shard, {largest}, got {self._cache_bytes}"
            )
        return manifest, manifest_hash

    def open(self, shard: ShardEntry, suffix: str) -> int:
        """A descriptor of the tar or the index of a shard; the file is fetched when it is not in the cache.

        Raises:
            OSError: the file cannot be fetched, or does not have the size or hash in the manifest.
        """
        digest = shard.sha256 if suffix == "tar" else shard.index_sha256
        path = self._cache / digest
        for _ in range(_MOST_EVICTIONS):  # another process may remove the file between fetching and opening
            with self._locked(digest):
                size = _size(path)
                if not size or (suffix == "tar" and size != shard.size):
                    limit = shard.size if suffix == "tar" else _MAX_METADATA
                    self._fetch(f"{self._url}/{shard.name}.{suffix}", path, digest, limit)
                try:
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
            os.utime(descriptor)
            return descriptor
        raise RemoteError(
            f"{path.name} vanished from the cache: cache_bytes is too small for the processes here"
        )

    def open_anew(self, shard: ShardEntry, suffix: str) -> BinaryIO:
        """The tar or the index of a shard as it is behind the URL now, whatever its hash; the cache is passed over.

        A tar that is longer than the manifest says is cut one byte behind that.

        Raises:
            OSError: the file cannot be fetched.
        """
        left = shard.size + 1 if suffix == "tar" else _MAX_METADATA
        for attempt in range(_ATTEMPTS):
            # Without a name: nothing stays when this process is killed.
            file = tempfile.TemporaryFile(dir=self._cache)  # noqa: SIM115
            try:
                with self._open_remote(f"{self._url}/{shard.name}.{suffix}") as source:
                    while chunk := source.read(min(_CHUNK, left - file.tell())):
                        file.write(chunk)
                file.seek(0)
                return cast(BinaryIO, file)
            except BaseException as error:
                file.close()
                if not isinstance(error, OSError) or attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.2 * 4**attempt)
        raise AssertionError("unreachable")

    def _fetch(self, url: str, path: Path, digest: str, limit: int) -> None:
        """Fetch a file that may have at most `limit` bytes; what is more is not read."""
        temporary = temporary_name(path)  # not written atomically: a flush of so many bytes takes long
        for attempt in range(_ATTEMPTS):
            try:
                sha256, size = hashlib.sha256(), 0
                with self._open_remote(url) as source, temporary.open("wb") as target:
                    while size <= limit and (chunk := source.read(_CHUNK)):
                        target.write(chunk)
                        sha256.update(chunk)
                        size += len(chunk)
                if sha256.hexdigest() != digest:
                    raise RemoteError(f"{url}: {size} bytes without the hash in the manifest")
                self._make_room(size)
                temporary.replace(path)
                return
            except OSError:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.2 * 4**attempt)
            finally:
                temporary.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Remove the files that were used longest ago until `size` more bytes fit."""
        with self._locked("eviction"):
            entries = []
            for path in self._cache.iterdir():
                if path.name.startswith(".") or not path.is_file():
                    continue
                with suppress(FileNotFoundError):  # removed by hand, for example
                    stat = path.stat()
                    entries.append((stat.st_mtime, stat.st_size, path))
            total = sum(entry[1] for entry in entries)
            for _, entry_size, path in sorted(entries):
                if total + size <= self._cache_bytes:
                    return
                path.unlink(missing_ok=True)
                total -= entry_size

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold a lock among all processes that share the cache."""
        folder = self._cache / "locks"
        folder.mkdir(exist_ok=True)
        with locked(folder / name, wait=True):
            yield

    @contextmanager
    def _open_remote(self, url: str) -> Iterator[BinaryIO]:
        import fsspec

        try:
            with fsspec.open(url, "rb", **self._storage_options) as file:
                yield file
        except ImportError as error:
            extra = "s3" if url.startswith("s3:") else "remote"
            raise MissingPackageError(
                f"{error}; for s3:// and http:// there is: pip install 'video-data[{extra}]'"
            ) from error
        except OSError:
            raise
        except Exception as error:  # file systems raise errors of their own kinds
            raise RemoteError(f"{url}: {describe(error)}") from error


def _size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL and not a local one."""
    return isinstance(path, str) and "://" in path


def default_cache() -> Path:
    """`video-data` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "video-data"
