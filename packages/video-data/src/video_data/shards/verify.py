"""Checking a shard set on disk or behind a URL: every file and sample is hashed again, every video decoded again."""

import hashlib
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict

from video_data.media.container import VideoInfo, probe_video
from video_data.media.limits import VideoError
from video_data.shards._remote import RemoteFiles, is_url
from video_data.shards.format import (
    FLOW_SUFFIX,
    SPLITS,
    FlowRecord,
    Manifest,
    SampleRecord,
    ShardEntry,
    ShardIndex,
    Task,
    load_index,
    load_manifest,
)
from video_data.shards.reader import LocalFiles
from video_data.utils.errors import InputError, describe
from video_data.utils.pool import map_in_order

_SAMPLES_PER_TASK = 16  # small enough for a steady progress bar, large enough to read an index once for many
_CHUNK = 1 << 20
_SHARD_FILE = re.compile(rf"({'|'.join(SPLITS)})-[0-9]{{6}}(-[0-9]{{2,}})?\.(tar|json)")


class Problem(BaseModel):
    """Something in a shard set that is not as it was packed.

    Attributes:
        file: Name of the file.
        key: Key of the sample; empty when the whole file is meant.
        source: Path of the sample's original, as it was packed.
        reason: What is wrong, in the same words for everything of which it is true.
        message: What is wrong, with the details.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    key: str = ""
    source: str = ""
    reason: str
    message: str


class VerifyReport(BaseModel):
    """What checking a shard set found.

    Attributes:
        manifest_hash: SHA-256 of the manifest; it identifies the set.
        decoded: Whether videos were decoded.
        num_shards: Shards in the manifest.
        num_samples: Samples in the manifest.
        num_checked: Samples whose bytes were read and hashed.
        num_frames: Frames that were decoded.
        problems: What is wrong, by file and sample; empty when all is as it was packed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest_hash: str
    decoded: bool
    num_shards: int
    num_samples: int
    num_checked: int
    num_frames: int
    problems: tuple[Problem, ...]


