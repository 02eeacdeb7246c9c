"""Ways to read clips and test views of a video, all on one thread, to be timed side by side.

Every contender reads the same clips of the same bytes. The floor seeks and decodes the frames that a clip needs and
makes no pixels of them.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import av
import numpy as np
import torch
from torch.nn.functional import interpolate

from bench.data.media import encode, moving_textures
from bench.interleave import Contender
from video_data import ClipConfig, decode_views
from video_data.loading.views import _Views
from video_data.media.container import VideoInfo, probe_video
from video_data.media.decode import decode_clips
from video_data.media.planes import decode_planes
from video_data.sampling.clips import Box, ClipSpec, clip_frames, train_clip, view_boxes, view_starts

SIZE, NUM_FRAMES = (340, 256), 300
CROP = 224


@dataclass(frozen=True)
class Video:
    """A video with the index of its frames."""

    kind: str
    content: bytes
    info: VideoInfo


@cache
def video(kind: str) -> Video:
    content = encode(_pictures(), kind)
    return Video(kind, content, probe_video(content))


@cache
def _pictures() -> list[np.ndarray]:
    return moving_textures(0, SIZE, NUM_FRAMES)


def random_clips(source: Video, stride: int, number: int) -> list[ClipSpec]:
    clip = ClipConfig(num_frames=32, frame_stride=stride, crop_size=CROP)
    info = source.info
    return [train_clip(info, info.display_size, clip, seed=0, position=p) for p in range(number)]


def for_clips(source: Video, clips: Sequence[ClipSpec]) -> list[Contender]:
    """The floor first; every call reads all the clips."""

    def each(read: Callable[[Video, ClipSpec], object]) -> Callable[[], object]:
        return lambda: [read(source, clip) for clip in clips]

    return [
        Contender("floor", each(lambda v, clip: decode_only(v, clip.frames)), threads=1),
        Contender(
            "floor, opened without probing",
            each(lambda v, clip: decode_only(v, clip.frames, probe=False)),
            threads=1,
        ),
        Contender("ours, RGB", each(read_rgb), threads=1),
        Contender("ours, planes", each(read_planes), threads=1),
        Contender("whole frames, then crop and resize", each(read_whole_frames), threads=1),
        Contender("whole video, then frames", each(read_whole_video), threads=1),
        torchcodec(source, clips),
    ]


def for_views(source: Video, num_clips: int = 10) -> list[Contender]:
    clip = ClipConfig(num_frames=32, crop_size=CROP)
    info = source.info
    starts = view_starts(info, clip, num_clips)
    views = [clip_frames(info, clip, start) for start in starts]
    frames = sorted({frame for view in views for frame in view})
    (box,) = view_boxes(info.display_size, clip, 1)

    def one_by_one() -> object:
        return [read_rgb(source, ClipSpec(view, box, False)) for view in views]

    def rgb() -> object:
        reader = _Views(num_clips, 1, clip)
        out = np.empty(reader.shape, dtype=np.uint8)
        reader.read_rgb(source.content, info, out)
        return out

    return [
        Contender("floor", lambda: decode_only(source, frames), threads=1),
        Contender("ours, RGB", rgb, threads=1),
        Contender(
            "ours, planes", lambda: _Views(num_clips, 1, clip).read_planes(source.content, info), threads=1
        ),
        Contender("a seek for each clip", one_by_one, threads=1),
        Contender(
            "decode_views, indexes the file first",
            lambda: decode_views(source.content, clip, num_clips),
            threads=1,
        ),
    ]


def decode_only(source: Video, frames: Sequence[int], *, probe: bool = True) -> int:
    """Seek and decode, skipping frames that no other needs; return the number of wanted frames."""
    options = {} if probe else {"codec_whitelist": "none"}
    info = source.info
    wanted = {int(info.pts[frame]) for frame in frames}
    start = int(info.keyframes[np.searchsorted(info.keyframes, frames[0], side="right") - 1])
    found = 0
    with av.open(io.BytesIO(source.content), format=info.format, container_options=options) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        context.thread_count, context.thread_type = 1, "NONE"
        if start:
            container.seek(int(info.pts[start]), stream=stream)
        for packet in container.demux(stream):
            needed = packet.pts is None or packet.pts in wanted
            context.skip_frame = "DEFAULT" if needed else "NONREF"
            for frame in packet.decode():
                found += frame.pts in wanted
            if found == len(wanted):
                return found
    return found


def read_rgb(source: Video, clip: ClipSpec) -> object:
    return decode_clips(source.content, source.info, [clip.frames], [clip.box], CROP)


def read_planes(source: Video, clip: ClipSpec) -> object:
    return decode_planes(source.content, source.info, clip.frames, [clip.box])


def read_whole_frames(source: Video, clip: ClipSpec) -> object:
    """Seeks, converts each wanted frame as a whole, then cuts and resizes the clip."""
    info = source.info
    wanted = {int(info.pts[frame]) for frame in clip.frames}
    start = int(info.keyframes[np.searchsorted(info.keyframes, clip.frames[0], side="right") - 1])
    pictures: list[np.ndarray] = []
    with av.open(io.BytesIO(source.content), format=info.format) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count, stream.codec_context.thread_type = 1, "NONE"
        if start:
            container.seek(int(info.pts[start]), stream=stream)
        for frame in container.decode(stream):
            if frame.pts in wanted:
                pictures.append(frame.to_ndarray(format="rgb24"))
                if len(pictures) == len(wanted):
                    break
    return _crop_and_resize(torch.from_numpy(np.stack(pictures)).movedim(-1, 1), clip.box)


def read_whole_video(source: Video, clip: ClipSpec) -> object:
    """Decode the whole video, then take the frames of the clip."""
    with av.open(io.BytesIO(source.content), format=source.info.format) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count, stream.codec_context.thread_type = 1, "NONE"
        frames = list(container.decode(stream))
        pictures = np.stack([frames[number].to_ndarray(format="rgb24") for number in clip.frames])
    return _crop_and_resize(torch.from_numpy(pictures).movedim(-1, 1), clip.box)


def torchcodec(source: Video, clips: Sequence[ClipSpec]) -> Contender:
    try:
        from torchcodec.decoders import VideoDecoder
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:120]
        return Contender("torchcodec", None, note=f"not installed: {type(error).__name__}: {reason}")

    def call() -> object:
        result = []
        for clip in clips:
            decoder = VideoDecoder(source.content, num_ffmpeg_threads=1, seek_mode="approximate")
            pictures = decoder.get_frames_at(list(clip.frames)).data
            result.append(_crop_and_resize(pictures, clip.box))
        return result

    return Contender("torchcodec", call, threads=1)


def _crop_and_resize(pictures: torch.Tensor, box: Box) -> torch.Tensor:
    part = pictures[..., box.y : box.y + box.height, box.x : box.x + box.width]
    return interpolate(part, (CROP, CROP), mode="bilinear", antialias=True)
