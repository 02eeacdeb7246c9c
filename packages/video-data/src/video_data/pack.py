"""Packing videos into shards: WebDataset tars, an index beside each, one manifest."""

import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self

import av
from webdataset.writer import TarWriter

from video_data.encode import check_encoder, reencode_video
from video_data.files import atomic_file, write_atomic
from video_data.flow import check_flow, flow_video
from video_data.manifest import (
    FLOW_SUFFIX,
    MANIFEST_NAME,
    SPLITS,
    DroppedEntry,
    FlowRecord,
    Manifest,
    PackOptions,
    SampleRecord,
    ShardEntry,
    ShardIndex,
    Split,
    SplitSummary,
    model_bytes,
    to_runs,
)
from video_data.order import permutation
from video_data.pool import map_in_order
from video_data.probe import MAX_BYTES, VIDEO_SUFFIXES, VideoError, VideoInfo, describe, probe_video
from video_data.sources import Entry, Listing, list_csv, list_folder

_TAR_BLOCK = 512
_SHARD_FILE = re.compile(r"(train|val|test)-[0-9]{6}\.(tar|json)")
_MAX_NAME = 48  # characters of the original name that a key keeps


@dataclass(frozen=True)
class PackReport:
    """What packing did.

    Attributes:
        num_packed: videos in the shards.
        dropped: source and reason of each video that was left out.
        manifest: path of the manifest.
    """

    num_packed: int
    dropped: list[tuple[str, str]]
    manifest: Path


@dataclass(frozen=True)
class _Packed:
    """A video ready for a shard."""

    content: bytes
    suffix: str
    info: VideoInfo
    flow: tuple[bytes, VideoInfo] | None


def pack_folder(
    src: str | Path, dest: str | Path, *, options: PackOptions | None = None, progress: bool = True
) -> PackReport:
    """Packs a folder of videos, `src/<class>/<video>` or `src/<split>/<class>/<video>`, into shards.

    The second form is taken when every folder in `src` is named train, val, valid, validation or test;
    otherwise all videos belong to the split train. Videos that cannot be read are listed in the manifest with
    the reason. The same videos and options give byte-identical shards, whatever the number of workers.

    Args:
        src: folder of videos.
        dest: folder for the shards; it is made when it does not exist.
        options: how to pack; None means the defaults.
        progress: whether to show a progress bar on standard error.

    Raises:
        ValueError: there are no readable videos or only one class, `dest` holds a finished set and
            `options.overwrite` is off, or this FFmpeg cannot encode H.264.
        ImportError: `options.flow` is on and OpenCV is missing.
        OSError: writing failed. No file is left half-written under its final name.
    """
    return _pack(list_folder(Path(src)), Path(dest), options or PackOptions(), progress)


def pack_csv(
    csv_path: str | Path,
    dest: str | Path,
    *,
    root: str | Path | None = None,
    options: PackOptions | None = None,
    progress: bool = True,
) -> PackReport:
    """Packs the videos that a csv with the header `path,label[,split]` lists into shards.

    Args:
        csv_path: UTF-8, comma separated; other columns are ignored. Without `split` all videos belong to
            train.
        dest: folder for the shards; it is made when it does not exist.
        root: folder to which relative paths refer; None means the folder of the csv.
        options: how to pack; None means the defaults.
        progress: whether to show a progress bar on standard error.

    Raises:
        ValueError: the csv has no column path or label or a wrong row, or as in `pack_folder`.
        OSError: writing failed. No file is left half-written under its final name.
    """
    listing = list_csv(Path(csv_path), None if root is None else Path(root))
    return _pack(listing, Path(dest), options or PackOptions(), progress)


