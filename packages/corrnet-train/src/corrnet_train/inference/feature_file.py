"""Files of features and their index, written row by row, so that a killed extraction continues where it was."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from corrnet_train.utils.errors import InputError, WorkError
from corrnet_train.utils.files import check_output, write_text
from corrnet_train.utils.journal_lines import parsed_lines, sealed_line, unsealed, whole_lines
from corrnet_train.utils.lock import only_user
from video_data.utils.files import atomic_path, check_file, naming, write_atomic
from video_data.utils.settings import changed_settings

T = TypeVar("T")
Rows = NDArray[np.float32]
_SUFFIXES = (".npz", ".safetensors")
_COLUMNS = ["row", "video", "key", "class", "clip", "frame", "seconds", "error"]


@dataclass(frozen=True)
class VideoRecord:
    """What the index says of one video.

    Attributes:
        video: Its path or URL; of a packed one the path it was packed from.
        key: Its key in the shards; empty for files.
        class_name: Its class; empty for files.
        starts: First frame of each clip and its time in seconds from the first frame of the video.
        error: Why it could not be read; empty when it could.
    """

    video: str
    key: str
    class_name: str
    starts: Sequence[tuple[int, float]]
    error: str


def check_path(path: Path, *, overwrite: bool, inputs: Sequence[str | Path] = ()) -> None:
    """Refuse a file that cannot be written, or whose index cannot.

    Raises:
        ValueError: Its ending is unknown, or it is there and is not to be replaced.
    """
    check_output(path, overwrite=overwrite, inputs=inputs, endings=_SUFFIXES)
    for begun in (_records_of(path), _rows_of(path)):
        check_file(begun)
    if not _records_of(path).exists():  # else the index is of what goes on
        check_output(path.with_suffix(".csv"), overwrite=overwrite, inputs=inputs)


def _records_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.jsonl")


def _rows_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


class FeatureFile:
    """A file of features [rows, features] with an index beside it, `<name>.csv`.

    Until `finish` the rows lie in `<file>.part` and what is known of the videos in `<file>.part.jsonl`, a line for the
    settings and one for each video, with the checksum of its rows. Both are appended to, rows first, so after a kill
    they are cut to the last whole video, and to those before the first whose rows are damaged.

    Args:
        path: The file to write.
        settings: What the features depend on; it is stored with them.
        num_features: Values of a row.
        per_clip: Whether each clip has a row, or each video.
        overwrite: Whether what was begun with other settings is thrown away.

    Attributes:
        path: The file to write.
        index_path: The index.
        num_videos: Videos that are done.

    Raises:
        ValueError: It was begun with other settings, the first of which is named, a line for a video is damaged, or
            another process is writing it.
    """

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        *,
        num_features: int,
        per_clip: bool,
        overwrite: bool = False,
    ) -> None:
        self.path = path
        self.index_path = path.with_suffix(".csv")
        self._settings = json.loads(json.dumps(settings))
        self._num_features = num_features
        self._per_clip = per_clip
        self._rows_path = _rows_of(path)
        self._records_path = _records_of(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            lock = only_user(path, "writes", instead="output")
            self._check_owner = files.enter_context(lock)
            self._rows = files.enter_context(self._rows_path.open("ab"))
            self._recover(overwrite)
            self._records = files.enter_context(self._records_path.open("a", encoding="utf-8"))
            self._files = files.pop_all()

    def add(self, record: VideoRecord, rows: Rows) -> None:
        """Add the next video.

        Args:
            record: What the index says of it.
            rows: Its features [clips or 1, features]; [0, features] when it could not be read.
        """
        assert rows.dtype == np.float32 and rows.shape == (self._num_rows(record), self._num_features)
        self._check_owner()
        content = rows.tobytes()
        with naming(self.path):
            self._rows.write(content)
            self._rows.flush()
            self._records.write(sealed_line({"rows": crc32(content), **asdict(record)}))
            self._records.flush()
        self.num_videos += 1

    def finish(self) -> tuple[int, list[VideoRecord]]:
        """Write features and index, each at once or not at all, and remove what they were made from.

        Returns:
            The number of rows, and the videos that could not be read.

        Raises:
            WorkError: No video could be read.
        """
        self._check_owner()
        records = [record for record, _ in self._videos(whole_lines(self._records_path))]
        num_rows = sum(map(self._num_rows, records))
        unreadable = [record for record in records if record.error]
        if num_rows:
            rows: Rows = np.memmap(self._rows_path, np.float32, "r", shape=(num_rows, self._num_features))
            write_text(self.index_path, self._index(records))
            self._write(rows)
        self._rows_path.unlink()
        self._records_path.unlink()
        self.close()
        if not num_rows:
            raise WorkError(
                f"none of {len(records)} videos can be read; {unreadable[0].video}: {unreadable[0].error}"
            )
        return num_rows, unreadable

    def close(self) -> None:
        """Close the files and give up the lock; another object goes on with them."""
        with naming(self.path):
            self._files.close()

    def _num_rows(self, record: VideoRecord) -> int:
        if record.error:
            return 0
        return len(record.starts) if self._per_clip else 1

    def _videos(self, lines: Sequence[bytes]) -> list[tuple[VideoRecord, int]]:
        """Return the record of each video and the checksum of its rows."""
        return self._parsed(lines[1:], _video, first=2)

    def _parsed(self, lines: Sequence[bytes], parse: Callable[[bytes], T], *, first: int) -> list[T]:
        remedy = "remove the file to begin anew"
        return parsed_lines(lines, parse, path=self._records_path, remedy=remedy, first=first)

    def _recover(self, overwrite: bool) -> None:
        """Cut both files to the videos that both have whole."""
        lines = whole_lines(self._records_path)
        if not lines or self._differs(lines, overwrite):
            lines = [sealed_line(self._settings).encode().rstrip()]
        self.num_videos = num_bytes = 0
        with self._rows_path.open("rb") as rows:
            for record, checksum in self._videos(lines):
                content = rows.read(4 * self._num_features * self._num_rows(record))
                if crc32(content) != checksum:
                    break
                self.num_videos += 1
                num_bytes += len(content)
        write_atomic(self._records_path, b"".join(line + b"\n" for line in lines[: 1 + self.num_videos]))
        self._rows.truncate(num_bytes)

    def _differs(self, lines: Sequence[bytes], overwrite: bool) -> bool:
        """Whether the file was begun with other settings and is to be begun anew."""
        (before,) = self._parsed(lines[:1], lambda line: dict(unsealed(line)), first=1)
        for name, (old, new) in changed_settings(before, self._settings, names=self._settings).items():
            if not overwrite:
                raise InputError(
                    f"{self._rows_path} was begun with {name} {old}, now it is {new}; "
                    "go on with the same settings, or --overwrite begins anew"
                )
            return True
        return False

    def _write(self, rows: Rows) -> None:
        metadata = json.dumps(self._settings)
        with atomic_path(self.path) as temporary:
            if self.path.suffix == ".npz":
                with temporary.open("wb") as file:
                    np.savez(file, features=rows, metadata=np.array(metadata))
            else:
                from safetensors.numpy import save_file

                save_file({"features": np.asarray(rows)}, temporary, metadata={"corrnet": metadata})

    def _index(self, records: Sequence[VideoRecord]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        row = 0
        for record in records:
            for clip, frame, seconds in self._clips(record):
                number: int | Literal[""] = "" if record.error else row
                writer.writerow(
                    [number, record.video, record.key, record.class_name, clip, frame, seconds, record.error]
                )
                row += not record.error
        # File names of other encodings are written as Python shows them.
        return text.getvalue().encode("utf-8", "backslashreplace").decode()

    def _clips(self, record: VideoRecord) -> Iterator[tuple[object, object, object]]:
        if record.error or not self._per_clip:
            yield "", "", ""
        else:
            for clip, (frame, seconds) in enumerate(record.starts):
                yield clip, frame, f"{seconds:.6f}"


def _video(line: bytes) -> tuple[VideoRecord, int]:
    fields = unsealed(line)
    checksum = fields.pop("rows")
    return VideoRecord(**fields), checksum
