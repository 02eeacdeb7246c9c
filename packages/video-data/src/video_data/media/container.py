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
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from video_data.media.delivery import MOST_DAMAGED, Delivery, Tally, stream_seconds
from video_data.media.display import Display, Displays
from video_data.media.limits import (
    FORMAT_WHITELIST,
    MAX_FRAMES,
    MAX_PIXELS,
    MAX_SECONDS,
    DamagedVideo,
    Deadline,
    UnindexableVideo,
    VideoError,
    check_frame_size,
)
from video_data.media.reasons import ENCRYPTED, UNKNOWN, scrambled_share, unreadable_reason
from video_data.media.times import repair_times
from video_data.utils.errors import MissingPackageError, describe
from video_data.utils.files import what_instead_of_file
from video_data.utils.interrupts import is_put_off, not_interrupted, put_off_until_end

VideoSource = bytes | str | Path
_STILLS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_IMPAIRED = Disposition.hearing_impaired | Disposition.visual_impaired
_PREDICTED = (PictureType.P, PictureType.B)


class _LimitedFile:
    """What FFmpeg reads a video through; a demuxer that reads without end is stopped by the deadline."""

    def __init__(self, file: BinaryIO, deadline: Deadline) -> None:
        self._file = file
        self._deadline = deadline
        self.tell = file.tell

    @not_interrupted
    def read(self, size: int) -> bytes:
        self._deadline.check()
        return b"" if is_put_off() else self._file.read(size)  # `open_video` ends with a KeyboardInterrupt

    @not_interrupted
    def seek(self, offset: int, whence: int = 0) -> int:
        self._deadline.check()
        return self._file.seek(offset, whence)


@dataclass(frozen=True)
class VideoInfo:
    """What is needed to read any frame of a video without looking for it.

    Attributes:
        format: Short name of the container format, for example `mov` or `matroska`.
        codec: Name of the video codec.
        width: Columns of a decoded frame in pixels, as stored.
        height: Rows of a decoded frame in pixels, as stored.
        display: How a player shows the frames.
        time_base: Seconds per pts unit.
        pts: Presentation times of the frames, strictly increasing, int64 [num_frames].
        keyframes: Indices into `pts` where decoding can start, increasing, int64 [num_keyframes].
        stream: Number of the video stream among those of the file.
        delivery: What its original promised and delivered; None where that is not known.
        num_damaged: Frames of it that were damaged when it was indexed; None where that is not known.
    """

    format: str
    codec: str
    width: int
    height: int
    display: Display
    time_base: Fraction
    pts: np.ndarray
    keyframes: np.ndarray
    stream: int = 0
    delivery: Delivery | None = None
    num_damaged: int | None = None

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.pts)

    @property
    def display_size(self) -> tuple[int, int]:
        """Width and height of the displayed picture in square pixels."""
        return self.display.size(self.width, self.height)