def _pack(listing: Listing, dest: Path, options: PackOptions, progress: bool) -> PackReport:
    if (dest / MANIFEST_NAME).exists() and not options.overwrite:
        raise ValueError(f"{dest} holds a finished shard set; choose another folder or set overwrite")
    if options.mode == "reencode":
        check_encoder()
    if options.flow:
        check_encoder()
        check_flow()
    dest.mkdir(parents=True, exist_ok=True)
    (dest / MANIFEST_NAME).unlink(missing_ok=True)  # from here on the folder is no finished set

    classes = listing.classes or tuple(sorted({entry.label for entry in listing.entries}))
    dropped = [_dropped(entry, reason) for entry, reason in listing.dropped]
    entries = _shuffled(listing.entries, options.seed)
    results = map_in_order(
        partial(_load, options=options),
        entries,
        num_workers=options.num_workers,
        title="pack",
        progress=progress,
    )
    with closing(results), _ShardWriter(dest, classes, options) as writer:
        for entry, result in zip(entries, results, strict=True):
            if isinstance(result, str):
                dropped.append(_dropped(entry, result))
            else:
                writer.add(entry, result)
    if not writer.shards:
        first = dropped[0]
        raise ValueError(f"none of {len(dropped)} videos could be read; {first.source}: {first.reason}")

    manifest = Manifest(
        classes=classes,
        splits=writer.summaries(),
        shards=tuple(writer.shards),
        dropped=tuple(sorted(dropped, key=lambda entry: (entry.split, entry.source, entry.reason))),
        options=options,
        tool={"av": av.__version__, "ffmpeg": str(av.ffmpeg_version_info)},
    )
    kept = {f"{shard.name}.{suffix}" for shard in writer.shards for suffix in ("tar", "json")}
    for file in dest.iterdir():
        if _SHARD_FILE.fullmatch(file.name) and file.name not in kept:
            file.unlink()  # of an earlier, larger set in this folder
    write_atomic(dest / MANIFEST_NAME, model_bytes(manifest, indent=1))
    reasons = [(entry.source, entry.reason) for entry in manifest.dropped]
    return PackReport(sum(shard.num_samples for shard in writer.shards), reasons, dest / MANIFEST_NAME)


def _dropped(entry: Entry, reason: str) -> DroppedEntry:
    return DroppedEntry(source=entry.source, split=entry.split, label=entry.label, reason=reason)


def _shuffled(entries: Iterable[Entry], seed: int) -> list[Entry]:
    """Entries by split, mixed within each so that every shard holds many classes."""
    result: list[Entry] = []
    for split in SPLITS:
        members = sorted((entry for entry in entries if entry.split == split), key=lambda entry: entry.source)
        result += [members[i] for i in permutation(len(members), seed)]
    return result


def _load(entry: Entry, options: PackOptions) -> _Packed | str:
    """Reads or re-encodes a video and indexes its frames; a text is the reason why that failed."""
    try:
        size = entry.path.stat().st_size
        if size == 0:
            return "empty file"
        if options.mode == "reencode":
            content = reencode_video(
                entry.path, short_side=options.short_side, gop=options.gop, crf=options.crf
            )
            suffix = "mp4"
        else:
            suffix = entry.path.suffix[1:].lower()
            if suffix not in VIDEO_SUFFIXES:
                return f"unknown ending {suffix!r}; mode reencode takes it"
            if size > MAX_BYTES:
                return f"{size} bytes, allowed are {MAX_BYTES}; mode reencode takes it"
            content = entry.path.read_bytes()
        if len(content) > MAX_BYTES:
            return f"{len(content)} bytes after encoding, allowed are {MAX_BYTES}"
        info = probe_video(content)
        return _Packed(content, suffix, info, _load_flow(content, options) if options.flow else None)
    except (VideoError, OSError) as error:
        return str(error) if isinstance(error, VideoError) else describe(error)


def _load_flow(content: bytes, options: PackOptions) -> tuple[bytes, VideoInfo]:
    """The flow of a packed video and the index of its frames."""
    flow = flow_video(content, gop=options.gop)
    return flow, probe_video(flow)


def sample_key(source: str) -> str:
    """A name for a sample, of letters, digits, `-` and `_`, that a hash of the path makes unique."""
    stem = source.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    readable = re.sub(r"[^0-9A-Za-z_]+", "-", stem).strip("-")[:_MAX_NAME]
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    return f"{readable}-{digest}" if readable else digest


