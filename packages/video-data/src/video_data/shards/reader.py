"""Reading shard sets: any sample is one positioned read."""

import errno
import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from video_data.media.container import VideoInfo
from video_data.shards._remote import DEFAULT_CACHE_BYTES, RemoteFiles, is_url
from video_data.shards.format import (
    FLOW_SUFFIX,
    FlowRecord,
    Manifest,
    SampleRecord,
    ShardEntry,
    ShardIndex,
    Task,
    load_index,
    load_manifest,
)
from video_data.utils.errors import InputError, describe
from video_data.utils.files import check_file, what_instead_of_file
from video_data.utils.lru import LruCache
from video_data.utils.messages import hide_secrets

_CACHED_INDEXES = 64  # more than the shards that one shuffle window touches
_OPEN_FILES = (
    24  # more than the shards of one window; a removed file takes room in the cache while it is open
)


class ShardError(InputError):
    """A shard cannot be read or changed after it was packed.

    Attributes:
        reason: The message without what differs from sample to sample, to count by.
    """

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or message


class ShardSet:
    """An open shard set. Use `open_shards` to get one; it may be sent to other processes.

    Attributes:
        path: Folder or URL of the set.
        manifest: The parsed manifest.
        manifest_hash: SHA-256 of the manifest file; it identifies the content of the whole set.
    """

    def __init__(
        self,
        path: str | Path,
        files: "LocalFiles | RemoteFiles",
        manifest: Manifest,
        manifest_hash: str,
        *,
        verify: bool,
    ) -> None:
        self.path = path
        self._source = files
        self.manifest = manifest
        self.manifest_hash = manifest_hash
        self._verify = verify
        self._shards: dict[str, list[ShardEntry]] = {split: [] for split in manifest.splits}
        for shard in manifest.shards:
            self._shards[shard.split].append(shard)
        self._first: dict[str, list[int]] = {
            split: [0, *accumulate(shard.num_samples for shard in shards)]
            for split, shards in self._shards.items()
        }
        self._make_caches()

    def _make_caches(self) -> None:
        self._indexes: LruCache[str, ShardIndex] = LruCache(_CACHED_INDEXES)
        self._files: LruCache[str, int] = LruCache(_OPEN_FILES, forget=os.close)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out open files: another process opens its own."""
        return {name: value for name, value in vars(self).items() if name not in ("_files", "_indexes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with no file open."""
        vars(self).update(state)
        self._make_caches()

    def __del__(self) -> None:
        """Close the tars."""
        if hasattr(self, "_files"):
            self._files.clear()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them. In a set for regression the one name of its numbers."""
        return self.manifest.classes

    @property
    def task(self) -> Task:
        """What is to be learned of a sample: its label, all of its labels, or its value."""
        return self.manifest.task

    def label_text(self, sample: SampleRecord) -> str:
        """Return the labels of a sample by name, with `|` between them, or its value."""
        if self.task == "regression":
            return f"{sample.value:g}"
        return "|".join(self.classes[label] for label in sample.labels(self.task))

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have samples."""
        return tuple(self.manifest.splits)

    def num_samples(self, split: str) -> int:
        """Return the number of samples of a split.

        Raises:
            ValueError: There is no such split.
        """
        return self._first_indices(split)[-1]

    def class_sizes(self, split: str) -> list[int]:
        """Return the number of samples of each class in a split, in the order of `classes`.

        Raises:
            ValueError: There is no such split.
        """
        self.num_samples(split)  # refuses an unknown split
        counts = next(summary.per_class for name, summary in self.manifest.splits.items() if name == split)
        return [counts[name] for name in self.classes]

    def shard_sizes(self, split: str) -> list[int]:
        """Return the number of samples of each shard of a split.

        Raises:
            ValueError: There is no such split.
        """
        self._first_indices(split)
        return [shard.num_samples for shard in self._shards[split]]

    def samples(self, split: str) -> Iterator[SampleRecord]:
        """All samples of a split in the order of the shards.

        Raises:
            ValueError: There is no such split.
            ShardError: An index file is damaged.
        """
        for index in range(self.num_samples(split)):
            yield self.sample(split, index)

    def sample(self, split: str, index: int) -> SampleRecord:
        """Return the index entry of sample `index` of a split.

        Raises:
            ValueError: There is no such split or sample.
            ShardError: The index file is damaged.
        """
        shard, local = self._locate(split, index)
        return self._index(shard).samples[local]

    def info(self, split: str, index: int) -> VideoInfo:
        """Return the frame index of sample `index` of a split.

        Raises:
            ValueError: There is no such split or sample.
            ShardError: The index file is damaged, or what it says of the sample is wrong.
        """
        try:
            return self.sample(split, index).video_info()
        except ShardError:
            raise
        except ValueError as error:
            raise ShardError(str(error), reason="an index is wrong") from error

    def read(self, split: str, index: int) -> bytes:
        """Return the bytes of the video of sample `index` of a split.

        Raises:
            ValueError: There is no such split or sample.
            ShardError: The index file is damaged, the tar cannot be read or ends early, or with `verify` the bytes
                do not have the hash of the index.
        """
        shard, local = self._locate(split, index)
        record = self._index(shard).samples[local]
        return self._read_member(shard, record.key, record)

    @property
    def has_flow(self) -> bool:
        """Whether the samples have optical flow."""
        return self.manifest.options.flow

    def flow_info(self, split: str, index: int) -> VideoInfo:
        """Return the frame index of the flow video of sample `index` of a split.

        Raises:
            ValueError: There is no such split or sample.
            ShardError: The index file is damaged, or the sample has no flow.
        """
        try:
            return self.sample(split, index).flow_info()
        except ShardError:
            raise
        except ValueError as error:
            raise ShardError(str(error), reason="an index is wrong") from error

    def read_flow(self, split: str, index: int) -> bytes:
        """Return the bytes of the flow video of sample `index` of a split.

        Raises:
            ValueError: There is no such split or sample.
            ShardError: As for `read`, or the sample has no flow.
        """
        shard, local = self._locate(split, index)
        record = self._index(shard).samples[local]
        if record.flow is None:
            raise ShardError(f"sample {record.key!r} has no optical flow", reason="an index is wrong")
        return self._read_member(shard, f"{record.key}.{FLOW_SUFFIX}", record.flow)

    def _read_member(self, shard: ShardEntry, name: str, member: SampleRecord | FlowRecord) -> bytes:
        try:
            content = self._try_to_read(self._file(shard), shard, name, member)
            if isinstance(content, ShardError) and isinstance(self._source, RemoteFiles):
                # The cache is damaged, or what was fetched is.
                self._files.drop(shard.name)
                checked = self._files.get(shard.name, lambda: self._source.open(shard, "tar", check=True))
                content = self._try_to_read(checked, shard, name, member)
        except OSError as error:
            raise ShardError(
                f"{shard.name}.tar: {describe(error)}", reason="a shard cannot be read"
            ) from error
        if isinstance(content, ShardError):
            raise content
        return content

    def _try_to_read(
        self, file: int, shard: ShardEntry, name: str, member: SampleRecord | FlowRecord
    ) -> bytes | ShardError:
        """Return the bytes of a video, or why these are not they."""
        try:
            content = os.pread(file, member.size, member.offset)
        except (OSError, MemoryError) as error:
            return ShardError(f"{shard.name}.tar: {describe(error)}", reason="a shard cannot be read")
        if len(content) != member.size:
            return ShardError(
                f"{shard.name}.tar: {len(content)} of {member.size} bytes of {name!r}",
                reason="a shard ends early",
            )
        is_checked = self._verify or isinstance(self._source, RemoteFiles)
        if is_checked and hashlib.sha256(content).hexdigest() != member.sha256:
            return ShardError(
                f"{shard.name}.tar: the bytes of {name!r} do not have the hash in the index",
                reason="bytes do not have the hash in the index",
            )
        return content

    def shard_indices(self, name: str) -> range:
        """Return the indices in their split of the samples of a shard.

        Raises:
            ValueError: There is no such shard.
        """
        shard = self._shard(name)
        place = self._shards[shard.split].index(shard)
        return range(*self._first[shard.split][place : place + 2])

    def open_tar(self, name: str) -> BinaryIO:
        """Return the tar of a shard, open for reading from its start.

        Raises:
            ValueError: There is no such shard.
            ShardError: It cannot be opened.
        """
        try:
            return os.fdopen(self._source.open(self._shard(name), "tar", check=True), "rb")
        except OSError as error:
            raise ShardError(f"{name}.tar: {describe(error)}", reason="a shard cannot be read") from error

    def _shard(self, name: str) -> ShardEntry:
        for shard in self.manifest.shards:
            if shard.name == name:
                return shard
        raise InputError(f"no shard {name!r} in {hide_secrets(self.path)}")

    def _first_indices(self, split: str) -> list[int]:
        if split not in self._first:
            raise InputError(
                f"no split {split!r} in {hide_secrets(self.path)}; it has {', '.join(self.splits)}"
            )
        return self._first[split]

    def _locate(self, split: str, index: int) -> tuple[ShardEntry, int]:
        first = self._first_indices(split)
        if not 0 <= index < first[-1]:
            raise InputError(f"sample {index} of split {split!r}: allowed are 0 to {first[-1] - 1}")
        shard = bisect_right(first, index) - 1
        return self._shards[split][shard], index - first[shard]

    def _index(self, shard: ShardEntry) -> ShardIndex:
        return self._indexes.get(shard.name, lambda: self._load_index(shard))

    def _load_index(self, shard: ShardEntry) -> ShardIndex:
        path = Path(f"{shard.name}.json")
        try:
            with os.fdopen(self._source.open(shard, "json"), "rb") as file:
                content = file.read()
        except OSError as error:
            raise ShardError(f"{path}: {describe(error)}", reason="an index cannot be read") from error
        if hashlib.sha256(content).hexdigest() != shard.index_sha256:
            raise ShardError(
                f"{path} does not have the hash in the manifest: pack the videos again",
                reason="an index does not have the hash in the manifest",
            )
        try:
            return load_index(
                path,
                content,
                num_samples=shard.num_samples,
                num_classes=len(self.classes),
                task=self.task,
                tar_size=shard.size,
            )
        except ValueError as error:
            raise ShardError(str(error), reason="an index is wrong") from error

    def _file(self, shard: ShardEntry) -> int:
        return self._files.get(shard.name, lambda: self._source.open(shard, "tar"))


