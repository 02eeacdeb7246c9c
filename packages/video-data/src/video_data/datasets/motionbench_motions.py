"""The motions of MotionBench's levels easy, medium and hard: for each class how two objects and the ground move.

All that one frame can show, place, angle, size, shear and distance of the objects, is drawn from the same distribution
for every class: a frame that is taken from anywhere in a video says nothing of the class. Pairs of classes are each
other's videos played backwards (grow and shrink, meet and part, curves and turns to the left and right).
"""

from dataclasses import dataclass

import numpy as np

DIRECTIONS = ("up", "up-right", "right", "down-right", "down", "down-left", "left", "up-left")
"""Clockwise from the top; direction i is at i * 45 degrees."""

MOTIONS = (
    *(f"{direction}-{speed}" for direction in DIRECTIONS for speed in ("slow", "fast")),
    "curve-left", "curve-right",
    "speed-up", "slow-down",
    "rotate-left", "rotate-right",
    "grow", "shrink",
    "shear-left", "shear-right",
    "meet", "part",
    "pan-with", "pan-against",
)  # fmt: skip
"""The classes of the levels easy, medium and hard."""

# Per frame, lengths in pixels of a picture of 40.
_SLOW, _FAST, _ANY = (0.5, 0.9), (1.7, 2.5), (0.5, 2.5)
_CURVE = (0.12, 0.2)  # radians
_ROTATION = (0.1, 0.2)
_GROWTH = (0.02, 0.035)  # of the logarithm of the size
_SHEAR = (0.035, 0.06)
_PAN = (0.7, 1.2)
_NEAR, _FAR = 4.0, 12.0  # half of the distance of two objects
_GRID = 2.0**20


@dataclass(frozen=True)
class Path:
    """How something moves, in pixels.

    Attributes:
        center: Row and column in each frame, float64 [frames, 2]; the picture is a torus, and they run on.
        matrix: From the coordinates of the object to those of the picture, float64 [frames, 2, 2].
    """

    center: np.ndarray
    matrix: np.ndarray


@dataclass(frozen=True)
class Motion:
    """What moves in a video.

    Attributes:
        objects: The paths of the two objects.
        ground: That of the ground, whose matrix is the identity.
    """

    objects: tuple[Path, Path]
    ground: Path


def draw_motion(name: str, random: np.random.RandomState, *, size: int, num_frames: int) -> Motion:
    """Draw the motion of a class.

    Args:
        name: One of `MOTIONS`.
        random: Where everything comes from; the same numbers are drawn for every class.
        size: Side of the picture in pixels.
        num_frames: Frames of the video.
    """
    unit = size / 40
    time = np.arange(num_frames) - (num_frames - 1) / 2  # the middle of the video is at 0
    share = np.linspace(0, 1, num_frames)
    heading, axis = random.uniform(0, 2 * np.pi, 2)
    slow, fast, pan = (random.uniform(*bounds) * unit for bounds in (_SLOW, _FAST, _PAN))
    curve, rotation = random.uniform(*_CURVE), random.uniform(*_ROTATION)
    growth, shear = random.uniform(*_GROWTH, 2), random.uniform(*_SHEAR, 2)
    angles = random.uniform(0, 2 * np.pi, 2)
    center, ground_start = random.uniform(0, size, (2, 2))

    speed, drift, spin, ground_speed = np.zeros_like(time), np.zeros_like(time), np.zeros_like(time), 0.0
    log_size, skew = ([rate * time for rate in rates] for rates in (growth, shear))
    apart = _NEAR + (_FAR - _NEAR) * share
    kind, _, variant = name.rpartition("-")
    # What does not change in a class is as it would be at some moment of a video in which it does.
    moments = random.randint(num_frames, size=5)
    if name not in ("grow", "shrink"):
        log_size = [np.full_like(time, log_size[i][moments[i]]) for i in range(2)]
    if kind != "shear":
        skew = [np.full_like(time, skew[i][moments[2 + i]]) for i in range(2)]
    if name not in ("meet", "part"):
        apart = np.full_like(time, apart[moments[4]])

    if kind in DIRECTIONS:
        heading = 2 * np.pi * DIRECTIONS.index(kind) / len(DIRECTIONS)
        speed += slow if variant == "slow" else fast
    elif kind == "curve":
        speed += fast
        drift = curve * time * _side(variant)
    elif name in ("speed-up", "slow-down"):
        speed += slow + (fast - slow) * (share if name == "speed-up" else share[::-1])
    elif kind == "rotate":
        spin = rotation * time * _side(variant)
    elif kind == "pan":
        speed += 2 * pan if variant == "with" else -pan
        ground_speed = pan
    elif name == "shrink":
        log_size = [-values for values in log_size]
    elif name == "shear-left":
        skew = [-values for values in skew]
    elif name == "meet":
        apart = apart[::-1]

    way = np.concatenate([[[0.0, 0.0]], np.cumsum(speed[1:, None] * _direction(heading + drift)[1:], axis=0)])
    middle = way - way[num_frames // 2]
    half = apart[:, None] * unit * _direction(np.full_like(time, axis))
    objects = tuple(
        Path(
            _exact(center + middle + side * half),
            _exact(_matrix(angles[i] + spin, skew[i], log_size[i])),
        )
        for i, side in enumerate((-1, 1))
    )
    # A fraction of a pixel from the first frame on, so that sharpness does not tell whether the ground moves.
    ground = ground_start + ground_speed * np.arange(num_frames)[:, None] * _direction(
        np.full_like(time, heading)
    )
    still = np.broadcast_to(np.eye(2), (num_frames, 2, 2))
    return Motion((objects[0], objects[1]), Path(_exact(ground), still))


def wander(random: np.random.RandomState, *, size: int, num_frames: int) -> Path:
    """Draw the path of something that moves straight on in any direction and means nothing."""
    speed, heading = random.uniform(*_ANY) * size / 40, random.uniform(0, 2 * np.pi)
    start, angle = random.uniform(0, size, 2), random.uniform(0, 2 * np.pi)
    center = start + speed * np.arange(num_frames)[:, None] * _direction(np.full(num_frames, heading))
    nothing = np.zeros(num_frames)
    return Path(_exact(center), _exact(_matrix(nothing + angle, nothing, nothing)))


def _side(variant: str) -> float:
    return 1.0 if variant == "right" else -1.0


def _direction(angle: np.ndarray) -> np.ndarray:
    """Return rows and columns of steps of length 1; an angle of 0 goes up, and they grow clockwise."""
    return np.stack([-np.cos(angle), np.sin(angle)], axis=-1)


def _matrix(angle: np.ndarray, skew: np.ndarray, log_size: np.ndarray) -> np.ndarray:
    """Return what shears, grows and turns clockwise, in this order, [frames, 2, 2]."""
    cos, sin = np.exp(log_size) * np.cos(angle), np.exp(log_size) * np.sin(angle)
    # A turn maps (row, column) to (row cos + column sin, column cos - row sin); a shear adds rows to columns.
    rows = np.stack([cos + skew * sin, sin], axis=-1)
    columns = np.stack([-sin + skew * cos, cos], axis=-1)
    return np.stack([rows, columns], axis=-2)


def _exact(values: np.ndarray) -> np.ndarray:
    """Round so that the last bits of sines, which differ from one machine to another, change no pixel."""
    result: np.ndarray = np.rint(values * _GRID) / _GRID
    return result