class _HashingFile:
    """Passes writes on to a file and keeps their hash and number of bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self._file.write(data)


class _ShardWriter:
    """Writes samples into consecutive shards; a full shard or another split begins a new one.

    As a context manager it finishes the last shard, or removes what is unfinished after an exception.
    """

    def __init__(self, dest: Path, classes: tuple[str, ...], options: PackOptions) -> None:
        self.shards: list[ShardEntry] = []
        self._dest = dest
        self._labels = {name: label for label, name in enumerate(classes)}
        self._options = options
        self._counts: dict[Split, dict[str, int]] = {split: dict.fromkeys(classes, 0) for split in SPLITS}
        self._keys: set[tuple[str, str]] = set()
        self._samples: list[SampleRecord] = []
        self._split: Split = "train"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        if exception[0] is None:
            self._close_shard()
        else:
            self._stack.__exit__(*exception)

    def add(self, entry: Entry, packed: _Packed) -> None:
        """Appends one sample."""
        if self._samples and (entry.split != self._split or self._is_full()):
            self._close_shard()
        if not self._samples:
            self._open_shard(entry.split)
        key = sample_key(entry.source)
        assert (entry.split, key) not in self._keys, f"two videos have the key {key}"
        self._keys.add((entry.split, key))
        label = self._labels[entry.label]
        metadata = json.dumps({"class": entry.label, "label": label, "source": entry.source}).encode()
        members = {packed.suffix: packed.content, "json": metadata}
        if packed.flow is not None:
            members[FLOW_SUFFIX] = packed.flow[0]
        self._tar.write({"__key__": key, **members})
        offsets = {}
        for suffix in sorted(members):  # as the writer does
            offsets[suffix] = self._end + _TAR_BLOCK
            self._end += _tar_bytes(members[suffix])
        self._samples.append(_record(key, label, entry.source, offsets, packed))
        self._counts[entry.split][entry.label] += 1

    def summaries(self) -> dict[Split, SplitSummary]:
        """Counts of the splits that have samples."""
        return {
            split: SplitSummary(num_samples=sum(counts.values()), per_class=counts)
            for split, counts in self._counts.items()
            if any(counts.values())
        }

    def _is_full(self) -> bool:
        return len(self._samples) >= self._options.shard_size or self._end >= self._options.max_shard_bytes

    def _open_shard(self, split: Split) -> None:
        number = sum(shard.split == split for shard in self.shards)
        self._split, self._name, self._end = split, f"{split}-{number:06d}", 0
        self._file = _HashingFile(self._stack.enter_context(atomic_file(self._dest / f"{self._name}.tar")))
        self._tar = TarWriter(self._file, encoder=False, mtime=0, user="root", group="root")

    def _close_shard(self) -> None:
        if not self._samples:
            return
        self._tar.close()
        self._stack.close()
        index = model_bytes(ShardIndex(samples=tuple(self._samples)))
        write_atomic(self._dest / f"{self._name}.json", index)
        self.shards.append(
            ShardEntry(
                name=self._name,
                split=self._split,
                num_samples=len(self._samples),
                size=self._file.size,
                sha256=self._file.sha256.hexdigest(),
                index_sha256=hashlib.sha256(index).hexdigest(),
            )
        )
        self._samples = []


def _tar_bytes(content: bytes) -> int:
    """Bytes that a member with this content takes in a tar: a header block and padded content."""
    return _TAR_BLOCK + -(-len(content) // _TAR_BLOCK) * _TAR_BLOCK


def _record(key: str, label: int, source: str, offsets: dict[str, int], packed: _Packed) -> SampleRecord:
    info = packed.info
    return SampleRecord(
        key=key,
        suffix=packed.suffix,
        offset=offsets[packed.suffix],
        size=len(packed.content),
        sha256=hashlib.sha256(packed.content).hexdigest(),
        source=source,
        label=label,
        format=info.format,
        codec=info.codec,
        width=info.width,
        height=info.height,
        rotation=info.rotation,
        time_base=(info.time_base.numerator, info.time_base.denominator),
        num_frames=info.num_frames,
        pts=to_runs(info.pts),
        keyframes=to_runs(info.keyframes),
        flow=None if packed.flow is None else _flow_record(*packed.flow, offsets[FLOW_SUFFIX]),
    )


def _flow_record(content: bytes, info: VideoInfo, offset: int) -> FlowRecord:
    return FlowRecord(
        offset=offset,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        time_base=(info.time_base.numerator, info.time_base.denominator),
        pts=to_runs(info.pts),
        keyframes=to_runs(info.keyframes),
    )
