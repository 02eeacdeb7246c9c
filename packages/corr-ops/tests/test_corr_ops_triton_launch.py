"""What the GPU kernels would be launched with: grids, strides, routing and copies, on tensors without data."""

import pytest
import torch

from corr_ops.impl import triton
from corr_ops.impl.triton import launch

HALVES = [torch.float16, torch.bfloat16]
EXACT = [torch.float32, torch.float64]


def frames(*shape: int, dtype: torch.dtype = torch.bfloat16, channels_last: bool = True) -> torch.Tensor:
    x = torch.empty(shape, dtype=dtype, device="meta")
    return x.contiguous(memory_format=torch.channels_last_3d) if channels_last else x


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[launch.Launch]:
    planned: list[launch.Launch] = []
    monkeypatch.setattr(triton, "_run", planned.append)
    return planned


def run_forward(x, search=None, weight=None, kernel=(7, 7), dilation=(2, 2), groups=2, lag=1):
    return triton.forward(x, search, weight, kernel, dilation, groups, lag)


def run_backward(x, search=None, weight=None, needed=(True, False, False), kernel=(7, 7), groups=2):
    grad = frames(x.shape[0], groups * kernel[0] * kernel[1], *x.shape[2:], dtype=x.dtype)
    return triton.backward(
        grad, x, search, weight, kernel, (2, 2), groups, 1 if search is None else 0, needed
    )


SIZES = [(56, 56, 2), (28, 28, 2), (14, 14, 2), (7, 9, 1), (5, 1, 3), (33, 17, 2), (1, 64, 4)]


