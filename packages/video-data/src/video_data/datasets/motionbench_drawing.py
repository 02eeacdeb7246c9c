"""Draws the videos of MotionBench's levels easy, medium and hard, with the true displacement of every pixel."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from video_data.datasets.motionbench_motions import Path, draw_motion, wander

Texture = Callable[[int, int], np.ndarray]
"""Makes a texture of so many rows and columns, float64 [rows, columns, 3] from 0 to 255."""


@dataclass(frozen=True)
class Look:
    """What a level adds to the motion.

    Attributes:
        distractors: Small objects that move straight on in any direction.
        bars: Still bars in front of everything.
        gain: The brightness of a frame is multiplied by at most so much more or less.
        noise: Standard deviation of the noise of a pixel, of 255.
        crf: Of the encoder; where it is low, what compression leaves behind an object does not show its path.
    """

    distractors: int = 0
    bars: int = 0
    gain: float = 0.0
    noise: float = 0.0
    crf: int = 12


LOOKS = {"easy": Look(), "medium": Look(2, 1, 0.1, 3.0, 20), "hard": Look(5, 2, 0.25, 8.0, 28)}
_HALF_SIDE = (6.5, 9.0)  # of an object, in pixels of a picture of 40
_HALF_SIDE_SMALL = (2.5, 3.5)  # of a distractor
_BAR = 3.0  # width
_GROUND = 0  # number of the layer


@dataclass(frozen=True)
class Scene:
    """A video and what moves in it.

    Attributes:
        frames: uint8 [frames, size, size, 3].
        displacement: For each frame but the first and each of its pixels where what is seen there was in the frame
            before, relative to the pixel, in pixels: float32 [frames - 1, size, size, 2], (x, y) as in optical flow.
        visible: Whether it was seen there: not hidden, and not outside of the picture; bool [frames - 1, size, size].
    """

    frames: np.ndarray
    displacement: np.ndarray
    visible: np.ndarray


def draw_scene(
    name: str, random: np.random.RandomState, texture: Texture, *, level: str, size: int, num_frames: int
) -> Scene:
    """Draw a video of a class.

    Args:
        name: Its motion, one of `MOTIONS`.
        random: Where everything but the textures comes from.
        texture: Where textures come from.
        level: easy, medium or hard.
        size: Side of the picture in pixels.
        num_frames: Frames of the video.
    """
    look, unit = LOOKS[level], size / 40
    motion = draw_motion(name, random, size=size, num_frames=num_frames)
    small = [wander(random, size=size, num_frames=num_frames) for _ in range(look.distractors)]
    sprites = [
        *(_sprite(random, texture, random.uniform(*_HALF_SIDE_SMALL) * unit) for _ in small),
        *(_sprite(random, texture, random.uniform(*_HALF_SIDE) * unit) for _ in motion.objects),
    ]
    paths = [*small, *motion.objects]
    ground = texture(size, size)
    bars = [_bar(random, texture, size) for _ in range(look.bars)]
    gains = 1 + random.uniform(-look.gain, look.gain, num_frames)

    frames = np.empty((num_frames, size, size, 3), dtype=np.uint8)
    layers = np.empty((num_frames, size, size), dtype=np.int64)
    displacement = np.zeros((num_frames, size, size, 2), dtype=np.float32)
    for index in range(num_frames):
        picture = shifted(ground, motion.ground.center[index])
        layer = np.full((size, size), _GROUND)
        moved = np.broadcast_to(_step(motion.ground.center, index), (size, size, 2)).copy()
        for number, (path, sprite) in enumerate(zip(paths, sprites, strict=True), 1):
            color, alpha, place = _seen(sprite, path, index, size)
            picture = picture * (1 - alpha[..., None]) + color
            on_top = alpha >= 0.5
            layer[on_top] = number
            moved[on_top] = _moved(path, index, place)[on_top]
        for number, (where, color) in enumerate(bars, 1 + len(paths)):
            picture = np.where(where[..., None], color, picture)
            layer[where], moved[where] = number, 0
        if look.noise:
            picture = picture + random.normal(0, look.noise, picture.shape)
        frames[index] = np.clip(np.rint(picture * gains[index]), 0, 255)
        layers[index], displacement[index] = layer, moved[..., ::-1]
    return Scene(frames, displacement[1:], _visible(layers, displacement))


def blocks(random: np.random.RandomState, unit: float) -> Texture:
    """Return textures of squares of 3 pixels, of a picture of 40, in random colors."""
    side = max(1, round(3 * unit))

    def texture(rows: int, columns: int) -> np.ndarray:
        colors = random.randint(0, 256, (-(-rows // side), -(-columns // side), 3)).astype(np.float64)
        return colors.repeat(side, 0).repeat(side, 1)[:rows, :columns]

    return texture


def _sprite(random: np.random.RandomState, texture: Texture, half_side: float) -> np.ndarray:
    """Return an object, float64 [side, side, 4]: colors times alpha, and alpha, of a square, a disc or a diamond."""
    side = 2 * int(np.ceil(half_side)) + 3
    rows, columns = np.abs(np.mgrid[:side, :side] - (side - 1) / 2)
    inside = (
        np.maximum(rows, columns) <= half_side,
        np.hypot(rows, columns) <= 1.1 * half_side,
        rows + columns <= 1.3 * half_side,
    )[random.randint(3)]
    inside[0] = inside[-1] = inside[:, 0] = inside[:, -1] = False  # what is outside is seen as nothing
    sprite = np.empty((side, side, 4))
    sprite[..., 3] = inside
    sprite[..., :3] = texture(side, side) * inside[..., None]
    return sprite


def _bar(random: np.random.RandomState, texture: Texture, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where a bar is, bool [size, size], and its color."""
    width = max(1, round(_BAR * size / 40))
    start, is_row = random.randint(size - width + 1), random.randint(2)
    where = np.zeros((size, size), dtype=bool)
    if is_row:
        where[start : start + width] = True
    else:
        where[:, start : start + width] = True
    return where, texture(1, 1)[0, 0]


