"""The journal of an evaluation: a file of the videos that are done, from which a stopped evaluation continues."""

import base64
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from corrnet_train.evaluation.accuracy import VideoPrediction
from corrnet_train.evaluation.scores import VideoScores
from corrnet_train.utils.journal_lines import parsed_lines, sealed_line, unsealed, whole_lines
from video_data.loading.batches import Unreadable
from video_data.utils.files import naming, write_atomic
from video_data.utils.settings import changed_settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalPart:
    """Some videos of an evaluation, one after the other.

    Attributes:
        videos: Number in the split and result of each one that was read.
        unreadable: The others.
        clip_hits: Of a multiclass model how many of their views are right, and how many among the five most probable.
    """

    videos: list[tuple[int, VideoPrediction]] | list[tuple[int, VideoScores]]
    unreadable: list[Unreadable]
    clip_hits: tuple[int, int] = (0, 0)

    @property
    def num_videos(self) -> int:
        """How many videos these are."""
        return len(self.videos) + len(self.unreadable)


class EvalJournal:
    """Parts of an evaluation, in a file that has a line with the settings and then one for each part.

    A last line that was cut off is left out. A file of other settings is begun anew, and a warning of the logger
    `corrnet_train` says so. Each line has a checksum.

    Args:
        path: The file, which is written with the first part; None keeps the parts in memory alone.
        settings: What the results depend on.

    Attributes:
        parts: What is done.

    Raises:
        ValueError: A line is damaged; the message names it.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, str | int]) -> None:
        self.parts: list[EvalPart] = []
        self._path = path
        self._file: TextIO | None = None
        self._content = sealed_line(dict(settings)).encode()
        found = [] if path is None else whole_lines(path)
        if path is None or not found:
            return
        remedy = "remove the file, and all videos are evaluated anew"
        (before,) = parsed_lines(found[:1], lambda line: dict(unsealed(line)), path=path, remedy=remedy)
        if not _differs(before, settings, path):
            self.parts = parsed_lines(
                found[1:], lambda line: _from_json(unsealed(line)), path=path, remedy=remedy, first=2
            )
            self._content = b"".join(line + b"\n" for line in found)

    @property
    def num_videos(self) -> int:
        """How many videos are done."""
        return sum(part.num_videos for part in self.parts)

    def add(self, part: EvalPart) -> None:
        """Keep the next part."""
        self.parts.append(part)
        if self._path is None:
            return
        with naming(self._path):
            if self._file is None:
                write_atomic(self._path, self._content)
                self._file = self._path.open("a", encoding="utf-8")
            self._file.write(sealed_line(_to_json(part)))
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None and self._path is not None:
            with naming(self._path):
                self._file.close()


def _differs(before: Mapping[str, Any], settings: Mapping[str, str | int], path: Path) -> bool:
    changed = changed_settings(before, settings, names=settings)
    for name, (old, new) in list(changed.items())[:1]:
        _log.warning(
            "%s is of an evaluation with %s %s, now it is %s: all videos are evaluated anew",
            path, name, old, new,
        )  # fmt: skip
    return bool(changed)


def _to_json(part: EvalPart) -> dict[str, Any]:
    videos = [
        [index, p.key, p.source, p.label, _encoded(p.probabilities)]
        if isinstance(p, VideoPrediction)
        else [index, p.key, p.source, p.target, _encoded(p.scores)]
        for index, p in part.videos
    ]
    return {"videos": videos, "unreadable": part.unreadable, "clip_hits": part.clip_hits}


def _encoded(scores: list[float]) -> str:
    return base64.b64encode(np.array(scores, dtype=np.float32).tobytes()).decode()


def _from_json(line: Mapping[str, Any]) -> EvalPart:
    videos: list[Any] = []
    for index, key, source, target, encoded in line["videos"]:
        scores = np.frombuffer(base64.b64decode(encoded), dtype=np.float32).tolist()
        kind = VideoScores if isinstance(target, list) else VideoPrediction
        videos.append((index, kind(key, source, target, scores)))
    unreadable = [Unreadable(*entry) for entry in line["unreadable"]]
    return EvalPart(videos, unreadable, (line["clip_hits"][0], line["clip_hits"][1]))
