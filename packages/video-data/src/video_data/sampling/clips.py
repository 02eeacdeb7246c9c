"""Which frames and which part of the picture make a clip: pure functions (paper section 5)."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from video_data.sampling.order import uniforms
from video_data.utils.errors import InputError

DEFAULT_NUM_CLIPS = 10  # of a test video (paper section 5)
_PAPER_CROP = 224
_PAPER_SHORT_SIDE = (256, 320)


class ClipConfig(BaseModel):
    """The clip that a network sees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_frames: int = Field(default=32, ge=1, description="frames of a clip, L in the paper")
    frame_stride: int = Field(
        default=1, ge=1, description="distance between two frames of a clip, in frames of the video"
    )
    fps: float | None = Field(
        default=None,
        ge=0.01,
        allow_inf_nan=False,
        description="frames a second of a clip: it shows the video at times 1/fps apart, so that videos of different "
        "and of variable frame rates show motion alike. None: by frame_stride, whatever the rate of the video",
    )
    crop_size: int = Field(default=224, ge=2, description="side of the square crop in pixels")
    short_side: tuple[int, int] | None = Field(
        default=None,
        description="smallest and largest length in pixels of the shorter side of the resized picture from which the "
        "crop is cut; training draws from this range, testing uses its smaller end. None: [256, 320] scaled by "
        "crop_size / 224",
    )
    flip: bool = Field(
        default=False,
        description="whether training mirrors half of the clips left to right; off by default, since mirroring changes "
        "the class when classes are directions",
    )
    modality: Literal["rgb", "flow", "both"] = Field(
        default="rgb",
        description="what a clip shows: rgb, 3 channels; flow, the optical flow from each of its frames to the next "
        "frame of the video in x and y, 2 channels; both, RGB and then flow, 5 channels. Flow needs shards that were "
        "packed with it",
    )

    @model_validator(mode="after")
    def _check_short_side(self) -> Self:
        if self.short_side is not None and not self.crop_size <= self.short_side[0] <= self.short_side[1]:
            raise InputError(
                f"short_side must be (smallest, largest) with crop_size <= smallest <= largest, "
                f"got {self.short_side} with crop_size {self.crop_size}"
            )
        return self

    @model_validator(mode="after")
    def _check_fps(self) -> Self:
        if self.fps is not None and self.frame_stride != 1:
            raise InputError(
                f"fps={self.fps:g} and frame_stride={self.frame_stride} both say how far the frames of a clip are "
                "apart: leave one of them out (fps=null, or frame_stride=1)"
            )
        if self.fps is not None and self.modality != "rgb":
            raise InputError(
                f"fps is for RGB: modality is {self.modality}, and optical flow goes from each frame of a video to the "
                "next one, at the rate of the video; give frame_stride"
            )
        return self

    @property
    def short_side_range(self) -> tuple[int, int]:
        """The range of `short_side` in pixels, with its default resolved."""
        if self.short_side is not None:
            return self.short_side
        low, high = (round(side * self.crop_size / _PAPER_CROP) for side in _PAPER_SHORT_SIDE)
        return low, high

    @property
    def spacing(self) -> str:
        """How far the frames of a clip are apart, for people to read."""
        return f"stride {self.frame_stride}" if self.fps is None else f"{self.fps:g} fps"

    @property
    def length(self) -> str:
        """What a clip takes of a video, for people to read."""
        return (
            f"{self.span} frames" if self.fps is None else f"{(self.num_frames - 1) / self.fps:.3g} seconds"
        )

    @property
    def num_channels(self) -> int:
        """Channels of a clip."""
        return {"rgb": 3, "flow": 2, "both": 5}[self.modality]

    @property
    def num_flow_channels(self) -> int:
        """How many of the channels, the last ones, are optical flow."""
        return 0 if self.modality == "rgb" else 2

    @property
    def span(self) -> int:
        """Frames of the video from the first to the last frame of a clip, both included; not known with `fps`."""
        if self.fps is not None:
            raise InputError(
                "with fps how many frames of a video a clip spans depends on the video: see length"
            )
        return (self.num_frames - 1) * self.frame_stride + 1


