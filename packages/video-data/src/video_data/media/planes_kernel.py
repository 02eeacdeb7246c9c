"""The kernel that makes RGB of planes on a GPU, with the arithmetic of `video_data.media.planes`, to the bit."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from video_data.media.planes import COLUMNS, FRACTION_BITS, YuvClips

_ROWS, _PIXELS = 16, 32  # of a program


def launch(clips: YuvClips, out: Tensor, *, mean: float, scale: float) -> None:
    """Write pictures into `out`, [N, L, size, size, 3]; uint8 takes pixels, another type (pixels - mean) * scale.

    Sizes are arguments at run time, so videos of other sizes compile nothing anew.
    """
    size = clips.size
    grid = (clips.num_pictures, triton.cdiv(size, _ROWS), triton.cdiv(size, _PIXELS))
    if not clips.num_pictures:
        return
    with torch.cuda.device_of(out):
        _convert[grid](
            clips.data,
            clips.table,
            out,
            size,
            mean,
            scale,
            AS_PIXELS=out.dtype == torch.uint8,
            COLUMNS=COLUMNS,
            BITS=FRACTION_BITS,
            ROWS=_ROWS,
            PIXELS=_PIXELS,
        )


@triton.jit
def _convert(
    data, table, out, size, mean, scale,
    AS_PIXELS: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr, ROWS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Make a tile of ROWS x PIXELS of one picture."""
    picture = tl.program_id(0)
    row = table + picture * COLUMNS  # the fields of `_Picture`
    height = tl.load(row + 3).to(tl.int32)
    width = tl.load(row + 4).to(tl.int32)
    y = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    x = tl.program_id(2) * PIXELS + tl.arange(0, PIXELS)
    source_x = tl.where(tl.load(row + 5) != 0, size - 1 - x, x)
    inside = (y < size)[:, None] & (x < size)[None, :]
    shown = inside & (height > 0)
    half = (size + 1) // 2
    luma = _resized(data + tl.load(row), height, width, y, source_x, size, shown)
    u = _resized(data + tl.load(row + 1), height // 2, width // 2, y // 2, source_x // 2, half, shown) - 128
    v = _resized(data + tl.load(row + 2), height // 2, width // 2, y // 2, source_x // 2, half, shown) - 128
    luma = _times(luma - tl.load(row + 6).to(tl.int32), row + 7, BITS)
    green = _times(u, row + 9, BITS) + _times(v, row + 10, BITS)
    places = out + picture.to(tl.int64) * size * size * 3 + (y[:, None] * size + x[None, :]) * 3
    _store(places, luma + _times(v, row + 8, BITS), mean, scale, shown, inside, AS_PIXELS)
    _store(places + 1, luma + green, mean, scale, shown, inside, AS_PIXELS)
    _store(places + 2, luma + _times(u, row + 11, BITS), mean, scale, shown, inside, AS_PIXELS)


@triton.jit
def _resized(plane, height, width, y, x, size, shown):
    """Return pixels of a plane resized to `size`, int32 [ROWS, PIXELS], rounded from their exact values."""
    first_y, sum_y = _weight_sums(height, y, size)
    first_x, sum_x = _weight_sums(width, x, size)
    total = tl.zeros(shown.shape, tl.int64)
    for tap_y in range(_num_taps(height, size)):
        sample_y = first_y + tap_y
        line = tl.zeros(shown.shape, tl.int32)
        inner_y = tl.minimum(tl.maximum(sample_y, 0), height - 1).to(tl.int64) * width
        for tap_x in range(_num_taps(width, size)):
            sample_x = first_x + tap_x
            inner_x = tl.minimum(tl.maximum(sample_x, 0), width - 1)
            value = tl.load(plane + (inner_y[:, None] + inner_x[None, :]), mask=shown, other=0)
            line += _weight(width, x, sample_x, size)[None, :] * value.to(tl.int32)
        total += _weight(height, y, sample_y, size)[:, None].to(tl.int64) * line
    # The whole part of total / sums + 1/2: float32 is off by one at most.
    sums = tl.maximum(sum_y[:, None].to(tl.int64) * sum_x[None, :], 1)
    twice, divisor = 2 * total + sums, 2 * sums
    result = (twice.to(tl.float32) / divisor.to(tl.float32)).to(tl.int32)
    rest = twice - divisor * result
    return result + (rest >= divisor).to(tl.int32) - (rest < 0).to(tl.int32)


@triton.jit
def _num_taps(old, size):
    """Return how many samples may count for a pixel."""
    return 2 * ((2 * tl.maximum(old, size) + size - 1) // (2 * size)) + 1


@triton.jit
def _weight(old, place, sample, size):
    """Return the weight of a sample, a whole number; `_weights` of `planes` says which."""
    distance = tl.abs(2 * size * sample - ((2 * place + 1) * old - size))
    return tl.maximum(0, 2 * tl.maximum(old, size) - distance)


@triton.jit
def _weight_sums(old, place, size):
    """Return the first sample that may count for a pixel, and the sum of the weights of all."""
    taps = _num_taps(old, size)
    first = (2 * place + 1) * old // (2 * size) - taps // 2
    total = tl.zeros(place.shape, tl.int32)
    for tap in range(taps):
        total += _weight(old, place, first + tap, size)
    return first, total


@triton.jit
def _times(plane, coefficient, BITS: tl.constexpr):
    """Multiply with a coefficient in memory, rounded down."""
    return (plane * tl.load(coefficient).to(tl.int32)) >> BITS


@triton.jit
def _store(places, values, mean, scale, shown, inside, AS_PIXELS: tl.constexpr):
    """Write one channel."""
    pixels = tl.where(shown, tl.minimum(tl.maximum(values, 0), 255), 0)
    if AS_PIXELS:
        tl.store(places, pixels.to(tl.uint8), mask=inside)
    else:
        scaled = (pixels.to(tl.float32) - mean) * scale
        tl.store(places, scaled.to(places.dtype.element_ty), mask=inside)
