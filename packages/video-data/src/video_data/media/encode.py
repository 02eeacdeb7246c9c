"""Encoding H.264 for fast random access: short closed groups of pictures, no loop filter, no CABAC."""

import io
import logging
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from video_data.media.container import (
    VideoInfo,
    VideoSource,
    decode_packets,
    explained,
    frame_duration,
    is_predicted,
    open_video,
    probe_video,
)
from video_data.media.delivery import Delivery, Tally
from video_data.media.display import Display, Displays, Filters, frame_kind
from video_data.media.filters import filter_graph, picture_filters
from video_data.media.limits import DamagedVideo, UnindexableVideo, VideoError
from video_data.media.times import repair_times
from video_data.utils.errors import InputError

_log = logging.getLogger(__name__)
_ENCODER = "libx264"
# Of videos that are encoded again only because they cannot be read as they are.
READABLE_GOP, READABLE_CRF = 12, 12
# FFmpeg's numbers of SMPTE 170M and of the limited ("MPEG") and full ranges.
_BT601, _LIMITED, _FULL = 6, 1, 2


def check_encoder() -> None:
    """Raise ValueError when this build of FFmpeg cannot encode H.264."""
    try:
        av.Codec(_ENCODER, "w")
    except Exception as error:
        raise InputError(
            f"this FFmpeg ({av.ffmpeg_version_info}) has no {_ENCODER} encoder: "
            "install the PyAV wheel from the package index, or pack with mode copy"
        ) from error