@pytest.mark.parametrize(("height", "width", "dilation"), SIZES)
def test_every_position_belongs_to_one_lane_along_x(launches, height, width, dilation) -> None:
    x = frames(2, 16, 3, height, width)
    run_forward(x, dilation=(1, dilation), groups=1)
    (planned,) = launches
    num_tiles, num_strips = planned.arguments["num_tiles"], planned.arguments["num_strips"]
    assert planned.grid == (2 * 3 * num_tiles, 1)
    strip, lanes = planned.constants["STRIP"], planned.constants["LANES"]
    positions = [
        (lane // (dilation * num_strips), column)
        for lane in range(num_tiles * lanes)
        for first in [lane // dilation % num_strips * dilation * strip + lane % dilation]
        for column in range(first, first + strip * dilation, dilation)
    ]
    inside = [(y, x) for y, x in positions if y < height and x < width]
    assert sorted(inside) == [(y, x) for y in range(height) for x in range(width)]


@pytest.mark.parametrize(("width", "height", "dilation"), SIZES)
def test_every_position_belongs_to_one_lane_along_y(launches, height, width, dilation) -> None:
    x = frames(2, 16, 3, height, width, dtype=torch.float32, channels_last=False)
    run_forward(x, dilation=(dilation, 1), groups=1)
    (planned,) = launches
    num_tiles = planned.arguments["num_tiles"]
    assert planned.grid == (2 * 3 * num_tiles * 7, 1)
    strip, lanes = planned.constants["STRIP"], planned.constants["LANES"]
    positions = [
        (row, lane % width)
        for lane in range(num_tiles * lanes)
        for number in [lane // width]
        for first in [number // dilation * dilation * strip + number % dilation]
        for row in range(first, first + strip * dilation, dilation)
    ]
    inside = [(y, x) for y, x in positions if y < height]
    assert sorted(inside) == [(y, x) for y in range(height) for x in range(width)]


@pytest.mark.parametrize("dtype", HALVES + EXACT)
def test_the_dtype_decides_how_channels_are_reduced(launches, dtype: torch.dtype) -> None:
    x = frames(1, 64, 4, 14, 14, dtype=dtype)
    weight = torch.empty(4, 64, 7, 7, dtype=dtype, device="meta")
    run_forward(x, weight=weight)
    run_backward(x, weight=weight, needed=(True, False, True))
    forward, of_frames, of_filters = launches
    assert forward.kernel == ("forward_dot" if dtype in HALVES else "forward_exact")
    assert of_frames.kernel == "grad_frames"
    assert of_filters.kernel == "grad_filters"
    assert of_filters.constants["DOT"] == (dtype in HALVES)
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    assert of_frames.constants["SUM"] == of_filters.constants["SUM"] == sums
    assert of_filters.arguments["out"].dtype == sums


def test_gradients_that_are_not_needed_are_not_launched(launches) -> None:
    x, search = frames(1, 16, 2, 8, 8), frames(1, 16, 2, 8, 8)
    run_backward(x, search, needed=(False, True, False))
    (planned,) = launches
    assert planned.kernel == "grad_frames"
    assert (planned.constants["AS_BASE"], planned.constants["AS_SEARCHED"]) == (False, True)


def test_one_gather_serves_both_roles_of_a_clip(launches) -> None:
    run_backward(frames(1, 16, 2, 8, 8))
    (planned,) = launches
    assert (planned.constants["AS_BASE"], planned.constants["AS_SEARCHED"]) == (True, True)


def test_frames_in_the_layout_of_the_kernels_are_not_copied(launches) -> None:
    x = frames(2, 64, 4, 14, 14)
    run_forward(x)
    y = frames(2, 64, 4, 14, 14, dtype=torch.float32, channels_last=False)
    run_forward(y)
    assert launches[0].arguments["base"] is x
    assert launches[0].arguments["search"] is x
    assert launches[1].arguments["base"] is y


def test_frames_in_another_layout_are_copied_once(launches) -> None:
    run_forward(frames(2, 64, 4, 14, 14, channels_last=False))
    arguments = launches[0].arguments
    assert arguments["base"].stride() == frames(2, 64, 4, 14, 14).stride()
    assert arguments["search"] is arguments["base"]


@pytest.mark.parametrize(
    ("view", "copied"),
    [
        (lambda x: x, False),
        (lambda x: x[:, :32], False),
        (lambda x: x[:, 16:48], False),
        (lambda x: x[:, 1:33], True),  # its first channel is not on a boundary of 16 bytes
        (lambda x: x[:, :, ::2], False),
        (lambda x: x[:, :, :1].expand(-1, -1, 4, -1, -1), False),
    ],
)
def test_frames_that_wide_loads_cannot_read_are_copied(view, copied: bool) -> None:
    x = torch.empty(2, 64, 4, 14, 14, dtype=torch.bfloat16)
    x = view(x.contiguous(memory_format=torch.channels_last_3d))
    assert (launch.channels_last(x) is not x) == copied
    assert launch.channels_last(x).stride(1) == 1


def test_strides_are_arguments_and_the_one_along_strips_is_compiled_in(launches) -> None:
    x = frames(2, 128, 4, 14, 14)[:, :64]
    run_forward(x)
    planned = launches[0]
    names = ["base_n", "base_c", "base_l", "base_h"]
    assert [planned.arguments[name] for name in names] == [x.stride(dim) for dim in range(4)]
    assert planned.constants["base_w"] == 128
    assert "base_w" not in planned.arguments


@pytest.mark.parametrize("weights", [1, 4])
def test_shared_filters_have_no_stride_between_frames(launches, weights: int) -> None:
    weight = torch.empty(weights, 64, 7, 7, dtype=torch.bfloat16, device="meta")
    run_forward(frames(1, 64, 4, 14, 14), weight=weight)
    run_forward(frames(1, 64, 4, 14, 14, dtype=torch.float32), weight=weight.float())
    run_backward(frames(1, 64, 4, 14, 14), weight=weight)
    assert all((planned.arguments["weight_l"] == 0) == (weights == 1) for planned in launches)


@pytest.mark.parametrize(
    ("shape", "wide"),
    [
        ((1, 64, 2, 56, 56), False),
        ((4096, 64, 32, 112, 112), False),  # 1e11 elements, but a frame is small
        ((1, 64, 2, 8192, 4096), False),  # a frame of 2^31 elements, the last at 2^31 - 1
        ((1, 64, 2, 8192, 4097), True),
    ],
)
def test_offsets_inside_a_frame_are_wide_where_they_need_to_be(launches, shape, wide: bool) -> None:
    x = frames(*shape)
    run_forward(x, kernel=(1, 1), groups=1)
    assert launches[0].constants["WIDE"] == wide


@pytest.mark.parametrize("groups", [1, 8, 2048])
def test_grids_fit_the_limits_of_gpus(launches, groups: int) -> None:
    x = frames(64, 2048, 32, 14, 14)
    weight = torch.empty(32, 2048, 15, 15, dtype=torch.bfloat16, device="meta")
    run_forward(x, weight=weight, kernel=(15, 15), groups=groups)
    run_backward(x, weight=weight, needed=(True, False, True), kernel=(15, 15), groups=groups)
    assert len(launches) == 3
    for planned in launches:
        assert planned.grid[0] < 1 << 31
        assert planned.grid[1] < 1 << 16


@pytest.mark.parametrize(("clips", "size", "splits"), [(1, 7, 1), (8, 28, 4), (64, 56, 16)])
def test_sums_for_filters_are_split_by_the_size_of_the_batch(clips: int, size: int, splits: int) -> None:
    x, grad = frames(clips, 64, 4, size, size), frames(clips, 98, 4, size, size)
    call = launch.Call((7, 7), (2, 2), 2, 1, "cuda-90")
    planned = launch.grad_filters(call, grad, x, x, dot=True)
    assert planned.arguments["out"].shape == (splits, 4, 49, 64)
    assert planned.grid == (splits * 4, 2 * 7)
    num_items = clips * planned.arguments["num_tiles"]
    assert (splits - 1) * planned.arguments["tiles_per_split"] < num_items
    assert splits * planned.arguments["tiles_per_split"] >= num_items


@pytest.mark.parametrize(
    ("target", "dtype", "by_bits"),
    [
        ("hip-gfx942", torch.bfloat16, True),
        ("hip-gfx942", torch.float16, False),
        ("hip-gfx950", torch.bfloat16, False),
        ("cuda-90", torch.bfloat16, False),
    ],
)
def test_products_are_rounded_by_bits_where_there_is_no_instruction(target, dtype, by_bits) -> None:
    x = frames(1, 64, 4, 14, 14, dtype=dtype)
    out = frames(1, 98, 4, 14, 14, dtype=dtype)
    call = launch.Call((7, 7), (2, 2), 2, 1, target)
    assert launch.forward_dot(call, x, x, None, out).constants["BY_BITS"] == by_bits
