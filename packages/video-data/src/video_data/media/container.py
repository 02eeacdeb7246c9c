"""Opening videos safely and indexing their frames.

A video is untrusted input. It is always read through a Python file object, the container formats are limited
to a list of plain media formats, nothing inside a video can name another file, and the size of frames, their
number, the bytes and the time are limited. Whatever goes wrong is raised as `VideoError` with a short reason.
"""

import io
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from video_data.media.filters import frame_rotation
from video_data.media.limits import (
    FORMAT_WHITELIST,
    MAX_FRAMES,
    MAX_PIXELS,
    MAX_SECONDS,
    Deadline,
    UnindexableVideo,
    VideoError,
    check_frame_size,
)
from video_data.utils.errors import describe
from video_data.utils.files import what_instead_of_file
from video_data.utils.interrupts import called_by_c, is_put_off, put_off_until_end

VideoSource = bytes | str | Path


class _LimitedFile:
    """What FFmpeg reads a video through; a demuxer that reads without end is stopped by the deadline."""

    def __init__(self, file: BinaryIO, deadline: Deadline) -> None:
        self._file = file
        self._deadline = deadline
        self.tell = file.tell

    @called_by_c
    def read(self, size: int) -> bytes:
        self._deadline.check()
        return b"" if is_put_off() else self._file.read(size)  # `open_video` ends with a KeyboardInterrupt

    @called_by_c
    def seek(self, offset: int, whence: int = 0) -> int:
        self._deadline.check()
        return self._file.seek(offset, whence)


@dataclass(frozen=True)
class VideoInfo:
    """What is needed to read any frame of a video without looking for it.

    Attributes:
        format: Short name of the container format, for example `mov` or `matroska`.
        codec: Name of the video codec.
        width: Columns of a decoded frame in pixels, before `rotation`.
        height: Rows of a decoded frame in pixels, before `rotation`.
        rotation: Degrees counter-clockwise by which a player turns the frames: 0, 90, 180 or 270.
        time_base: Seconds per pts unit.
        pts: Presentation times of the frames, strictly increasing, int64 [num_frames].
        keyframes: Indices into `pts` where decoding can start, increasing, int64 [num_keyframes].
    """

    format: str
    codec: str
    width: int
    height: int
    rotation: int
    time_base: Fraction
    pts: np.ndarray
    keyframes: np.ndarray

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.pts)

    @property
    def display_size(self) -> tuple[int, int]:
        """Width and height in pixels after `rotation`."""
        return (self.height, self.width) if self.rotation % 180 else (self.width, self.height)