def encode_h264(frames: Iterable[VideoFrame], *, gop: int, crf: int) -> bytes:
    """Encode frames to an mp4 file; equal frames give equal bytes.

    Args:
        frames: At least one frame, all yuv420p of one even size, or all gray of one size, with increasing pts and a
            time base. Gray frames use the full range, others the limited one.
        gop: Frames from one keyframe to the next; no frame refers across a keyframe.
        crf: Constant rate factor of x264; smaller is better, 18 is visually close to lossless.

    Returns:
        The content of the file.

    Raises:
        VideoError: There is no frame.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        stream: VideoStream | None = None
        for frame in frames:
            if stream is None:
                added = container.add_stream(_ENCODER, options=_x264_options(gop, crf))
                assert isinstance(added, VideoStream)
                stream = added
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
                context = stream.codec_context
                assert frame.time_base is not None
                context.time_base = stream.time_base = frame.time_base
                context.colorspace = _BT601
                context.color_range = _FULL if frame.format.name == "gray" else _LIMITED
                context.thread_count = 1  # x264's choices depend on its number of threads
            frame.pict_type = 0  # the source's picture types are not the encoder's business
            container.mux(stream.encode(frame))
        if stream is None:
            raise DamagedVideo("no frames")
        container.mux(stream.encode())
    return buffer.getvalue()


def _x264_options(gop: int, crf: int) -> dict[str, str]:
    # Macroblock-tree rate control reads memory that x264 never wrote, so equal frames gave different bytes.
    parameters = f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0:mbtree=0"
    return {"preset": "veryfast", "tune": "fastdecode", "crf": str(crf), "x264-params": parameters}


def reencode_video(
    source: VideoSource,
    *,
    max_short_side: int | None,
    gop: int,
    crf: int,
    span: tuple[float, float] | None = None,
) -> bytes:
    """Decode a video and encode it again as H.264, yuv420p, BT.601 limited range, without sound.

    Rotation, mirroring and the shape of pixels are applied, every frame is kept with its time (counted from the first
    frame; `repair_times` makes those that do not increase), and sides are rounded to even numbers. Frames of another
    shape than the first are fitted into it, with black bars.

    Args:
        source: Content of the video, or its path.
        max_short_side: Longest allowed shorter side in pixels; smaller pictures keep their size. None keeps all
            sizes.
        gop: Frames from one keyframe to the next.
        crf: Constant rate factor of x264.
        span: Start and end in seconds; frames shown from the start on and before the end are kept. None keeps all.

    Returns:
        The content of an mp4 file.

    Raises:
        VideoError: The video cannot be decoded, too much of it is damaged, or it has no frames in the span.
    """
    return reencode(source, max_short_side=max_short_side, gop=gop, crf=crf, span=span)[0]


def reencode(
    source: VideoSource,
    *,
    max_short_side: int | None,
    gop: int,
    crf: int,
    span: tuple[float, float] | None = None,
) -> tuple[bytes, Delivery]:
    """Encode as `reencode_video` does, and tell what was promised and delivered of the source."""

    def encode(times: tuple[list[int], int] | None) -> tuple[bytes, Delivery]:
        with open_video(source) as (container, stream):
            tally = Tally(container, stream)
            frames = _timed_frames(container, stream, tally, span, times)
            displays = Displays(stream)
            displayed = ((frame, displays.of(frame)) for frame in frames)
            upright = _upright_frames(displayed, max_short_side)
            content = encode_h264(upright, gop=gop, crf=crf)
            return content, tally.delivery()

    with explained(source):
        try:
            return encode(None)
        except UnindexableVideo:
            return encode(_repaired_times(source, span))


def index_video(source: VideoSource, name: str) -> tuple[VideoSource, VideoInfo]:
    """Return a video whose frames can be found by their times, and its index.

    It is the source, or where its times, picture size or rotation forbid that, the source encoded again. Damaged
    frames, a gap and a missing end are logged as a warning.

    Args:
        source: Content of a video, or its path.
        name: What the warning calls it.

    Raises:
        VideoError: The video cannot be decoded, or too much of it is damaged.
    """
    content = source
    try:
        info = probe_video(source)
        delivery = info.delivery
    except UnindexableVideo:
        content, delivery = reencode(source, max_short_side=None, gop=READABLE_GOP, crf=READABLE_CRF)
        info = probe_video(content)
    warn_of_flaws(name, delivery)
    return content, info


def warn_of_flaws(name: str, delivery: Delivery | None) -> None:
    """Log damaged frames, a gap and a missing end of a video as a warning."""
    if delivery is not None and delivery.is_flawed:
        _log.warning("%s: %s", name, delivery)


def reencode_pictures(
    frames: Iterable[tuple[VideoFrame, Display]], *, max_short_side: int | None, gop: int, crf: int
) -> bytes:
    """Encode single pictures with times as `reencode_video` does; the first one decides the size.

    Args:
        frames: The pictures, each with how it is shown.
        max_short_side: As `reencode_video` takes it.
        gop: Frames from one keyframe to the next.
        crf: Constant rate factor of x264.
    """
    return encode_h264(_upright_frames(frames, max_short_side), gop=gop, crf=crf)


def _timed_frames(
    container: InputContainer,
    stream: VideoStream,
    tally: Tally,
    span: tuple[float, float] | None,
    repaired: tuple[list[int], int] | None,
) -> Iterator[VideoFrame]:
    """Decode the frames of a video or a span with increasing times from 0 on: their own, or those of `repair_times`.

    Raises:
        UnindexableVideo: Their own do not increase, or none is in the span.
    """
    first: int | None = None
    if repaired is None:
        if span is None:
            frames = _decoded(container, stream, tally)
        else:
            frames = _decoded_span(container, stream, tally, *_ticks(stream, span))
        last = -1
        for frame in frames:
            if frame.pts is None:
                raise UnindexableVideo("frames without time stamps")
            first = frame.pts if first is None else first
            frame.pts -= first
            if frame.pts <= last:
                raise UnindexableVideo("time stamps do not increase")
            last = frame.pts
            yield frame
        return
    times, parts = repaired
    start, end = (parts * tick for tick in _ticks(stream, span)) if span else (0, times[-1] + 1)
    for frame, time in zip(_decoded(container, stream, tally), times, strict=True):
        if start <= time < end:
            first = time if first is None else first
            frame.pts = time - first
            assert frame.time_base is not None
            frame.time_base /= parts
            yield frame
    if first is None and span is not None:
        raise VideoError(f"no frames from {span[0]:g} to {span[1]:g} seconds", reason="no frames in the span")


def _repaired_times(source: VideoSource, span: tuple[float, float] | None) -> tuple[list[int], int]:
    """Decode a whole video for the result of `repair_times`."""
    with open_video(source) as (container, stream):
        step = frame_duration(stream)
        pts: list[int | None] = []
        is_key: list[bool] = []
        dts: list[int | None] = []
        for packet, frames in decode_packets(container, stream):
            pts += [frame.pts for frame in frames]
            is_key += [frame.key_frame for frame in frames]
            if packet.size:
                dts.append(packet.dts)
        # AVI stores the order of decoding, in which FFmpeg makes up times that are wrong at the end.
        if container.format.name == "avi" and len(dts) == len(pts):
            pts = dts
    if not pts:
        raise DamagedVideo("no frames")
    if span is not None and None in pts:
        raise VideoError("frames without time stamps, so that no span can be cut")
    return repair_times(pts, is_key, step)


def _decoded(container: InputContainer, stream: VideoStream, tally: Tally | None) -> Iterator[VideoFrame]:
    return (frame for _, frames in decode_packets(container, stream, tally) for frame in frames)


def _ticks(stream: VideoStream, span: tuple[float, float]) -> tuple[Fraction, Fraction]:
    """Return a span in seconds as ticks of a stream."""
    start, end = (Fraction(seconds).limit_denominator(10**6) / _tick(stream) for seconds in span)
    return start, end


def _tick(stream: VideoStream) -> Fraction:
    assert stream.time_base is not None
    return stream.time_base


def _decoded_span(
    container: InputContainer, stream: VideoStream, tally: Tally, start: Fraction, end: Fraction
) -> Iterator[VideoFrame]:
    """Return the frames from `start` on and before `end`, in ticks from the first frame of the stream."""
    beginning = next(
        _decoded(container, stream, None), None
    )  # a container's own beginning may be another one
    begin = stream.start_time or 0 if beginning is None or beginning.pts is None else beginning.pts
    first, last = begin + start, begin + end
    tally.limit_to(first, last, begin)
    container.seek(int(first), stream=stream)
    shown = next(_decoded(container, stream, None), None)
    # Without an exact index it may be a later one, and the container's flag may be wrong.
    is_exact = shown is not None and shown.pts is not None and shown.pts <= first and not is_predicted(shown)
    # A second earlier than the first frame, since transport streams are sought by the order of decoding.
    container.seek(int(first) if is_exact else begin - round(1 / _tick(stream)), stream=stream)
    is_empty = True
    for frame in _decoded(container, stream, tally):
        if frame.pts is not None and frame.pts >= last:
            break
        if frame.pts is None or frame.pts >= first:
            is_empty = False
            yield frame
    if is_empty:
        raise UnindexableVideo("no frames in the span")  # where time begins anew, a later part may have them


def _upright_frames(
    frames: Iterable[tuple[VideoFrame, Display]], max_short_side: int | None
) -> Iterator[VideoFrame]:
    """Turn frames upright and scale them to one size."""
    graph, kind, first, size = None, None, None, None
    for frame, display in frames:
        if kind != (display, frame_kind(frame)):
            kind = (display, frame_kind(frame))
            first = first or display.size(frame.width, frame.height)
            size = size or _target_size(first, max_short_side)
            graph = filter_graph(
                frame,
                *_fit(frame, display, size, first),
                ("setsar", "1"),
                ("format", "yuv420p"),
            )
        assert graph is not None
        graph.vpush(frame)
        upright = graph.vpull()
        upright.pts = frame.pts
        upright.time_base = frame.time_base
        yield upright


def _target_size(shown: tuple[int, int], max_short_side: int | None) -> tuple[int, int]:
    """Width and height of the encoded picture: even, its shorter side at most `max_short_side`."""
    width, height = shown
    scale = min(1.0, max_short_side / min(width, height)) if max_short_side else 1.0
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


def _fit(frame: VideoFrame, display: Display, size: tuple[int, int], first: tuple[int, int]) -> Filters:
    """Return the filters that show a frame in a picture of this size, between black bars where its shape is another.

    Args:
        frame: A frame of the kind.
        display: How it is shown.
        size: Width and height of the encoded picture.
        first: Those of the displayed picture that it was made for.
    """
    shown = display.size(frame.width, frame.height)
    scale = min(first[0] / shown[0], first[1] / shown[1])
    width, height = (
        max(2, 2 * round(whole * side * scale / full / 2))
        for whole, side, full in zip(size, shown, first, strict=True)
    )
    filters = picture_filters(frame, display, (width, height), ":out_color_matrix=bt601:out_range=limited")
    return filters if (width, height) == size else (*filters, ("pad", f"{size[0]}:{size[1]}:-1:-1"))
