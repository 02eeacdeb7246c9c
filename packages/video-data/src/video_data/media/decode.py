"""Decoding chosen frames: seek to a keyframe, skip what nothing depends on, crop, then scale and convert.

Cropping before scaling shows the same pixels as scaling before cropping, up to the rounding of the crop to
even pixels of the stored frame and the interpolation at its border, and converts only what is kept.
"""

from collections.abc import Iterator, Sequence

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from video_data.media.container import VideoInfo, VideoSource, demux, open_video, video_errors
from video_data.media.delivery import repeats_frame
from video_data.media.display import frame_kind
from video_data.media.filters import RgbGraph
from video_data.media.limits import MAX_CLIP_SECONDS, MAX_FRAMES, Deadline, VideoError
from video_data.sampling.clips import Box
from video_data.utils.errors import describe

_STORES_TIMES = ("mov", "matroska")  # containers whose times do not depend on what the decoder found out
_LEAST_GAP = 8  # frames between two wanted ones that are worth a seek


@video_errors()
def decode_clips(
    source: VideoSource,
    info: VideoInfo,
    clips: Sequence[Sequence[int]],
    boxes: Sequence[Box],
    size: int,
    *,
    flip: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decode clips of a video as RGB crops.

    Each frame is decoded and converted once, in one pass over the video that seeks across gaps without a
    wanted frame, straight to its place in the result.

    Args:
        source: Content of the video, or its path.
        info: The index of the video's frames.
        clips: For each clip its frames as indices into `info.pts`, in any order and with repeats, [N][L].
        boxes: Parts of the displayed picture to cut.
        size: Side in pixels to which each part is scaled (bilinear).
        flip: Whether to mirror the parts left to right.
        out: Array for the result; None makes one.

    Returns:
        uint8 [N, len(boxes), L, size, size, 3].

    Raises:
        VideoError: A frame cannot be decoded or is not what the index says, or a limit is passed.
    """
    frames, places = unique_frames(clips)
    if out is None:
        out = np.empty((len(clips), len(boxes), len(clips[0]), size, size, 3), dtype=np.uint8)
    graphs: dict[tuple[object, ...], list[RgbGraph]] = {}
    for slot, frame in read_frames(source, info, frames):
        kind = frame_kind(frame)
        if kind not in graphs:
            graphs[kind] = [RgbGraph(frame, info.display, box, size, flip) for box in boxes]
        (clip, time), *others = places[slot]
        for crop, graph in enumerate(graphs[kind]):
            picture = out[clip, crop, time]
            graph.convert(frame, picture)
            for other, other_time in others:
                out[other, crop, other_time] = picture
    return out


def unique_frames(clips: Sequence[Sequence[int]]) -> tuple[list[int], list[list[tuple[int, int]]]]:
    """Return the frames of clips in increasing order, and for each the clips and the places in them that show it."""
    places: dict[int, list[tuple[int, int]]] = {}
    for clip, frames in enumerate(clips):
        for time, frame in enumerate(frames):
            places.setdefault(int(frame), []).append((clip, time))
    unique = sorted(places)
    return unique, [places[frame] for frame in unique]


def read_frames(
    source: VideoSource, info: VideoInfo, frames: Sequence[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """Decode frames of a video, each once, in one pass that seeks across gaps without a wanted frame.

    Args:
        source: Content of the video, or its path.
        info: The index of the video's frames.
        frames: Indices into `info.pts`, strictly increasing.

    Yields:
        The place in `frames` and the decoded frame, as the decoder delivers them. Frames that are kept hold
        buffers of the decoder: copy them out at once.

    Raises:
        VideoError: A frame cannot be decoded or is not what the index says, or a limit is passed.
    """
    deadline = Deadline(MAX_CLIP_SECONDS)
    slots = {pts: slot for slot, pts in enumerate(info.pts[np.asarray(frames, dtype=np.int64)].tolist())}

    def checked(frame: VideoFrame) -> tuple[int, VideoFrame]:
        if (frame.width, frame.height) != (info.width, info.height):
            raise VideoError(
                f"frame of {frame.width}x{frame.height}, the index says {info.width}x{info.height}",
                reason="frames do not have the size in the index",
            )
        assert frame.pts is not None
        return slots.pop(frame.pts), frame

    # Where frames are missing, another way of reading may find them: opening may have taken the wrong order of frames
    # or refused the codec, a container may be unable to seek exactly, and a frame may be damaged after a seek alone.
    failure: VideoError | None = None
    for probe, seek in ((False, True), (True, True), (True, False)):
        left = [frames[slot] for slot in sorted(slots.values())]
        if not left or (not probe and info.format not in _STORES_TIMES):
            continue
        try:
            with open_video(
                source, format=info.format, stream=info.stream, probe=probe, max_seconds=MAX_CLIP_SECONDS
            ) as (container, stream):
                for keyframe, wanted in _segments(info, left) if seek else [(0, left)]:
                    if keyframe > 0:
                        container.seek(int(info.pts[keyframe]), stream=stream)
                    for frame in _wanted_frames(
                        container,
                        stream,
                        set(info.pts[wanted].tolist()),
                        deadline,
                        seeked=keyframe > 0,
                        skip=seek,
                        skips_refused=bool(info.num_damaged),
                        takes_damaged=not seek and info.num_damaged != 0,
                    ):
                        yield checked(frame)
        except VideoError as error:
            failure = error
    if slots:
        if failure is not None:
            raise failure
        raise VideoError(
            f"{len(slots)} of {len(frames)} wanted frames could not be decoded",
            reason="wanted frames could not be decoded",
        )


def _segments(info: VideoInfo, frames: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Group frames by the keyframe to seek to (0 for the first group when it needs no seek).

    A group ends where a seek to the next keyframe passes over at least `_LEAST_GAP` frames.
    """
    positions = np.searchsorted(info.keyframes, np.asarray(frames), side="right") - 1
    starts = [int(info.keyframes[position]) if position >= 0 else 0 for position in positions]
    group = [frames[0]]
    keyframe = starts[0]
    for frame, start in zip(frames[1:], starts[1:], strict=True):
        if start > group[-1] + _LEAST_GAP:
            yield keyframe, group
            keyframe, group = start, []
        group.append(frame)
    yield keyframe, group


def _wanted_frames(
    container: InputContainer,
    stream: VideoStream,
    wanted: set[int],
    deadline: Deadline,
    *,
    seeked: bool,
    skip: bool,
    skips_refused: bool,
    takes_damaged: bool,
) -> Iterator[VideoFrame]:
    """Frames whose pts is wanted, read from where the container stands; ends early when a seek went wrong.

    Where the video had damaged frames when it was indexed, packets that the decoder refuses are passed over.
    """
    context = stream.codec_context
    context.open(strict=False)  # before skip_frame is set: dav1d takes its first value for good
    first = min(wanted)
    remaining = set(wanted)
    skips = None
    with demux(container, stream) as packets:
        for number, packet in enumerate(packets):
            pts = packet.pts
            if seeked:
                if not packet.is_keyframe or pts is None or pts > first:
                    return
                seeked = False
            if number > MAX_FRAMES:
                raise VideoError(f"more than {MAX_FRAMES} frames", reason="too many frames")
            deadline.check()
            if repeats_frame(packet):
                continue
            unneeded = skip and pts is not None and pts not in wanted
            if unneeded is not skips:
                context.skip_frame = "NONREF" if unneeded else "DEFAULT"
                skips = unneeded
            try:
                decoded = packet.decode()
            except MemoryError:
                raise
            except av.FFmpegError as error:
                if skips_refused:
                    continue
                at = f" at {float(pts * packet.time_base):.2f} seconds" if pts is not None else ""
                raise VideoError(
                    f"damaged{at}: {describe(error)}",
                    reason="a packet is damaged",
                ) from error
            for frame in decoded:
                if frame.pts in remaining and (takes_damaged or not frame.is_corrupt):
                    remaining.remove(frame.pts)
                    yield frame
            if not remaining:
                return
