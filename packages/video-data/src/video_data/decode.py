"""Decoding chosen frames: seek to a keyframe, skip what nothing depends on, crop, then scale and convert.

Cropping before scaling shows the same pixels as scaling before cropping, up to the rounding of the crop to
even pixels and the interpolation at its border, and converts only what is kept.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from av.container import InputContainer
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from video_data.clips import Box
from video_data.probe import VideoError, VideoInfo, VideoSource, open_video

_ROTATE: dict[int, tuple[tuple[str, str], ...]] = {
    0: (),
    90: (("transpose", "cclock"),),
    180: (("hflip", ""), ("vflip", "")),
    270: (("transpose", "clock"),),
}


def decode_frames(
    source: VideoSource, info: VideoInfo, frames: Sequence[int], boxes: Sequence[Box], size: int
) -> np.ndarray:
    """Decodes frames of a video as RGB crops.

    Each frame is decoded and converted once, in one pass over the video that seeks across gaps without a
    wanted frame.

    Args:
        source: content of the video, or its path.
        info: the index of the video's frames.
        frames: indices into `info.pts`, strictly increasing.
        boxes: parts of the displayed (rotated) picture to cut.
        size: side in pixels to which each part is scaled (bilinear).

    Returns:
        uint8 [len(boxes), len(frames), size, size, 3].

    Raises:
        VideoError: a frame cannot be decoded or is not what the index says.
    """
    out = np.empty((len(boxes), len(frames), size, size, 3), dtype=np.uint8)
    times = info.pts[np.asarray(frames, dtype=np.int64)].tolist()
    slots = {pts: slot for slot, pts in enumerate(times)}
    croppers: dict[str, list[RgbGraph]] = {}

    def convert(frame: VideoFrame) -> None:
        if (frame.width, frame.height) != (info.width, info.height):
            raise VideoError(
                f"frame of {frame.width}x{frame.height}, the index says {info.width}x{info.height}"
            )
        if frame.format.name not in croppers:
            croppers[frame.format.name] = [RgbGraph(frame, info.rotation, box, size) for box in boxes]
        slot = slots.pop(frame.pts)
        for crop, cropper in enumerate(croppers[frame.format.name]):
            cropper.convert(frame, out[crop, slot])

    with open_video(source, format=info.format) as (container, stream):
        for keyframe, wanted in _segments(info, frames):
            if keyframe > 0:
                container.seek(int(info.pts[keyframe]), stream=stream)
            for frame in _wanted_frames(
                container, stream, set(info.pts[wanted].tolist()), seeked=keyframe > 0
            ):
                convert(frame)
    if slots:  # the container could not seek exactly: read it from the start
        with open_video(source, format=info.format) as (container, stream):
            for frame in _wanted_frames(container, stream, set(slots), seeked=False, skip=False):
                convert(frame)
    if slots:
        raise VideoError(f"{len(slots)} of {len(times)} wanted frames could not be decoded")
    return out


def _segments(info: VideoInfo, frames: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Groups frames by the keyframe to seek to (0 for the first group when it needs no seek).

    A group goes on as long as no keyframe lies between one wanted frame and the next.
    """
    positions = np.searchsorted(info.keyframes, np.asarray(frames), side="right") - 1
    starts = [int(info.keyframes[position]) if position >= 0 else 0 for position in positions]
    group = [frames[0]]
    keyframe = starts[0]
    for frame, start in zip(frames[1:], starts[1:], strict=True):
        if start > group[-1] + 1:
            yield keyframe, group
            keyframe, group = start, []
        group.append(frame)
    yield keyframe, group


def _wanted_frames(
    container: InputContainer, stream: VideoStream, wanted: set[int], *, seeked: bool, skip: bool = True
) -> Iterator[VideoFrame]:
    """Frames whose pts is wanted, read from where the container stands; ends early when a seek went wrong."""
    context = stream.codec_context
    context.open(strict=False)  # before skip_frame is set: dav1d takes its first value for good
    first = min(wanted)
    remaining = set(wanted)
    for packet in container.demux(stream):
        if seeked:
            if not packet.is_keyframe or packet.pts is None or packet.pts > first:
                return
            seeked = False
        needed = not skip or packet.pts is None or packet.pts in wanted
        context.skip_frame = "DEFAULT" if needed else "NONREF"
        for frame in packet.decode():
            if frame.pts in remaining:
                remaining.remove(frame.pts)
                yield frame
        if not remaining:
            return


class RgbGraph:
    """Rotates, cuts and scales frames of one format to square RGB pictures.

    Args:
        frame: a frame of the kind to convert.
        rotation: degrees counter-clockwise by which the frames are turned first.
        box: the part of the turned frame that is kept.
        size: side of the result in pixels.
    """

    def __init__(self, frame: VideoFrame, rotation: int, box: Box, size: int) -> None:
        self._graph = filter_graph(
            frame,
            *rotation_filters(rotation),
            ("crop", f"{box.width}:{box.height}:{box.x}:{box.y}"),
            ("scale", f"{size}:{size}:flags=bilinear"),
            ("format", "rgb24"),
        )
        self._size = size

    def convert(self, frame: VideoFrame, out: np.ndarray) -> None:
        """Writes the converted frame into `out`, uint8 [size, size, 3]."""
        self._graph.vpush(frame)
        picture = self._graph.vpull()
        assert (picture.width, picture.height) == (self._size, self._size)
        plane = picture.planes[0]  # its rows are padded to line_size bytes
        rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
        out[:] = rows[: self._size, : 3 * self._size].reshape(out.shape)


def filter_graph(frame: VideoFrame, *filters: tuple[str, str]) -> Graph:
    """A chain of FFmpeg filters for frames like `frame`, on the calling thread."""
    graph = Graph()
    graph.threads = 1
    node = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or Fraction(1, 1000),
    )
    for name, arguments in (*filters, ("buffersink", "")):
        following = graph.add(name, arguments or None)
        node.link_to(following)
        node = following
    graph.configure()
    return graph


def rotation_filters(rotation: int) -> tuple[tuple[str, str], ...]:
    """Filters that turn frames by `rotation` degrees counter-clockwise: 0, 90, 180 or 270."""
    return _ROTATE[rotation]
