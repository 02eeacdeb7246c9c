"""Opening videos safely and indexing their frames.

A video is untrusted input. It is always read through a Python file object, the container formats are limited
to a list of plain media formats, and nothing inside a video can name another file. Whatever goes wrong is
raised as `VideoError` with a short reason.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# File name endings without the dot, lower case.
VIDEO_SUFFIXES = frozenset(
    ("3gp", "avi", "flv", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "ts", "webm", "wmv")
)
# Their demuxers read one stream of bytes and open nothing else: no playlists, no concat, no image patterns.
FORMAT_WHITELIST = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,gif,ogg,asf"
MAX_PIXELS = 1 << 25  # of one frame; 8K UHD is 33.2 million
MAX_FRAMES = 1 << 20  # of one video
MAX_BYTES = 1 << 31  # of one video

VideoSource = bytes | Path


class VideoError(ValueError):
    """A video cannot be read; the message is a short reason without its path."""


@dataclass(frozen=True)
class VideoInfo:
    """What is needed to read any frame of a video without looking for it.

    Attributes:
        format: short name of the container format, for example `mov` or `matroska`.
        codec: name of the video codec.
        width: columns of a decoded frame in pixels, before `rotation`.
        height: rows of a decoded frame in pixels, before `rotation`.
        rotation: degrees counter-clockwise by which a player turns the frames: 0, 90, 180 or 270.
        time_base: seconds per pts unit.
        pts: presentation times of the frames, strictly increasing, int64 [num_frames].
        keyframes: indices into `pts` where decoding can start, increasing, int64 [num_keyframes].
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
    source: VideoSource, *, format: str | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens the first video stream of a source for decoding on the calling thread.

    Args:
        source: content of a video, or its path.
        format: short container name when it is known; None lets FFmpeg choose among `FORMAT_WHITELIST`.

    Yields:
        The container and the stream.

    Raises:
        VideoError: anything failed while opening or inside the `with` block's use of the container.
    """
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file,
            av.open(
                file,
                "r",
                format=format,
                container_options={"format_whitelist": FORMAT_WHITELIST, "protocol_whitelist": "none"},
            ) as container,
        ):
            if not container.streams.video:
                raise VideoError("no video stream")
            stream = container.streams.video[0]
            check_frame_size(stream.width, stream.height)
            context = stream.codec_context
            context.options = {**context.options, "max_pixels": str(MAX_PIXELS)}
            context.thread_count = 1
            context.thread_type = "NONE"
            yield container, stream
    except (VideoError, AssertionError):
        raise
    except (
        Exception
    ) as error:  # a broken file may raise anything, UnicodeDecodeError and MemoryError included
        raise VideoError(describe(error)) from error


def check_frame_size(width: int, height: int) -> None:
    """Raises `VideoError` unless a frame has at least 2x2 and at most `MAX_PIXELS` pixels."""
    if min(width, height) < 2:
        raise VideoError(f"frames of {width}x{height} pixels are too small")
    if width * height > MAX_PIXELS:
        raise VideoError(f"frames of {width}x{height} pixels are larger than {MAX_PIXELS} pixels")


def describe(error: BaseException) -> str:
    """One line that says what an exception means, without file names."""
    text = getattr(error, "strerror", None) or str(error) or "no details"
    return f"{type(error).__name__}: {' '.join(str(text).split())}"[:200]


def decode_packets(
    container: InputContainer, stream: VideoStream
) -> Iterator[tuple["Packet[VideoStream]", list[VideoFrame]]]:
    """All packets of a video, each with the frames that the decoder emits after it.

    Raises:
        VideoError: there are more than `MAX_FRAMES` packets or frames, or a frame exceeds the limits of size.
    """
    num_frames = 0
    for num_packets, packet in enumerate(container.demux(stream)):
        frames = packet.decode()
        num_frames += len(frames)
        if max(num_packets, num_frames) > MAX_FRAMES:
            raise VideoError(f"more than {MAX_FRAMES} frames")
        for frame in frames:
            check_frame_size(frame.width, frame.height)
        yield packet, frames


def frame_rotation(frame: VideoFrame) -> int:
    """Counter-clockwise rotation of a frame in degrees: 0, 90, 180 or 270; other angles count as 0."""
    angle = frame.rotation % 360
    return angle if angle % 90 == 0 else 0


def probe_video(source: VideoSource) -> VideoInfo:
    """Decodes a whole video once and indexes its frames.

    The index lists the frames that the decoder really delivers: declared frame counts and packet lists of
    broken, cut or fragmented files are not trusted.

    Args:
        source: content of a video, or its path.

    Raises:
        VideoError: the video cannot be decoded to its end, has no frames, has frames without a time, or its
            picture size or rotation changes.
    """
    with open_video(source) as (container, stream):
        format_name = container.format.name.split(",")[0]
        codec = stream.codec_context.name
        pts: set[int] = set()
        key_pts: set[int] = set()
        shape: tuple[int, int, int] | None = None
        for packet, frames in decode_packets(container, stream):
            if packet.is_keyframe and packet.pts is not None:
                key_pts.add(packet.pts)
            for frame in frames:
                if frame.pts is None:
                    raise VideoError("frames without time stamps; pack it with mode reencode")
                pts.add(frame.pts)
                frame_shape = (frame.width, frame.height, frame_rotation(frame))
                shape = shape or frame_shape
                if frame_shape != shape:
                    raise VideoError("picture size or rotation changes; pack it with mode reencode")
        if shape is None or stream.time_base is None:
            raise VideoError("no frames")
        times = np.array(sorted(pts), dtype=np.int64)
        keyframes = np.searchsorted(times, np.array(sorted(key_pts & pts), dtype=np.int64))
        return VideoInfo(format_name, codec, *shape, stream.time_base, times, keyframes.astype(np.int64))
