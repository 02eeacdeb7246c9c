"""Reading what is to be packed: a video or a folder of pictures becomes the content of a sample."""

import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple

from video_data.datasets import Entry
from video_data.media.container import VideoInfo, probe_video, video_errors
from video_data.media.delivery import MOST_DAMAGED, Delivery
from video_data.media.encode import reencode, reencode_pictures
from video_data.media.flow import flow_video
from video_data.media.limits import MAX_BYTES, VIDEO_SUFFIXES, UnindexableVideo, VideoError
from video_data.media.pictures import (
    are_jpeg,
    hash_pictures,
    holds_pictures,
    list_pictures,
    motion_jpeg,
    picture_frames,
    shorter_side,
)
from video_data.shards.pack_options import PackOptions
from video_data.utils.files import what_instead_of_file


@dataclass(frozen=True)
class Loaded:
    """A video ready for a shard.

    Attributes:
        content: Bytes of the video.
        suffix: Its file ending.
        info: Index of its frames.
        source_sha256: Hash of what it was made from.
        flow: Content and index of its optical flow, where that was asked for.
    """

    content: bytes
    suffix: str
    info: VideoInfo
    source_sha256: str
    flow: tuple[bytes, VideoInfo] | None


class Refused(NamedTuple):
    """Why a video cannot be packed: in words to count by, and with the details."""

    reason: str
    message: str


def load(entry: Entry, options: PackOptions) -> Loaded | Refused:
    """Read or re-encode a video and index its frames."""
    try:
        with video_errors():
            loaded = (
                _from_pictures(entry, options) if holds_pictures(entry.path) else _from_file(entry, options)
            )
            return replace(loaded, flow=_flow(loaded.content, options)) if options.flow else loaded
    except VideoError as error:
        return Refused(error.reason, str(error))


def _from_file(entry: Entry, options: PackOptions) -> Loaded:
    if what := what_instead_of_file(entry.path):
        raise VideoError(f"it is {what}, and a file is wanted")
    size = entry.path.stat().st_size
    if size == 0:
        raise VideoError("empty file")
    if options.mode == "reencode":
        content, delivery = reencode(
            entry.path,
            max_short_side=options.max_short_side,
            gop=options.gop,
            crf=options.crf,
            span=entry.span,
        )
        with entry.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return _indexed(content, "mp4", digest, delivery)
    suffix = entry.path.suffix[1:].lower()
    if suffix not in VIDEO_SUFFIXES:
        raise VideoError(
            f"unknown ending {suffix!r}; mode reencode takes it",
            reason="unknown ending; mode reencode takes it",
        )
    if size > MAX_BYTES:
        raise VideoError(
            f"{size} bytes, allowed are {MAX_BYTES}; mode reencode takes it",
            reason="too large; mode reencode takes it",
        )
    content = entry.path.read_bytes()
    return _indexed(content, suffix, hashlib.sha256(content).hexdigest())


def _from_pictures(entry: Entry, options: PackOptions) -> Loaded:
    """JPEG pictures of one size are kept as they are, unless they are to become smaller."""
    if entry.frame_rate is None:
        raise VideoError("a folder of pictures, for which the frame rate must be given")
    if entry.span is not None:
        raise VideoError("a folder of pictures, and only of video files can a part be taken")
    pictures = list_pictures(entry.path)
    digest = hash_pictures(pictures)
    limit = options.max_short_side if options.mode == "reencode" else None
    if are_jpeg(pictures) and (limit is None or shorter_side(pictures) <= limit):
        try:
            return _indexed(motion_jpeg(pictures, entry.frame_rate), "mp4", digest, most_damaged=0)
        except UnindexableVideo:  # pictures of several sizes
            if options.mode == "copy":
                raise
    if options.mode == "copy":
        raise VideoError("pictures that are not all JPEG; mode reencode takes them")
    frames = picture_frames(pictures, entry.frame_rate)
    content = reencode_pictures(
        frames, max_short_side=options.max_short_side, gop=options.gop, crf=options.crf
    )
    return _indexed(content, "mp4", digest)


def _indexed(
    content: bytes,
    suffix: str,
    source_sha256: str,
    delivery: Delivery | None = None,
    *,
    most_damaged: float = MOST_DAMAGED,
) -> Loaded:
    """Index a video; `delivery` is that of the original where it was encoded again."""
    if len(content) > MAX_BYTES:
        raise VideoError(
            f"{len(content)} bytes after encoding, allowed are {MAX_BYTES}", reason="too large after encoding"
        )
    info = probe_video(content, most_damaged=most_damaged)
    return Loaded(content, suffix, replace(info, delivery=delivery or info.delivery), source_sha256, None)


def _flow(content: bytes, options: PackOptions) -> tuple[bytes, VideoInfo]:
    """Return the flow of a packed video and the index of its frames."""
    flow = flow_video(content, gop=options.gop)
    return flow, probe_video(flow)
