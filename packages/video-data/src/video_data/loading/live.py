"""Clips from a sliding window over frames as they come: of a file, a camera or a network stream."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from video_data.loading.batches import channels_first
from video_data.media.container import best_stream, decode_packets, open_video, video_errors
from video_data.media.display import Display, Displays, frame_kind
from video_data.media.encode import index_video
from video_data.media.filters import RgbGraph
from video_data.media.limits import VideoError
from video_data.media.pictures import holds_pictures, pictures_video
from video_data.sampling.clips import ClipConfig, view_boxes
from video_data.utils.errors import InputError, WorkError, describe
from video_data.utils.messages import hide_secrets

_TIMEOUT = 10.0  # seconds without an answer
_ROUNDING = 1e-3  # seconds; containers round times to it
_LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt", "http", "https")
_CAMERA_FORMATS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}


@dataclass(frozen=True)
class WindowFrame:
    """A frame, with the clip that ends with it where the window has moved on far enough.

    Attributes:
        frame: The frame as it was decoded; valid until the next one is asked for.
        number: Its place in the stream, from 0.
        seconds: Its time from the first frame; None where the stream has no times.
        display: How it is shown.
        clip: uint8 [C, L, H, W] with the strides of channels_last_3d: the center of the last frames, as
            `decode_views` cuts it; None between two windows.
    """

    frame: VideoFrame
    number: int
    seconds: float | None
    display: Display
    clip: Tensor | None


def sliding_clips(
    frames: Iterable[tuple[VideoFrame, Display]], clip: ClipConfig, *, hop: int
) -> Iterator[WindowFrame]:
    """Hand out every frame, and every `hop` frames the clip that ends there.

    The first clip comes when the window is full. It spans `clip.span` frames, of which it shows every
    `frame_stride`-th; with `clip.fps` it ends with the last frame and shows those that are nearest to its times.

    Args:
        frames: Decoded frames in order, each with how it is shown, as `open_frames` hands them out.
        clip: The clip that the network sees; its modality must be RGB.
        hop: Frames from one clip to the next.

    Raises:
        ValueError: `hop` is below 1, the clip has optical flow, or it has `fps` and the frames have no times.
    """
    if hop < 1:
        raise InputError(f"hop must be at least 1, got {hop}")
    if clip.modality != "rgb":
        raise InputError(f"a sliding window takes RGB clips alone, got modality {clip.modality!r}")
    window = _FrameWindow(clip) if clip.fps is None else _TimeWindow(clip)
    first_full: int | None = None
    graph: RgbGraph | None = None
    kind: tuple[object, ...] = ()
    first: float | None = None
    for number, (frame, display) in enumerate(frames):
        picture = np.empty((clip.crop_size, clip.crop_size, 3), dtype=np.uint8)
        with video_errors():
            if graph is None or kind != (display, frame_kind(frame)):
                kind = (display, frame_kind(frame))
                (box,) = view_boxes(display.size(frame.width, frame.height), clip, 1)
                graph = RgbGraph(frame, display, box, clip.crop_size)
            graph.convert(frame, picture)
        first = frame.time if first is None else first
        seconds = None if frame.time is None or first is None else frame.time - first
        window.add(picture, seconds)
        if window.is_full and first_full is None:
            first_full = number
        is_due = window.is_full and first_full is not None and (number - first_full) % hop == 0
        shown = channels_first(torch.from_numpy(window.pictures())[None])[0] if is_due else None
        yield WindowFrame(frame, number, seconds, display, shown)


class _FrameWindow:
    """The last frames, of which a clip shows every `frame_stride`-th."""

    def __init__(self, clip: ClipConfig) -> None:
        self._stride = clip.frame_stride
        self._pictures: deque[np.ndarray] = deque(maxlen=clip.span)

    @property
    def is_full(self) -> bool:
        return len(self._pictures) == self._pictures.maxlen

    def add(self, picture: np.ndarray, seconds: float | None) -> None:
        self._pictures.append(picture)

    def pictures(self) -> np.ndarray:
        return np.stack(list(self._pictures)[:: self._stride])


class _TimeWindow:
    """The frames of the last seconds, of which a clip shows those nearest to times that are 1/fps apart."""

    def __init__(self, clip: ClipConfig) -> None:
        assert clip.fps is not None
        self._seconds = (clip.num_frames - 1) / clip.fps
        self._times = np.linspace(-self._seconds, 0, clip.num_frames)  # from that of the last frame on
        self._frames: deque[tuple[float, np.ndarray]] = deque()

    @property
    def is_full(self) -> bool:
        first, last = self._frames[0][0], self._frames[-1][0]
        return last - first >= self._seconds - _ROUNDING

    def add(self, picture: np.ndarray, seconds: float | None) -> None:
        if seconds is None:
            raise InputError("the frames of this source have no times, and clips with fps are cut by them")
        if self._frames and seconds <= self._frames[-1][0]:
            self._frames.clear()  # time begins anew
        self._frames.append((seconds, picture))
        while len(self._frames) > 1 and self._frames[1][0] <= seconds - self._seconds:
            self._frames.popleft()

    def pictures(self) -> np.ndarray:
        seconds = np.array([seconds for seconds, _ in self._frames])
        nearest = np.abs(seconds[:, None] - (seconds[-1] + self._times)).argmin(axis=0)
        return np.stack([self._frames[number][1] for number in nearest])


@contextmanager
def open_frames(source: str) -> Iterator[Iterator[tuple[VideoFrame, Display]]]:
    """Open a video file, a camera or a network stream.

    A camera or a stream is decoded as it comes. A file or a folder of pictures is decoded from end to end before its
    first frame, and then again: so damage is told first, and times are put right as everywhere in this package.

    Args:
        source: A path, also of a folder of pictures or of a pattern in one, as `clip/img_*.jpg`; a camera; or a URL of
            rtsp, rtmp, rtp, udp, srt, http or https. Cameras are `camera:0` (/dev/video0), `camera:1` and so on; on
            Windows `camera:` and the name that it has there. Files are read as safely as everywhere in this package; a
            URL is given to FFmpeg as it is.

    Yields:
        The frames, each with how it is shown.

    Raises:
        VideoError: It cannot be opened.
    """
    format_name: str | None
    if source.startswith("camera:") and not Path(source).exists():
        name, device = _CAMERA_FORMATS.get(sys.platform, _CAMERA_FORMATS["linux"])
        target, format_name = device.format(source.removeprefix("camera:")), name
    elif "://" in source and source.partition("://")[0].lower() in _LIVE_SCHEMES:
        target, format_name = source, None
    else:
        path = Path(source)
        with _naming(source), ExitStack() as stack:
            content, info = index_video(pictures_video(path) if holds_pictures(path) else path, source)
            video = open_video(content, stream=info.stream)
            container, stream = video.__enter__()
            # It is not shown what the caller's block raises, of which it would make a `VideoError`.
            stack.callback(video.__exit__, None, None, None)
            yield _frames_of_file(container, stream)
        return
    try:
        container = av.open(target, "r", format=format_name, timeout=_TIMEOUT)
    except Exception as error:  # a device or a server may fail in any way
        what = f"cannot be opened: {describe(error)}"
        device = f" ({target})" if format_name else ""
        raise VideoError(f"{hide_secrets(source)}{device} {what}", reason=what) from error
    with container, _naming(source):
        yield _frames_of_stream(container, best_stream(container), source)


def _frames_of_file(container: InputContainer, stream: VideoStream) -> Iterator[tuple[VideoFrame, Display]]:
    displays = Displays(stream)
    with video_errors():
        for _, frames in decode_packets(container, stream):
            for frame in frames:
                yield frame, displays.of(frame)


def _frames_of_stream(
    container: InputContainer, stream: VideoStream, source: str
) -> Iterator[tuple[VideoFrame, Display]]:
    displays = Displays(stream)
    try:
        for frame in container.decode(stream):
            yield frame, displays.of(frame)
    except av.FFmpegError as error:
        raise WorkError(f"{hide_secrets(source)} broke off: {describe(error)}") from error


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Name the video in errors."""
    try:
        yield
    except VideoError as error:
        raise VideoError(f"{hide_secrets(source)}: {error}", reason=error.reason) from error