def _seen(sprite: np.ndarray, path: Path, index: int, size: int) -> tuple[np.ndarray, ...]:
    """Look at an object in a frame: its colors times alpha, alpha, and which of its points each pixel shows."""
    center, matrix = path.center[index], path.matrix[index]
    rows, columns = (np.arange(size) - center[axis] for axis in (0, 1))
    # The nearest of its images on the torus.
    rows = (rows + size / 2) % size - size / 2
    columns = (columns + size / 2) % size - size / 2
    scale = 1 / (matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])
    row = (matrix[1, 1] * rows[:, None] - matrix[0, 1] * columns[None]) * scale
    column = (matrix[0, 0] * columns[None] - matrix[1, 0] * rows[:, None]) * scale
    place = np.stack([row, column], axis=-1)
    side = len(sprite)
    at = np.clip(place + (side - 1) / 2, 0, side - 1.001)
    whole = np.floor(at).astype(int)
    below, right = np.moveaxis(at - whole, -1, 0)[..., None]
    top, left = np.moveaxis(whole, -1, 0)
    seen = (1 - below) * ((1 - right) * sprite[top, left] + right * sprite[top, left + 1]) + below * (
        (1 - right) * sprite[top + 1, left] + right * sprite[top + 1, left + 1]
    )
    return seen[..., :3], seen[..., 3], place


def _moved(path: Path, index: int, place: np.ndarray) -> np.ndarray:
    """Return where points of an object were in the frame before, relative to where they are, (row, column)."""
    if index == 0:
        return np.zeros_like(place)
    change = path.matrix[index - 1] - path.matrix[index]
    row = change[0, 0] * place[..., 0] + change[0, 1] * place[..., 1]
    column = change[1, 0] * place[..., 0] + change[1, 1] * place[..., 1]
    step = _step(path.center, index)
    return np.stack([row + step[0], column + step[1]], axis=-1)


def _step(center: np.ndarray, index: int) -> np.ndarray:
    step: np.ndarray = center[index - 1] - center[index] if index else np.zeros(2)
    return step


def shifted(picture: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Move a picture by fractions of pixels with bilinear weights; what leaves comes back opposite."""
    whole = np.floor(offset).astype(int)
    row, column = offset - whole
    moved = np.roll(picture, whole, (0, 1))
    moved = (1 - row) * moved + row * np.roll(moved, 1, 0)
    result: np.ndarray = (1 - column) * moved + column * np.roll(moved, 1, 1)
    return result


def _visible(layers: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Return whether what each pixel shows was seen in the frame before, bool [frames - 1, size, size]."""
    size = layers.shape[-1]
    rows, columns = np.mgrid[:size, :size]
    result = np.empty((len(layers) - 1, size, size), dtype=bool)
    for index in range(1, len(layers)):
        row = np.rint(rows + displacement[index, ..., 1]).astype(int)
        column = np.rint(columns + displacement[index, ..., 0]).astype(int)
        inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
        before = layers[index - 1][row.clip(0, size - 1), column.clip(0, size - 1)]
        result[index - 1] = inside & (before == layers[index])
    return result
