"""Encoding H.264 for fast random access: short closed groups of pictures, no loop filter, no CABAC."""

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from video_data.media.container import VideoSource, decode_packets, demux, open_video
from video_data.media.display import Display, Displays, Filters, frame_kind
from video_data.media.filters import filter_graph, picture_filters
from video_data.media.limits import VideoError
from video_data.utils.errors import InputError

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
            raise VideoError("no frames")
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
    frame), and sides are rounded to even numbers. Frames of another shape than the first are fitted into it, with
    black bars.

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
        VideoError: The video cannot be decoded to its end, or has no frames in the span.
    """
    with open_video(source) as (container, stream):
        if span is None:
            frames = _decoded(container, stream)
        else:
            frames = _decoded_span(container, stream, *span)
        step = _frame_duration(stream.time_base, stream.average_rate)
        displays = Displays(stream)
        displayed = ((frame, displays.of(frame)) for frame in frames)
        return encode_h264(_upright_frames(displayed, max_short_side, step), gop=gop, crf=crf)


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
    return encode_h264(_upright_frames(frames, max_short_side, 1), gop=gop, crf=crf)


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    return (frame for _, frames in decode_packets(container, stream) for frame in frames)


def _decoded_span(
    container: InputContainer, stream: VideoStream, start: float, end: float
) -> Iterator[VideoFrame]:
    """Return the frames from `start` on and before `end`, in seconds from the beginning of the stream."""
    assert stream.time_base is not None
    begin = stream.start_time or 0
    first, last = (
        begin + Fraction(seconds).limit_denominator(10**6) / stream.time_base for seconds in (start, end)
    )
    container.seek(int(first), stream=stream)
    keyframe = _first_keyframe(container, stream)
    # Without an exact index it may be a later one.
    container.seek(int(first) if keyframe is not None and keyframe <= first else begin, stream=stream)
    is_empty = True
    for frame in _decoded(container, stream):
        if frame.pts is None:
            raise VideoError("frames without time stamps, so that no span can be cut")
        if frame.pts >= last:
            break
        if frame.pts >= first:
            is_empty = False
            yield frame
    if is_empty:
        raise VideoError(f"no frames from {start:g} to {end:g} seconds", reason="no frames in the span")


def _first_keyframe(container: InputContainer, stream: VideoStream) -> int | None:
    """Time of the next keyframe; frames before it may be shown wrongly after seeking."""
    with demux(container, stream) as packets:
        return next((packet.pts for packet in packets if packet.is_keyframe), None)


def _frame_duration(time_base: Fraction | None, rate: Fraction | None) -> int:
    """Duration of a frame in units of the time base, for frames without a time."""
    return max(1, round(1 / (rate * time_base))) if rate and time_base else 1


def _upright_frames(
    frames: Iterable[tuple[VideoFrame, Display]], max_short_side: int | None, step: int
) -> Iterator[VideoFrame]:
    """Turn frames upright, scale them to one size and give them increasing times that start at 0."""
    graph, kind, first, size = None, None, None, None
    first_pts, last_pts = None, -1
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
        if frame.pts is None:
            frame.pts = last_pts + step if first_pts is None else first_pts + last_pts + step
        first_pts = frame.pts if first_pts is None else first_pts
        graph.vpush(frame)
        upright = graph.vpull()
        # The decoder's order is the order in time, also where the times say otherwise (H.264 with B-frames in AVI).
        last_pts = upright.pts = max(frame.pts - first_pts, last_pts + 1)
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
