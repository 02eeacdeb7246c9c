"""Writing samples into tars with an index beside each."""

import hashlib
import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Self

from webdataset.writer import TarWriter

from video_data.datasets import Entry
from video_data.media.container import VideoInfo
from video_data.packing._ingest import Loaded
from video_data.shards.format import (
    FLOW_SUFFIX,
    FlowRecord,
    SampleRecord,
    ShardEntry,
    ShardIndex,
    Split,
    model_bytes,
    to_runs,
)
from video_data.shards.pack_options import PackOptions
from video_data.utils.files import atomic_file, write_atomic

_TAR_BLOCK = 512
_MAX_NAME = 48  # characters of the original name that a key keeps


def sample_key(source: str, span: tuple[float, float] | None = None) -> str:
    """Return a name for a sample, of letters, digits, `-` and `_`, that a hash of path and span makes unique."""
    stem = source.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    readable = re.sub(r"[^0-9A-Za-z_]+", "-", stem).strip("-")[:_MAX_NAME]
    named = source if span is None else f"{source}\0{span[0]!r}\0{span[1]!r}"
    digest = hashlib.sha256(named.encode()).hexdigest()[:16]
    return f"{readable}-{digest}" if readable else digest


class ShardWriter:
    """Writes the samples of one group into `<name>.tar` and, where they are too many bytes, `<name>-01.tar`, ...

    As a context manager it finishes the last shard, or removes what is unfinished after an exception.

    Attributes:
        shards: The finished shards.
    """

    def __init__(
        self, dest: Path, name: str, split: Split, labels: dict[str, int], options: PackOptions
    ) -> None:
        self.shards: list[ShardEntry] = []
        self._dest, self._group, self._split = dest, name, split
        self._labels = labels
        self._options = options
        self._samples: list[SampleRecord] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        if exception[0] is None:
            self._close()
        else:
            if self._samples:
                self._file.is_given_up = True
            self._stack.__exit__(*exception)

    def add(self, entry: Entry, loaded: Loaded) -> None:
        """Append one sample."""
        if self._samples and self._end >= self._options.max_shard_bytes:
            self._close()
        if not self._samples:
            self._open()
        key, label = sample_key(entry.source, entry.span), self._labels[entry.label]
        others = tuple(self._labels[name] for name in entry.other_labels)
        metadata: dict[str, Any] = {"class": entry.label, "label": label, "source": entry.source}
        if others:
            metadata["other_labels"] = others
        if entry.value is not None:
            metadata["value"] = entry.value
        members = {loaded.suffix: loaded.content, "json": json.dumps(metadata).encode()}
        if loaded.flow is not None:
            members[FLOW_SUFFIX] = loaded.flow[0]
        self._tar.write({"__key__": key, **members})
        offsets = {}
        for suffix in sorted(members):  # as the writer does
            offsets[suffix] = self._end + _TAR_BLOCK
            self._end += _tar_bytes(members[suffix])
        info = loaded.info
        record = SampleRecord(
            key=key,
            suffix=loaded.suffix,
            offset=offsets[loaded.suffix],
            size=len(loaded.content),
            sha256=hashlib.sha256(loaded.content).hexdigest(),
            source=entry.source,
            source_sha256=loaded.source_sha256,
            span=entry.span,
            label=label,
            other_labels=others,
            value=entry.value,
            format=info.format,
            codec=info.codec,
            width=info.width,
            height=info.height,
            rotation=info.display.rotation,
            mirror=info.display.mirror,
            pixel_aspect=info.display.pixel_aspect.as_integer_ratio(),
            time_base=(info.time_base.numerator, info.time_base.denominator),
            num_frames=info.num_frames,
            pts=to_runs(info.pts),
            keyframes=to_runs(info.keyframes),
            flow=None if loaded.flow is None else _flow_record(*loaded.flow, offsets[FLOW_SUFFIX]),
            stream=info.stream,
            delivery=info.delivery,
            num_damaged=info.num_damaged,
        )
        self._samples.append(record)

    def _open(self) -> None:
        number = len(self.shards)
        self._name, self._end = f"{self._group}-{number:02d}" if number else self._group, 0
        self._file = _HashingFile(self._stack.enter_context(atomic_file(self._dest / f"{self._name}.tar")))
        self._tar = TarWriter(self._file, encoder=False, mtime=0, user="root", group="root")

    def _close(self) -> None:
        if not self._samples:
            return
        with self._stack:
            self._tar.close()
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


class _HashingFile:
    """Passes writes on to a file and keeps their hash and number of bytes.

    The tar writer writes the end of the tar even when it is forgotten unfinished; a file that is given up takes that
    in silence.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.is_given_up = False
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return len(data) if self.is_given_up else self._file.write(data)


def _tar_bytes(content: bytes) -> int:
    """Bytes that a member with this content takes in a tar: a header block and padded content."""
    return _TAR_BLOCK + -(-len(content) // _TAR_BLOCK) * _TAR_BLOCK


def _flow_record(content: bytes, info: VideoInfo, offset: int) -> FlowRecord:
    return FlowRecord(
        offset=offset,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        time_base=(info.time_base.numerator, info.time_base.denominator),
        pts=to_runs(info.pts),
        keyframes=to_runs(info.keyframes),
    )