@dataclass(frozen=True)
class Box:
    """A rectangle of the displayed picture in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class ClipSpec:
    """One clip to cut: frame indices in order of time, the crop, and whether it is mirrored."""

    frames: tuple[int, ...]
    box: Box
    flip: bool


class Frames(Protocol):
    """The frames of a video, as `VideoInfo` has them."""

    @property
    def num_frames(self) -> int:
        """Number of frames, at least 1."""

    @property
    def pts(self) -> np.ndarray:
        """Their times, increasing, int64 [num_frames]."""

    @property
    def time_base(self) -> Fraction:
        """Seconds per unit of `pts`."""


def repeat_factor(num_video_frames: int, span: int) -> int:
    """How often each frame is repeated before clips are cut.

    Paper section 5: each frame of a video that is too short is repeated twice. Precisely: 1 when the video
    has at least `span` frames, else 2 when twice its frames suffice, else 4. A clip that is still longer ends
    with copies of the last frame.
    """
    if num_video_frames >= span:
        return 1
    return 2 if 2 * num_video_frames >= span else 4


def num_starts(video: Frames, clip: ClipConfig) -> int:
    """Return the number of places where a clip can start: in the repeated sequence, or with `fps` frames of the video.

    With `fps` a clip can start at each frame after which the video lasts long enough, and at the first one.
    """
    if clip.fps is not None:
        room = _shown_until(video) - _steps(video, clip)[-1]
        return max(1, int(np.searchsorted(2 * video.pts, room, side="right")))
    num_video_frames = video.num_frames
    return max(1, repeat_factor(num_video_frames, clip.span) * num_video_frames - clip.span + 1)


def clip_frames(video: Frames, clip: ClipConfig, start: int) -> tuple[int, ...]:
    """Frame indices of the clip that starts at `start`, a place of `num_starts`.

    With `fps` they are the frames whose times are nearest to those of the clip, the earlier one of two. Where the video
    is too short the last one is held: repeating each frame would slow the motion down.
    """
    if clip.fps is not None:
        return tuple(_nearest(video, 2 * video.pts[start] + _steps(video, clip)).tolist())
    num_video_frames = video.num_frames
    repeats = repeat_factor(num_video_frames, clip.span)
    last = num_video_frames - 1
    return tuple(min((start + i * clip.frame_stride) // repeats, last) for i in range(clip.num_frames))


def _steps(video: Frames, clip: ClipConfig) -> np.ndarray:
    """Twice the times of the frames of a clip from its first one on, in pts rounded up, int64 [L].

    Twice, since what is nearer to one of two frames is decided at the middle between them: whole numbers are compared.
    """
    assert clip.fps is not None
    step = 2 / (Fraction(clip.fps).limit_denominator(10**6) * video.time_base)
    # Rounded up in whole numbers, since this is done for each clip and fractions take many times as long.
    return np.array([-(-number * step.numerator // step.denominator) for number in range(clip.num_frames)])


def _nearest(video: Frames, doubled_times: np.ndarray) -> np.ndarray:
    """Return the frames that are nearest to times, given as twice their pts; of two the earlier one."""
    return np.searchsorted(video.pts[:-1] + video.pts[1:], doubled_times, side="left")


def _shown_until(video: Frames) -> int:
    """Twice the time up to which the last frame is the nearest, if it lasts as long as the one before."""
    last = video.pts[-2:]
    return int(2 * last[-1] + (last[-1] - last[0]))


def train_clip(
    video: Frames, size: tuple[int, int], clip: ClipConfig, *, seed: int, position: int
) -> ClipSpec:
    """Return the clip for one position of training (paper section 5).

    The start is uniform over all possible starts (temporal jittering), the shorter side uniform over the
    integers of `clip.short_side_range`, the crop uniform over the picture.

    Args:
        video: Number and times of the frames.
        size: Width and height of the displayed picture in pixels.
        clip: The clip wanted.
        seed: Seed of the run.
        position: Global position of the sample; with `seed` it determines every random choice.
    """
    start_u, side_u, x_u, y_u, flip_u = uniforms(seed, position, 2, count=5)
    low, high = clip.short_side_range
    side = low + int(side_u * (high - low + 1))
    crop = source_crop_size(size, clip.crop_size, side)
    box = Box(_even(x_u, size[0] - crop), _even(y_u, size[1] - crop), crop, crop)
    start = int(start_u * num_starts(video, clip))
    return ClipSpec(clip_frames(video, clip, start), box, clip.flip and flip_u < 0.5)


def source_crop_size(size: tuple[int, int], crop_size: int, short_side: int) -> int:
    """Side in pixels of the square of the original picture that becomes the crop.

    Resizing the shorter side to `short_side` and then cutting `crop_size` pixels shows the same part of the
    picture as cutting this square first and resizing it to `crop_size`. The side is rounded down to an even
    number, at least 2, because the color planes of most videos have half the resolution.
    """
    return max(2, min(size) * crop_size // short_side // 2 * 2)


def view_starts(video: Frames, clip: ClipConfig, num_clips: int) -> list[int]:
    """Return the starts of `num_clips` test clips, uniformly spaced from the first to the last possible start.

    One clip alone starts in the middle (paper section 5: clips uniformly spaced out in the video). With `fps` they are
    spaced in time.
    """
    last = num_starts(video, clip) - 1
    if clip.fps is not None:
        first, room = int(video.pts[0]), int(video.pts[last] - video.pts[0])
        parts = (1,) if num_clips == 1 else range(0, 2 * num_clips, 2)
        times = [2 * first + math.ceil(Fraction(part * room, max(1, num_clips - 1))) for part in parts]
        return [int(start) for start in _nearest(video, np.array(times))]
    if num_clips == 1:
        return [last // 2]
    return [(2 * i * last + num_clips - 1) // (2 * (num_clips - 1)) for i in range(num_clips)]


def view_boxes(size: tuple[int, int], clip: ClipConfig, num_crops: int) -> list[Box]:
    """Crops of a test view: the center, or three spread along the longer side.

    The picture counts as resized so that its shorter side is the smaller end of `clip.short_side_range`.
    """
    crop = source_crop_size(size, clip.crop_size, clip.short_side_range[0])
    room_x, room_y = size[0] - crop, size[1] - crop
    if num_crops == 1:
        return [Box(_half(room_x), _half(room_y), crop, crop)]
    if room_x >= room_y:
        return [Box(x, _half(room_y), crop, crop) for x in (0, _half(room_x), room_x // 2 * 2)]
    return [Box(_half(room_x), y, crop, crop) for y in (0, _half(room_y), room_y // 2 * 2)]


def _even(u: float, room: int) -> int:
    """Even offset in [0, room], uniform for u uniform in [0, 1)."""
    return 2 * int(u * (room // 2 + 1))


def _half(room: int) -> int:
    """Even offset nearest below the middle of [0, room]."""
    return room // 2 // 2 * 2