@contextmanager
def open_video(
    source: VideoSource, *, format: str | None = None, probe: bool = True, max_seconds: float = MAX_SECONDS
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the first video stream of a source for decoding on the calling thread.

    Args:
        source: Content of a video, or its path.
        format: Short container name when it is known; None lets FFmpeg choose among `FORMAT_WHITELIST`.
        probe: Whether FFmpeg decodes the first frames to find out what the container does not say. Without, opening
            is ten times as fast, the size and format of the frames may be unknown until the first is decoded, and
            containers that do not store the time of each frame may give other times.
        max_seconds: Processor time after which reading from the source raises `VideoError`.

    Yields:
        The container and the stream.

    Raises:
        VideoError: Anything failed while opening or inside the `with` block's use of the container.
        KeyboardInterrupt: Ctrl-C or SIGTERM came while FFmpeg read.
    """
    if not isinstance(source, bytes) and (what := what_instead_of_file(source)):
        raise VideoError(f"it is {what}, and a file is wanted")
    options = {"format_whitelist": FORMAT_WHITELIST, "protocol_whitelist": "none"}
    if not probe:
        options["codec_whitelist"] = "none"  # holds for finding out the format alone
    with (
        put_off_until_end(),
        video_errors(),
        io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file,
        av.open(
            _LimitedFile(file, Deadline(max_seconds)),
            "r",
            format=format,
            options={"max_pixels": str(MAX_PIXELS)},  # frames are decoded to find out their format
            container_options=options,
            metadata_errors="replace",  # titles in other encodings than UTF-8 matter to nobody here
        ) as container,
    ):
        if not container.streams.video:
            raise VideoError("no video stream")
        stream = container.streams.video[0]
        if not hasattr(stream, "codec_context") or stream.codec_context is None:
            raise VideoError("no decoder for this kind of video")
        if probe or stream.width:
            check_frame_size(stream.width, stream.height)
        context = stream.codec_context
        context.options = {**context.options, "max_pixels": str(MAX_PIXELS)}
        context.thread_count = 1
        context.thread_type = "NONE"
        yield container, stream


@contextmanager
def video_errors() -> Iterator[None]:
    """Make a `VideoError` of what decoding raises: a broken file may raise anything, MemoryError included."""
    try:
        yield
    except (VideoError, AssertionError):
        raise
    except Exception as error:
        reason = describe(error) if isinstance(error, av.FFmpegError) else type(error).__name__
        raise VideoError(describe(error), reason=reason) from error


@contextmanager
def demux(container: InputContainer, stream: VideoStream) -> Iterator[Iterator["Packet[VideoStream]"]]:
    """Return the packets of a stream. PyAV loses 300 bytes for each iterator that is left early and not closed."""
    packets = container.demux(stream)
    try:
        yield packets
    finally:
        if isinstance(packets, Generator):
            packets.close()


def decode_packets(
    container: InputContainer, stream: VideoStream
) -> Iterator[tuple["Packet[VideoStream]", list[VideoFrame]]]:
    """All packets of a video, each with the frames that the decoder emits after it.

    Raises:
        VideoError: There are more than `MAX_FRAMES` packets or frames, a frame exceeds the limits of size, or it
            takes longer than `MAX_SECONDS`.
    """
    deadline = Deadline(MAX_SECONDS)
    num_frames = 0
    with demux(container, stream) as packets:
        for num_packets, packet in enumerate(packets):
            deadline.check()
            frames = packet.decode()
            num_frames += len(frames)
            if max(num_packets, num_frames) > MAX_FRAMES:
                raise VideoError(f"more than {MAX_FRAMES} frames", reason="too many frames")
            for frame in frames:
                check_frame_size(frame.width, frame.height)
            yield packet, frames


def probe_video(source: VideoSource) -> VideoInfo:
    """Decode a whole video once and index its frames.

    The index lists the frames that the decoder really delivers: declared frame counts and packet lists of
    broken, cut or fragmented files are not trusted.

    Args:
        source: Content of a video, or its path.

    Raises:
        VideoError: The video cannot be decoded to its end or has no frames.
        UnindexableVideo: It has frames without a time or with times that go back, or its picture size or rotation
            changes.
    """
    with open_video(source) as (container, stream):
        format_name = container.format.name.split(",")[0]
        codec = stream.codec_context.name
        pts: set[int] = set()
        key_pts: set[int] = set()
        shape: tuple[int, int, int] | None = None
        last_pts = -(1 << 63)
        for packet, frames in decode_packets(container, stream):
            if packet.is_keyframe and packet.pts is not None:
                key_pts.add(packet.pts)
            for frame in frames:
                if frame.pts is None:
                    raise UnindexableVideo("frames without time stamps")
                if frame.pts < last_pts:  # seen with H.264 with B-frames in AVI
                    raise UnindexableVideo("time stamps go back")
                last_pts = frame.pts
                pts.add(frame.pts)
                frame_shape = (frame.width, frame.height, frame_rotation(frame))
                shape = shape or frame_shape
                if frame_shape != shape:
                    raise UnindexableVideo("picture size or rotation changes")
        if shape is None or stream.time_base is None:
            raise VideoError("no frames")
        times = np.array(sorted(pts), dtype=np.int64)
        keyframes = np.searchsorted(times, np.array(sorted(key_pts & pts), dtype=np.int64))
        return VideoInfo(format_name, codec, *shape, stream.time_base, times, keyframes.astype(np.int64))
