"""The stand-ins for spatial-correlation-sampler and mmcv give what the published code of both gives."""

import copy
import pickle
from itertools import product

import pytest
import torch
from torch import nn

from corr_ops import compat
from corr_ops.compat import SpatialCorrelationSampler, spatial_correlation_sample
from corr_ops.testing import assert_within_budget


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def published(
    input1: torch.Tensor,
    input2: torch.Tensor,
    patch_size: int | tuple[int, int] = 1,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation_patch: int | tuple[int, int] = 1,
) -> torch.Tensor:
    """Evaluate the formula of both packages position by position, for kernel_size=1.

    Sources: ClementPinard/Pytorch-Correlation-extension, Correlation_Module/correlation.cpp
    (`correlate_patch`, `correlation_cpp_forward`); open-mmlab/mmcv, mmcv/ops/correlation.py
    (`_output_size`) and mmcv/ops/csrc/common/cuda/correlation_cuda.cuh.
    """
    (patch_h, patch_w), (step_h, step_w) = pair(patch_size), pair(dilation_patch)
    (stride_h, stride_w), (pad_h, pad_w) = pair(stride), pair(padding)
    num_images, _, height, width = input1.shape
    out_h, out_w = (height + 2 * pad_h - 1) // stride_h + 1, (width + 2 * pad_w - 1) // stride_w + 1
    zero = torch.zeros(num_images, dtype=input1.dtype)
    values = []
    for ph, pw, h, w in product(range(patch_h), range(patch_w), range(out_h), range(out_w)):
        y1, x1 = h * stride_h - pad_h, w * stride_w - pad_w
        y2, x2 = y1 + (ph - (patch_h - 1) // 2) * step_h, x1 + (pw - (patch_w - 1) // 2) * step_w
        inside = 0 <= y1 < height and 0 <= y2 < height and 0 <= x1 < width and 0 <= x2 < width
        values.append((input1[:, :, y1, x1] * input2[:, :, y2, x2]).sum(1) if inside else zero)
    return torch.stack(values, dim=1).unflatten(1, (patch_h, patch_w, out_h, out_w))


def images(
    height: int = 6, width: int = 7, channels: int = 3, dtype: torch.dtype = torch.float64
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, channels, height, width)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


OPTIONS = [
    {},
    {"patch_size": 3},
    {"patch_size": (5, 3), "dilation_patch": 2},
    {"patch_size": 5, "dilation_patch": (1, 2), "stride": 2},
    {"patch_size": 3, "stride": (2, 3), "padding": 1},
    {
        "patch_size": 3,
        "stride": (3, 2),
        "padding": (4, 4),
        "dilation_patch": 3,
    },  # another remainder in each axis
    {"patch_size": 3, "stride": 4, "padding": 3, "dilation_patch": 2},
    {"patch_size": 3, "stride": 2, "padding": 4, "dilation_patch": 2},
    {"patch_size": 3, "stride": 5, "padding": 7},
    {"patch_size": 1, "stride": 9, "padding": 4},
    {"patch_size": 2},
    {"patch_size": (4, 3), "dilation_patch": 2, "stride": 2, "padding": 1},
    {"patch_size": (1, 2), "dilation_patch": 3, "padding": 2},
    {"patch_size": 15, "stride": 2},
    {"patch_size": 3, "padding": 20, "stride": 7},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [(6, 7), (5, 3), (1, 1)], ids=str)
def test_outputs_and_gradients_are_those_of_the_published_formula(
    options: dict[str, object], size: tuple[int, int]
) -> None:
    inputs = [image.requires_grad_() for image in images(*size)]
    out, expected = spatial_correlation_sample(*inputs, **options), published(*inputs, **options)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert out.is_contiguous()
    assert torch.equal(SpatialCorrelationSampler(**options)(*inputs), out)
    cotangent = torch.randn(expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(9))
    if expected.requires_grad:
        theirs = torch.autograd.grad(expected, inputs, cotangent)
    else:  # no position falls into the frame
        theirs = tuple(torch.zeros_like(image) for image in inputs)
    torch.testing.assert_close(torch.autograd.grad(out, inputs, cotangent), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 3}, {"padding": (1, 2), "dilation_patch": 2}]
)
@pytest.mark.parametrize("max_displacement", [0, 1, 3])
def test_mmcv_counts_displacements_to_each_side(options: dict[str, object], max_displacement: int) -> None:
    inputs = images()
    module = compat.Correlation(max_displacement=max_displacement, **options)
    expected = published(*inputs, patch_size=2 * max_displacement + 1, **options)
    torch.testing.assert_close(module(*inputs), expected, rtol=1e-12, atol=1e-12)


def test_the_second_input_is_displaced_and_rows_come_first() -> None:
    input1, input2 = torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 5, 5)
    input1[0, 0, 2, 2] = 3.0
    input2[0, 0, 2 + 1, 2 - 2] = 5.0
    out = spatial_correlation_sample(input1, input2, patch_size=5)
    assert out.nonzero().tolist() == [[0, 2 + 1, 2 - 2, 2, 2]]
    assert out.max() == 15.0
    assert torch.equal(compat.Correlation(max_displacement=2)(input1, input2), out)