def verify_shards(
    path: str | Path,
    *,
    decode: bool = True,
    num_workers: int = 1,
    progress: bool = True,
    cache: str | Path | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> VerifyReport:
    """Check that a shard set is, to the last byte and frame, what its manifest and indexes say.

    Every tar and index is hashed again and compared with the manifest, every sample with its index, and every
    video is decoded to its end: container, codec, size, times of all frames and keyframes must be those of the
    index. Keys must be unique and the counts of classes those of the manifest. Nothing is changed.

    Args:
        path: The folder, or its URL as for `open_shards`. Tars behind a URL are fetched anew, one for each worker at
            a time; those that are in a cache already are not trusted.
        decode: Whether to decode; without, hashes alone are compared, which takes little more than reading.
        num_workers: Processes.
        progress: Whether to show a progress bar on standard error.
        cache: For URLs, folder for the tar that is being checked; None means `video-data` in the user's cache folder.
        storage_options: For URLs, as for `open_shards`.

    Raises:
        ValueError: There is no manifest, or it cannot be read.
        ImportError: A package for this kind of URL is missing.
        WorkError: A worker process died.
    """
    files: LocalFiles | RemoteFiles
    if is_url(path):
        files = RemoteFiles(str(path), Path(cache) if cache else None, 1 << 62, storage_options)
        manifest, manifest_hash = files.load_manifest()
    else:
        if not Path(path).is_dir():
            raise InputError(f"no folder of shards at {path}")
        files = LocalFiles(Path(path))
        manifest, manifest_hash = load_manifest(Path(path))
    checked = _check_all(files, manifest, decode, num_workers, progress)
    problems = [*checked.problems, *_set_problems(manifest, checked)]
    if isinstance(files, LocalFiles):
        problems += _unlisted_files(Path(path), manifest)
    return VerifyReport(
        manifest_hash=manifest_hash,
        decoded=decode,
        num_shards=len(manifest.shards),
        num_samples=sum(shard.num_samples for shard in manifest.shards),
        num_checked=checked.num_checked,
        num_frames=checked.num_frames,
        problems=tuple(dict.fromkeys(problems)),  # parts of a shard that cannot be opened all say so
    )


@dataclass(frozen=True)
class _Task:
    """Samples of one shard; the first part of a shard hashes its files too."""

    shard: ShardEntry
    samples: range


@dataclass
class _Checked:
    """What was found in samples."""

    problems: list[Problem] = field(default_factory=list)
    num_checked: int = 0
    num_frames: int = 0
    keys: list[tuple[str, str, str]] = field(default_factory=list)  # split, key, file
    labels: Counter[tuple[str, int]] = field(default_factory=Counter)

    def add(self, other: "_Checked") -> None:
        self.problems += other.problems
        self.num_checked += other.num_checked
        self.num_frames += other.num_frames
        self.keys += other.keys
        self.labels += other.labels


def _check_all(
    files: LocalFiles | RemoteFiles, manifest: Manifest, decode: bool, num_workers: int, progress: bool
) -> _Checked:
    check = partial(
        _check, files=files, num_classes=len(manifest.classes), target=manifest.task, decode=decode
    )
    tasks = [
        _Task(shard, range(first, min(first + size, shard.num_samples)))
        for shard in manifest.shards
        # A shard behind a URL is fetched once.
        for size in (shard.num_samples if isinstance(files, RemoteFiles) else _SAMPLES_PER_TASK,)
        for first in range(0, shard.num_samples, size)
    ]
    results = map_in_order(
        check,
        tasks,
        num_workers=num_workers,
        title="verify",
        progress=progress,
        weights=[len(task.samples) for task in tasks],
    )
    checked = _Checked()
    with closing(results):
        for result in results:
            checked.add(result)
    return checked


def _check(
    task: _Task, *, files: LocalFiles | RemoteFiles, num_classes: int, target: Task, decode: bool
) -> _Checked:
    """Check the files and samples of a task."""
    found = _Checked()
    shard, first_part = task.shard, task.samples.start == 0
    index = _check_index(files, shard, num_classes, target, found)
    tar_name = f"{shard.name}.tar"
    try:
        tar = _open(files, shard, "tar")
    except OSError as error:
        found.problems.append(_unopened(tar_name, error, shard.num_samples))
        return found
    with tar:
        if first_part:
            found.problems += _file_problems(tar, tar_name, shard.size, shard.sha256)
        for number in task.samples if index else ():
            assert index is not None
            record = index.samples[number]
            found.keys.append((shard.split, record.key, tar_name))
            found.labels.update((shard.split, label) for label in record.labels(target))
            found.num_checked += 1
            try:
                problems, num_frames = _check_sample(tar, record, decode)
            except OSError as error:  # a bad block of a disk, for example
                problems, num_frames = [("file cannot be read", describe(error))], 0
            found.num_frames += num_frames
            found.problems += [
                Problem(file=tar_name, key=record.key, source=record.shown, reason=reason, message=message)
                for reason, message in problems
            ]
    return found


def _check_index(
    files: LocalFiles | RemoteFiles, shard: ShardEntry, num_classes: int, target: Task, found: _Checked
) -> ShardIndex | None:
    """Return the index of a shard, or None when its samples cannot be checked."""
    name = f"{shard.name}.json"
    unchecked = f"its {shard.num_samples} samples were not checked one by one"
    try:
        with _open(files, shard, "json") as file:
            content = file.read()
    except OSError as error:
        found.problems.append(_unopened(name, error, shard.num_samples))
        return None
    if hashlib.sha256(content).hexdigest() != shard.index_sha256:
        message = f"the hash is not the one in the manifest; {unchecked}"
        found.problems.append(
            Problem(file=name, reason="hash is not the one in the manifest", message=message)
        )
        return None
    try:
        return load_index(
            Path(name),
            content,
            num_samples=shard.num_samples,
            num_classes=num_classes,
            task=target,
            tar_size=shard.size,
        )
    except ValueError as error:
        found.problems.append(Problem(file=name, reason="an index is wrong", message=f"{error}; {unchecked}"))
        return None


def _open(files: LocalFiles | RemoteFiles, shard: ShardEntry, suffix: str) -> BinaryIO:
    if isinstance(files, RemoteFiles):
        return files.open_anew(shard, suffix)
    return os.fdopen(files.open(shard, suffix), "rb")


def _unopened(name: str, error: OSError, num_samples: int) -> Problem:
    message = f"{describe(error)}; {num_samples} samples were not checked"
    missing = isinstance(error, FileNotFoundError)
    return Problem(file=name, reason="file is missing" if missing else "file cannot be read", message=message)


def _file_problems(file: BinaryIO, name: str, size: int, digest: str) -> Iterator[Problem]:
    """Compare the size and hash of a whole file with the manifest."""
    sha256, found = hashlib.sha256(), 0
    try:
        file.seek(0)
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            found += len(chunk)
    except OSError as error:
        message = f"{describe(error)} after {found} bytes"
        yield Problem(file=name, reason="file cannot be read", message=message)
        return
    if found != size:
        message = f"{found} bytes, the manifest says {size}"
        yield Problem(file=name, reason="size is not the one in the manifest", message=message)
    elif sha256.hexdigest() != digest:
        reason = "hash is not the one in the manifest"
        yield Problem(file=name, reason=reason, message=f"the {reason}")


def _check_sample(tar: BinaryIO, record: SampleRecord, decode: bool) -> tuple[list[tuple[str, str]], int]:
    """Reasons and messages for what is wrong with a sample, and how many frames were decoded."""
    name = f"{record.key}.{record.suffix}"
    problems, num_frames = _check_member(tar, name, record, decode, record.video_info)
    if record.flow is not None:
        name = f"{record.key}.{FLOW_SUFFIX}"
        found, flow_frames = _check_member(tar, name, record.flow, decode, record.flow_info)
        problems += [(reason, f"flow: {message}") for reason, message in found]
        num_frames += flow_frames
    return problems, num_frames


def _check_member(
    tar: BinaryIO,
    name: str,
    record: SampleRecord | FlowRecord,
    decode: bool,
    expected: Callable[[], VideoInfo],
) -> tuple[list[tuple[str, str]], int]:
    """As `_check_sample`, of one video of the sample."""
    problems = []
    if _member_before(tar, record.offset) != (name, record.size):
        message = f"the tar has no member {name} of {record.size} bytes where the index says"
        problems.append(("member is not where the index says", message))
    tar.seek(record.offset)
    content = tar.read(record.size)
    if len(content) != record.size:
        problems.append(("tar ends early", f"{len(content)} of {record.size} bytes are there"))
        return problems, 0
    if hashlib.sha256(content).hexdigest() != record.sha256:
        reason = "hash is not the one in the index"
        problems.append((reason, f"the {reason}"))
    if not decode:
        return problems, 0
    try:
        wanted = expected()
        info = probe_video(content, stream=wanted.stream)
        differences = _differences(info, wanted)
    except VideoError as error:
        return [*problems, (f"does not decode: {error.reason}", f"does not decode: {error}")], 0
    except ValueError as error:  # runs that make no times
        return [*problems, ("an index is wrong", str(error))], 0
    if differences:
        problems.append(("video is not what the index says", "; ".join(differences)))
    return problems, info.num_frames


def _member_before(tar: BinaryIO, offset: int) -> tuple[str, int] | None:
    """Name and size in the header that ends at `offset`."""
    tar.seek(max(0, offset - tarfile.BLOCKSIZE))
    try:
        header = tarfile.TarInfo.frombuf(tar.read(tarfile.BLOCKSIZE), "utf-8", "replace")
    except (tarfile.HeaderError, ValueError):
        return None
    return header.name, header.size


def _differences(found: VideoInfo, expected: VideoInfo) -> list[str]:
    """In words, how a decoded video differs from its index."""
    named = [
        ("container", found.format, expected.format),
        ("codec", found.codec, expected.codec),
        ("size", f"{found.width}x{found.height}", f"{expected.width}x{expected.height}"),
        ("rotation", found.display.rotation, expected.display.rotation),
        ("mirroring", found.display.mirror, expected.display.mirror),
        ("pixel aspect", found.display.pixel_aspect, expected.display.pixel_aspect),
        ("time base", found.time_base, expected.time_base),
        ("number of frames", found.num_frames, expected.num_frames),
    ]
    differences = [f"{name} {got}, the index says {wanted}" for name, got, wanted in named if got != wanted]
    if found.num_frames == expected.num_frames:
        wrong = int((found.pts != expected.pts).sum())
        if wrong:
            differences.append(f"{wrong} of {found.num_frames} frames have other times than in the index")
    if found.keyframes.tolist() != expected.keyframes.tolist():
        differences.append("other keyframes than in the index")
    return differences


def _set_problems(manifest: Manifest, checked: _Checked) -> Iterator[Problem]:
    """Return what no sample alone shows: keys that are there twice, and counts that differ from the manifest."""
    first: dict[tuple[str, str], str] = {}
    for split, key, file in checked.keys:
        if (split, key) in first:
            message = f"{first[split, key]} has a sample with this key too"
            yield Problem(file=file, key=key, reason="two samples with one key", message=message)
        first.setdefault((split, key), file)
    for split, summary in manifest.splits.items():
        found = {name: checked.labels[split, label] for label, name in enumerate(manifest.classes)}
        # Where samples could not be looked at, that is reported, and counts cannot agree.
        if sum(found.values()) != summary.num_samples:
            continue
        for name in sorted({*found, *summary.per_class}):
            got, wanted = found.get(name, 0), summary.per_class.get(name, 0)
            if got != wanted:
                message = (
                    f"split {split}, class {name!r}: {got} samples in the indexes, the manifest says {wanted}"
                )
                yield Problem(file="manifest.json", reason="counts differ from the indexes", message=message)


def _unlisted_files(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    """Files that look like shards of the set; readers that take all tars of a folder would read them."""
    listed = {f"{shard.name}.{suffix}" for shard in manifest.shards for suffix in ("tar", "json")}
    for path in sorted(folder.iterdir()):
        if _SHARD_FILE.fullmatch(path.name) and path.name not in listed:
            reason = "file is not in the manifest"
            yield Problem(file=path.name, reason=reason, message=f"the {reason}")