@contextmanager
def open_video(
    source: VideoSource,
    *,
    format: str | None = None,
    stream: int | None = None,
    probe: bool = True,
    max_seconds: float = MAX_SECONDS,
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video stream of a source for decoding on the calling thread.

    Args:
        source: Content of a video, or its path.
        format: Short container name when it is known; None lets FFmpeg choose among `FORMAT_WHITELIST`.
        stream: Number of the stream among the video streams; None takes the one of `best_stream`.
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
    with (
        put_off_until_end(),
        video_errors(),
        _opened(source) as file,
        _open_container(file, format, probe, max_seconds) as container,
    ):
        chosen = best_stream(container) if stream is None else _numbered_stream(container, stream)
        if _is_encrypted(container, chosen):
            raise VideoError(ENCRYPTED)
        if chosen.codec_context is None:
            raise VideoError(unreadable_reason(file) or "no decoder for this kind of video")
        if probe and not chosen.width:
            raise VideoError(unreadable_reason(file) or "no frame at its start can be decoded")
        if chosen.width:
            check_frame_size(chosen.width, chosen.height)
        context = chosen.codec_context
        context.options = {**context.options, "max_pixels": str(MAX_PIXELS)}
        context.thread_count = 1
        context.thread_type = "NONE"
        yield container, chosen


def _opened(source: VideoSource) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")


def _open_container(file: BinaryIO, format: str | None, probe: bool, max_seconds: float) -> InputContainer:
    options = {"format_whitelist": FORMAT_WHITELIST, "protocol_whitelist": "none"}
    if not probe:
        options["codec_whitelist"] = "none"  # holds for finding out the format alone
    try:
        return av.open(
            _LimitedFile(file, Deadline(max_seconds)),
            "r",
            format=format,
            options={"max_pixels": str(MAX_PIXELS)},  # frames are decoded to find out their format
            container_options=options,
            metadata_errors="replace",  # titles in other encodings than UTF-8 matter to nobody here
        )
    except (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError) as error:
        otherwise = "it ends before its first frame" if isinstance(error, EOFError) else UNKNOWN
        raise VideoError(unreadable_reason(file) or otherwise) from error


def best_stream(container: InputContainer) -> VideoStream:
    """Return the video stream that FFmpeg takes where none is named.

    Covers, thumbnails and other still pictures are no videos. Of the others a stream that is marked as default comes
    first, then the one of the largest picture and the highest bit rate, then the first.

    Raises:
        VideoError: There is none.
    """
    streams = container.streams.video
    if not streams:
        sound = " (only sound)" if container.streams.audio else ""
        raise VideoError(f"no video stream{sound}")
    moving = [stream for stream in streams if not stream.disposition & _STILLS]
    if not moving:
        raise VideoError("no video stream (only a cover or other still pictures)")
    return max(moving, key=_rank)


def _rank(stream: VideoStream) -> tuple[bool, bool, bool, bool, int, int]:
    if stream.codec_context is None:
        return (False, False, False, False, 0, 0)
    return (
        stream.width > 0,  # else it is announced and has no packets
        stream.frames != 1,
        not stream.disposition & _IMPAIRED,
        bool(stream.disposition & Disposition.default),
        stream.width * stream.height,
        stream.codec_context.bit_rate or 0,
    )


def _is_encrypted(container: InputContainer, stream: VideoStream) -> bool:
    """Return whether FFmpeg says so of a Matroska track or an ASF file; of mp4 it marks the packets."""
    of_asf = (
        container.format.name == "asf" and {"encryption", "ASF_Protection_Type"} & container.metadata.keys()
    )
    return bool(of_asf) or "enc_key_id" in stream.metadata


def _numbered_stream(container: InputContainer, number: int) -> VideoStream:
    streams = container.streams.video
    if number >= len(streams):
        raise VideoError(
            f"no video stream {number}, there are {len(streams)}",
            reason="the video stream in the index is missing",
        )
    return streams[number]


@contextmanager
def video_errors() -> Iterator[None]:
    """Make a `VideoError` of what decoding raises: a broken file may raise anything, MemoryError included."""
    try:
        yield
    except (VideoError, MissingPackageError):
        raise
    except Exception as error:
        reason = describe(error) if isinstance(error, av.FFmpegError) else type(error).__name__
        raise VideoError(describe(error), reason=reason) from error


@contextmanager
def demux(container: InputContainer, *streams: Stream) -> Iterator[Iterator["Packet[Any]"]]:
    """Return the packets of streams. PyAV loses 300 bytes for each iterator that is left early and not closed."""
    packets = container.demux(*streams)
    try:
        yield packets
    finally:
        if isinstance(packets, Generator):
            packets.close()


def decode_packets(
    container: InputContainer, stream: VideoStream, tally: Tally | None = None
) -> Iterator[tuple["Packet[VideoStream]", list[VideoFrame]]]:
    """All packets of a video, each with the frames that the decoder emits after it.

    Decoding goes on after damaged packets, within the share that `Tally.delivery` allows.

    Args:
        container: The open container.
        stream: Its stream.
        tally: Where to count what is delivered; None counts for this call alone.

    Raises:
        VideoError: There are more than `MAX_FRAMES` packets or frames, a frame exceeds the limits of size, it
            takes longer than `MAX_SECONDS`, the video is encrypted, or too much of it is damaged.
    """
    deadline = Deadline(MAX_SECONDS)
    tally = tally or Tally(container, stream)
    num_packets = num_frames = 0
    with demux(container, *tally.streams) as packets:
        for packet in packets:
            deadline.check()
            if packet.stream.index != stream.index:
                tally.note_other(packet)
                continue
            num_packets += 1
            frames = tally.decode(packet)
            num_frames += len(frames)
            if max(num_packets, num_frames) > MAX_FRAMES:
                raise VideoError(f"more than {MAX_FRAMES} frames", reason="too many frames")
            for frame in frames:
                check_frame_size(frame.width, frame.height)
            yield packet, frames
    tally.delivery()


def probe_video(
    source: VideoSource, *, stream: int | None = None, most_damaged: float = MOST_DAMAGED
) -> VideoInfo:
    """Decode a whole video once and index its frames.

    The index lists the frames that the decoder really delivers: declared frame counts and packet lists of
    broken, cut or fragmented files are not trusted, nor are the keyframe flags of a container that marks predicted
    pictures.

    Args:
        source: Content of a video, or its path.
        stream: Number of the stream among the video streams; None takes the one of `best_stream`.
        most_damaged: Share of damaged frames that is allowed.

    Raises:
        VideoError: The video cannot be decoded, too much of it is damaged, or it has no frames.
        UnindexableVideo: It has frames without a time, with times that go back or are there twice, or its picture size,
            rotation or pixel shape changes.
    """
    with explained(source), open_video(source, stream=stream) as (container, chosen):
        format_name = container.format.name.split(",")[0]
        codec = chosen.codec_context.name
        tally = Tally(container, chosen, most_damaged)
        pts: list[int] = []
        key_pts: set[int] = set()
        predicted: set[int] = set()
        shape: tuple[int, int, Display] | None = None
        displays = Displays(chosen)
        for packet, frames in decode_packets(container, chosen, tally):
            if packet.is_keyframe and packet.pts is not None:
                key_pts.add(packet.pts)
            for frame in frames:
                if frame.pts is None:
                    raise UnindexableVideo("frames without time stamps")
                if pts and frame.pts < pts[-1]:  # seen with H.264 with B-frames in AVI
                    raise UnindexableVideo("time stamps go back")
                if pts and frame.pts == pts[-1]:
                    raise UnindexableVideo("several frames have one time stamp")
                pts.append(frame.pts)
                if is_predicted(frame):
                    predicted.add(frame.pts)
                frame_shape = (frame.width, frame.height, displays.of(frame))
                shape = shape or frame_shape
                if frame_shape != shape:
                    raise UnindexableVideo("picture size, rotation or pixel shape changes")
        if shape is None or chosen.time_base is None:
            raise DamagedVideo("no frames")
        times = np.array(pts, dtype=np.int64)
        keys = sorted((key_pts - predicted).intersection(pts))
        keyframes = np.searchsorted(times, np.array(keys, dtype=np.int64)).astype(np.int64)
        return VideoInfo(
            format_name,
            codec,
            *shape,
            chosen.time_base,
            times,
            keyframes,
            stream=container.streams.video.index(chosen),
            delivery=(delivery := tally.delivery()),
            num_damaged=delivery.num_damaged,
        )


def video_seconds(source: VideoSource) -> float:
    """Return how long a video is, without decoding it.

    Raises:
        VideoError: It cannot be opened, or nothing in it says that.
    """
    with open_video(source) as (container, stream):
        if (seconds := stream_seconds(container, stream)) is not None:
            return seconds
        # Other containers state the length of the longest stream. Of transport and program streams FFmpeg compares the
        # first and the last time alone, and in between time may begin anew.
        is_alone = len(container.streams) == 1 and container.format.name not in ("mpegts", "mpeg")
        if is_alone and container.duration is not None:
            return container.duration / av.time_base
        with demux(container, stream) as packets:
            found = [(packet.dts, packet.is_keyframe) for packet in packets if packet.dts is not None]
        if not found or stream.time_base is None:
            raise VideoError("nothing in it says how long the video is")
        step = frame_duration(stream)
        times, parts = repair_times([dts for dts, _ in found], [is_key for _, is_key in found], step)
        return float((Fraction(times[-1], parts) + step) * stream.time_base)


def frame_duration(stream: VideoStream) -> int:
    """Return the duration of a frame in ticks by the stream's rate; 1 where that is not known."""
    rate, tick = stream.average_rate, stream.time_base
    return max(1, round(1 / (rate * tick))) if rate and tick else 1


def is_predicted(frame: VideoFrame) -> bool:
    """Return whether a frame was decoded from others, so that decoding cannot begin at it."""
    return not frame.key_frame and frame.pict_type in _PREDICTED


@contextmanager
def explained(source: VideoSource) -> Iterator[None]:
    """Say why a video is damaged or has no frames, where its container shows that.

    Raises:
        VideoError: More than `MOST_DAMAGED` of a transport stream is encrypted, of which decoding shows nothing.
    """
    try:
        yield
        with _opened(source) as file:
            share = scrambled_share(file)
        if share > MOST_DAMAGED:
            raise VideoError(f"{ENCRYPTED} ({share:.0%} of its packets)", reason=ENCRYPTED)
    except DamagedVideo as error:
        with _opened(source) as file:
            reason = unreadable_reason(file)
        if reason is None:
            raise
        raise VideoError(reason) from error