def test_arguments_have_their_order_and_defaults() -> None:
    inputs = images()
    positional = spatial_correlation_sample(*inputs, 1, 3, 2, 1, 7, 2)
    named = spatial_correlation_sample(
        *inputs, kernel_size=(1, 1), patch_size=3, stride=2, padding=1, dilation=1, dilation_patch=2
    )
    assert torch.equal(positional, named)
    assert torch.equal(SpatialCorrelationSampler(1, 3, 2, 1, 7, 2)(*inputs), named)
    assert torch.equal(compat.Correlation(1, 1, 2, 1, 7, 2)(*inputs), named)
    assert SpatialCorrelationSampler()(*inputs).shape == (2, 1, 1, 6, 7)
    assert compat.Correlation()(*inputs).shape == (2, 3, 3, 6, 7)


def test_parameters_of_flownet() -> None:
    # As the README of ClementPinard/Pytorch-Correlation-extension gives them for FlowNetC.
    inputs = images(48, 64, 8, torch.float32)
    out = spatial_correlation_sample(
        *inputs, kernel_size=1, patch_size=21, stride=1, padding=0, dilation_patch=2
    )
    assert out.shape == (2, 21, 21, 48, 64)
    torch.testing.assert_close(out[:, 10, 10], (inputs[0] * inputs[1]).sum(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("autocast", [False, True])
def test_sums_keep_their_digits(dtype: torch.dtype, scale: float, autocast: bool) -> None:
    # In float16 a mean of 1e-6 has lost most of its digits, the sum of 256 such products has not.
    inputs = [image * scale for image in images(5, 6, 256, torch.float32)]
    narrow = [image.to(dtype) for image in inputs]
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        out = spatial_correlation_sample(*(inputs if autocast else narrow), patch_size=3)
    assert out.dtype == dtype
    exact = published(*(image.double() for image in narrow), patch_size=3)
    assert_within_budget(out, exact=exact, low_precision=exact.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padding", [0, 1])
def test_channels_last_frames_give_contiguous_outputs(dtype: torch.dtype, padding: int) -> None:
    inputs = [image.contiguous(memory_format=torch.channels_last) for image in images(dtype=dtype)]
    out = spatial_correlation_sample(*inputs, patch_size=(3, 2), padding=padding)
    assert out.is_contiguous()
    plain = (image.contiguous() for image in inputs)
    torch.testing.assert_close(out, spatial_correlation_sample(*plain, patch_size=(3, 2), padding=padding))


def test_derivatives_of_second_order() -> None:
    inputs = [image.requires_grad_() for image in images(4, 5, 2)]

    def function(*both: torch.Tensor) -> torch.Tensor:
        return spatial_correlation_sample(*both, patch_size=(3, 2), stride=2, padding=3, dilation_patch=2)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(dynamic: bool) -> None:
    torch._dynamo.reset()
    module = SpatialCorrelationSampler(patch_size=(4, 3), stride=2, padding=3, dilation_patch=2)
    compiled = torch.compile(module, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in [(6, 7), (9, 5)]:
        inputs = images(*size)
        torch.testing.assert_close(compiled(*inputs), module(*inputs))


MODULES = pytest.mark.parametrize(
    "module",
    [SpatialCorrelationSampler(patch_size=3, stride=2), compat.Correlation(max_displacement=2, padding=1)],
    ids=lambda module: type(module).__name__,
)


@MODULES
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_compute_the_same(module: nn.Module, duplicate) -> None:
    assert torch.equal(duplicate(module)(*images()), module(*images()))
    assert module.state_dict() == {}


def test_repr_shows_the_options() -> None:
    assert repr(SpatialCorrelationSampler(patch_size=(3, 5))) == (
        "SpatialCorrelationSampler(kernel_size=1, patch_size=(3, 5), stride=1, padding=0, dilation=1, "
        "dilation_patch=1)"
    )
    assert repr(compat.Correlation(max_displacement=4)) == (
        "Correlation(kernel_size=1, max_displacement=4, stride=1, padding=0, dilation=1, dilation_patch=1)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 3}, "kernel_size must be 1, .* got 3"),
        ({"kernel_size": (1, 3)}, r"kernel_size must be 1, .* got \(1, 3\)"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"padding": -1}, "padding must be at least 0, got -1"),
        ({"padding": "same"}, "padding must be an integer or a .* got 'same'"),
        ({"dilation": 0}, "dilation must be at least 1, got 0"),
        ({"dilation_patch": (1, 0)}, r"dilation_patch must be at least 1, got \(1, 0\)"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    for make in (SpatialCorrelationSampler, compat.Correlation):
        with pytest.raises(ValueError, match=message):
            make(**options)
    with pytest.raises(ValueError, match=message):
        spatial_correlation_sample(*images(), **options)


def test_sizes_of_patches_out_of_range() -> None:
    with pytest.raises(ValueError, match="patch_size must be at least 1, got 0"):
        SpatialCorrelationSampler(patch_size=0)
    with pytest.raises(ValueError, match="max_displacement must be an integer of at least 0, got -1"):
        compat.Correlation(max_displacement=-1)
    with pytest.raises(ValueError, match=r"max_displacement must be an integer of at least 0, got \(1, 2\)"):
        compat.Correlation(max_displacement=(1, 2))


def test_frames_that_do_not_fit() -> None:
    input1, input2 = images()
    with pytest.raises(ValueError, match=r"input1 must be \[N, C, H, W\], got shape \[3, 6, 7\]"):
        spatial_correlation_sample(input1[0], input2[0])
    with pytest.raises(ValueError, match=r"shape of input1 \[2, 3, 6, 7\], got \[2, 3, 6, 6\]"):
        spatial_correlation_sample(input1, input2[..., :6])
    with pytest.raises(ValueError, match="one dtype"):
        spatial_correlation_sample(input1, input2.float())
