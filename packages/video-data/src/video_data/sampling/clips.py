"""Which frames and which part of the picture make a clip: pure functions (paper section 5)."""

from dataclasses import dataclass
from typing import Literal, Self

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

    @property
    def short_side_range(self) -> tuple[int, int]:
        """The range of `short_side` in pixels, with its default resolved."""
        if self.short_side is not None:
            return self.short_side
        low, high = (round(side * self.crop_size / _PAPER_CROP) for side in _PAPER_SHORT_SIDE)
        return low, high

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
        """Frames of the video from the first to the last frame of a clip, both included."""
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


def repeat_factor(num_video_frames: int, span: int) -> int:
    """How often each frame is repeated before clips are cut.

    Paper section 5: each frame of a video that is too short is repeated twice. Precisely: 1 when the video
    has at least `span` frames, else 2 when twice its frames suffice, else 4. A clip that is still longer ends
    with copies of the last frame.
    """
    if num_video_frames >= span:
        return 1
    return 2 if 2 * num_video_frames >= span else 4


def num_starts(num_video_frames: int, clip: ClipConfig) -> int:
    """Number of places, in the repeated sequence, where a clip can start."""
    return max(1, repeat_factor(num_video_frames, clip.span) * num_video_frames - clip.span + 1)


def clip_frames(num_video_frames: int, clip: ClipConfig, start: int) -> tuple[int, ...]:
    """Frame indices of the clip that starts at `start` of the repeated sequence."""
    repeats = repeat_factor(num_video_frames, clip.span)
    last = num_video_frames - 1
    return tuple(min((start + i * clip.frame_stride) // repeats, last) for i in range(clip.num_frames))


def train_clip(
    num_video_frames: int, size: tuple[int, int], clip: ClipConfig, *, seed: int, position: int
) -> ClipSpec:
    """The clip for one position of training (paper section 5).

    The start is uniform over all possible starts (temporal jittering), the shorter side uniform over the
    integers of `clip.short_side_range`, the crop uniform over the picture.

    Args:
        num_video_frames: frames of the video.
        size: width and height of the displayed picture in pixels.
        clip: the clip wanted.
        seed: seed of the run.
        position: global position of the sample; with `seed` it determines every random choice.
    """
    start_u, side_u, x_u, y_u, flip_u = uniforms(seed, position, 2, count=5)
    low, high = clip.short_side_range
    side = low + int(side_u * (high - low + 1))
    crop = source_crop_size(size, clip.crop_size, side)
    box = Box(_even(x_u, size[0] - crop), _even(y_u, size[1] - crop), crop, crop)
    start = int(start_u * num_starts(num_video_frames, clip))
    return ClipSpec(clip_frames(num_video_frames, clip, start), box, clip.flip and flip_u < 0.5)


def source_crop_size(size: tuple[int, int], crop_size: int, short_side: int) -> int:
    """Side in pixels of the square of the original picture that becomes the crop.

    Resizing the shorter side to `short_side` and then cutting `crop_size` pixels shows the same part of the
    picture as cutting this square first and resizing it to `crop_size`. The side is rounded down to an even
    number, at least 2, because the color planes of most videos have half the resolution.
    """
    return max(2, min(size) * crop_size // short_side // 2 * 2)


def view_starts(num_video_frames: int, clip: ClipConfig, num_clips: int) -> list[int]:
    """Starts of `num_clips` test clips, uniformly spaced from the first to the last possible start.

    One clip alone starts in the middle (paper section 5: clips uniformly spaced out in the video).
    """
    last = num_starts(num_video_frames, clip) - 1
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