class LocalFiles:
    """The files of a shard set in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load_manifest(self) -> tuple[Manifest, str]:
        """Read the manifest and check that the files that it lists are there.

        Raises:
            ValueError: The manifest is missing or wrong, or a file it lists is missing or has another size.
        """
        if not self._folder.is_dir():
            hint = (
                ": a csv is packed first, with pack_csv (corrnet pack csv)" if self._folder.is_file() else ""
            )
            raise InputError(f"no folder of shards at {self._folder}{hint}")
        manifest, manifest_hash = load_manifest(self._folder)
        for shard in manifest.shards:
            for file in (self._folder / f"{shard.name}.tar", self._folder / f"{shard.name}.json"):
                check_file(file)
                if not file.exists():
                    raise InputError(f"{file} is missing, the manifest lists it")
            size = (self._folder / f"{shard.name}.tar").stat().st_size
            if size != shard.size:
                raise InputError(f"{shard.name}.tar has {size} bytes, the manifest says {shard.size}")
        return manifest, manifest_hash

    def open(self, shard: ShardEntry, suffix: str, *, check: bool = False) -> int:
        """Return a descriptor of the tar or the index of a shard; its content is not checked: there is no other copy.

        Raises:
            OSError: It cannot be opened, or is no file.
        """
        path = self._folder / f"{shard.name}.{suffix}"
        if what := what_instead_of_file(path):
            raise OSError(errno.EINVAL, f"it is {what}, and a file is wanted", str(path))
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def open_shards(
    path: str | Path,
    *,
    verify: bool = False,
    cache: str | Path | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    storage_options: Mapping[str, Any] | None = None,
) -> ShardSet:
    """Open a set of shards that `pack_folder` or `pack_csv` wrote.

    Shards behind a URL are fetched one by one when a sample of theirs is first read, verified with the SHA-256 in
    the manifest and kept in a cache on disk, which all processes of a machine share. Each sample that is read from it
    is verified again, and a file that was damaged meanwhile is fetched once more.

    Args:
        path: The folder, or its URL: `s3://...` (extra `s3`), `http://...` and `https://...` (extra `remote`), and
            what else fsspec has a file system for.
        verify: Whether every read checks the SHA-256 of the video; for URLs it does.
        cache: For URLs, folder of the cache; None means `video-data` in the user's cache folder.
        cache_bytes: For URLs, size to which the cache is kept. It should hold at least the 16 shards among which
            samples are shuffled, for every set that is read.
        storage_options: For URLs, arguments for fsspec's file system, for example keys or an endpoint.

    Raises:
        ValueError: The manifest is missing or wrong, or a file it lists is missing or has another size, or a shard
            is larger than the cache.
        RemoteError: The manifest cannot be fetched.
        ImportError: A package for this kind of URL is missing.
    """
    files: LocalFiles | RemoteFiles
    if is_url(path):
        files = RemoteFiles(str(path), Path(cache) if cache else None, cache_bytes, storage_options)
    else:
        path = Path(path)
        files = LocalFiles(path)
    manifest, manifest_hash = files.load_manifest()
    return ShardSet(path, files, manifest, manifest_hash, verify=verify)
