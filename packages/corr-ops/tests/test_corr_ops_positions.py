"""Stride and padding: the outputs of the plain call at some of its positions, and nothing else."""

from functools import cache
from itertools import product

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from corr_ops import Correlation, correlation
from corr_ops.testing import (
    Case,
    assert_within_budget,
    cases,
    make_frames,
    make_weight,
    oracle_correlation,
)

CASES = [
    *cases(),
    Case(name="dilated-2", height=13, width=11, dilation=(2, 2)),
    Case(name="dilated-4-6", height=19, width=29, kernel_size=(5, 3), dilation=(4, 6)),
    Case(name="dilated-3-1", height=12, width=15, kernel_size=(3, 7), dilation=(3, 1), num_frames=1),
    Case(name="flat-kernel", height=9, width=10, kernel_size=(1, 5), dilation=(5, 2)),
    Case(name="exactly-one-valid-position", height=5, width=9, dilation=(2, 4)),
]
STRIDES = [(1, 1), (2, 2), (1, 3), (2, 1), (4, 3), (6, 4), (40, 40)]
ALL_CASES = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
PADDINGS = pytest.mark.parametrize("padding", ["same", "valid"])
EACH_BACKEND = pytest.mark.usefixtures("each_backend")
IMAGE = torch.randn(2, 4, 13, 14, generator=torch.Generator().manual_seed(0))


def options(case: Case) -> dict[str, object]:
    return {"kernel_size": case.kernel_size, "dilation": case.dilation, "groups": case.groups}


def fits(case: Case) -> bool:
    sizes = zip((case.height, case.width), case.kernel_size, case.dilation, strict=True)
    return all(size >= (kernel - 1) * step + 1 for size, kernel, step in sizes)


def kept(case: Case, out: torch.Tensor, stride: tuple[int, int], padding: str) -> torch.Tensor:
    """Return the positions of a plain output, picked one by one."""
    picked = []
    for size, kernel, step, spacing in zip(
        (case.height, case.width), case.kernel_size, case.dilation, stride, strict=True
    ):
        reach = kernel // 2 * step
        inside = [at for at in range(size) if reach <= at < size - reach]
        picked.append((inside if padding == "valid" else list(range(size)))[::spacing])
    return out[..., picked[0], :][..., picked[1]]


@cache
def oracle(case: Case) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return factors and the plain output, whose graph every test of the case uses."""
    factors = [
        make_frames(case).requires_grad_(),
        make_frames(case, seed=5).requires_grad_(),
        make_weight(case, num_frames=case.num_frames).requires_grad_(),
    ]
    return factors, oracle_correlation(*factors, **options(case))


@EACH_BACKEND
@ALL_CASES
@PADDINGS
@pytest.mark.parametrize("stride", STRIDES, ids=str)
def test_outputs_and_gradients_are_the_oracles_at_the_kept_positions(
    case: Case, padding: str, stride: tuple[int, int]
) -> None:
    factors, plain = oracle(case)
    if padding == "valid" and not fits(case):
        with pytest.raises(ValueError, match=f"got {case.height} x {case.width}"):
            correlation(*factors, stride=stride, padding=padding, **options(case))
        return
    out = correlation(*factors, stride=stride, padding=padding, **options(case))
    exact = kept(case, plain, stride, padding)
    torch.testing.assert_close(out, exact, rtol=1e-12, atol=1e-12)
    assert out.is_contiguous()
    cotangent = torch.randn(exact.shape, dtype=exact.dtype, generator=torch.Generator().manual_seed(9))
    ours = torch.autograd.grad(out, factors, cotangent)
    theirs = torch.autograd.grad(exact, factors, cotangent, retain_graph=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@PADDINGS
@pytest.mark.parametrize("weighted", [False, True])
def test_images_are_clips_of_one_frame(padding: str, weighted: bool) -> None:
    weight = torch.randn(4, 3, 3) if weighted else None
    settings = {"kernel_size": 3, "dilation": 2, "stride": (2, 3), "padding": padding}
    images = correlation(IMAGE, IMAGE, weight, **settings)
    clips = correlation(IMAGE.unsqueeze(2), IMAGE.unsqueeze(2), weight, **settings)
    assert images.shape == (2, 9, 7 if padding == "same" else 5, 5 if padding == "same" else 4)
    assert torch.equal(images, clips.squeeze(2))


@PADDINGS
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_derivatives_of_second_order(padding: str, stride: int) -> None:
    frames = [torch.randn(1, 2, 6, 7, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weight = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)

    def function(*factors: torch.Tensor) -> torch.Tensor:
        return correlation(*factors, kernel_size=3, dilation=2, stride=stride, padding=padding)

    assert torch.autograd.gradcheck(function, (*frames, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (*frames, weight), fast_mode=True)


@EACH_BACKEND
@PADDINGS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_dtypes_stay_within_the_error_budget(padding: str, dtype: torch.dtype) -> None:
    case = Case(name="narrow", height=13, width=11, dilation=(2, 3), channels=8)
    base, search = make_frames(case, dtype=dtype), make_frames(case, dtype=dtype, seed=5)
    out = correlation(base, search, stride=2, padding=padding, **options(case))
    assert out.dtype == dtype
    exact, low_precision = (
        kept(case, oracle_correlation(base, search, dtype=precision, **options(case)), (2, 2), padding)
        for precision in (torch.float64, dtype)
    )
    assert_within_budget(out, exact=exact, low_precision=low_precision)


@pytest.mark.parametrize(
    ("dilation", "stride", "share"),
    [(2, 2, 1 / 4), (4, 2, 1 / 4), (2, 4, 1 / 4), (6, 4, 1 / 4), (3, 2, 1), (1, 2, 1), (2, (2, 1), 1 / 2)],
)
def test_common_divisors_of_stride_and_dilation_save_work(
    dilation: int, stride: int | tuple[int, int], share: float
) -> None:
    image = torch.zeros(1, 2, 12, 24)
    with FlopCounterMode(display=False) as counter:
        correlation(image, image, kernel_size=3, dilation=dilation, stride=stride)
    assert counter.get_total_flops() == 2 * 9 * image.numel() * share


@EACH_BACKEND
@PADDINGS
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("clips", [False, True])
def test_outputs_are_dense_in_the_memory_format_of_base(padding: str, stride: int, clips: bool) -> None:
    memory_format = torch.channels_last_3d if clips else torch.channels_last
    image = torch.randn(2, 4, 3, 13, 14) if clips else IMAGE
    settings = {"kernel_size": 3, "dilation": 2, "stride": stride, "padding": padding}
    plain = correlation(image, image, **settings)
    assert plain.is_contiguous()
    last = correlation(image.contiguous(memory_format=memory_format), image, **settings)
    assert last.is_contiguous(memory_format=memory_format)
    assert not last.is_contiguous()
    torch.testing.assert_close(last, plain)


@pytest.mark.parametrize(
    ("padding", "stride", "dynamic"),
    [
        ("valid", 1, False),
        ("same", 4, False),
        pytest.param("valid", (3, 2), True, marks=pytest.mark.slow),
    ],
)
def test_compiles_to_one_graph(padding: str, stride: int | tuple[int, int], dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(correlation, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    settings = {"kernel_size": 3, "dilation": 2, "stride": stride, "padding": padding}
    for shape in [(2, 4, 13, 14), (1, 4, 10, 9)]:
        base = torch.randn(shape, requires_grad=True)
        search = torch.randn(shape).contiguous(memory_format=torch.channels_last)
        out, expected = compiled(base, search, **settings), correlation(base, search, **settings)
        assert torch.equal(out, expected)
        assert out.stride() == expected.stride()
        ours, theirs = (torch.autograd.grad(result.square().sum(), base) for result in (out, expected))
        torch.testing.assert_close(ours, theirs)


@PADDINGS
@pytest.mark.parametrize("stride", [2, 3])
def test_vmap_equals_a_loop(padding: str, stride: int) -> None:
    bases, searches = torch.randn(3, 2, 4, 9, 10), torch.randn(2, 4, 3, 9, 10)

    def function(base: torch.Tensor, search: torch.Tensor) -> torch.Tensor:
        return correlation(base, search, kernel_size=3, dilation=2, stride=stride, padding=padding)

    mapped = torch.vmap(function, in_dims=(0, 2))(bases, searches)
    loop = torch.stack([function(bases[k], searches[:, :, k]) for k in range(3)])
    torch.testing.assert_close(mapped, loop)


@pytest.mark.slow
def test_exports_with_dynamic_sizes() -> None:
    module = Correlation(4, kernel_size=3, dilation=2, stride=2, padding="valid", weight=False)
    # An exported program takes sizes of one for special, so there are two output rows and columns at least.
    height, width = torch.export.Dim("height", min=7), torch.export.Dim("width", min=7)
    sizes = {0: torch.export.Dim("batch"), 2: height, 3: width}
    program = torch.export.export(module, (IMAGE, IMAGE), dynamic_shapes=(sizes, sizes))
    other = torch.randn(5, 4, 9, 8)
    assert torch.equal(program.module()(other, other), module(other, other))


def test_meta_tensors_have_the_shapes_of_real_ones() -> None:
    for stride, padding in product([1, 2, 3], ["same", "valid"]):
        settings = {"kernel_size": 3, "dilation": 2, "stride": stride, "padding": padding}
        on_meta = correlation(IMAGE.to("meta"), IMAGE.to("meta"), **settings)
        assert on_meta.is_meta
        assert on_meta.shape == correlation(IMAGE, IMAGE, **settings).shape


def test_autocast_runs_in_the_dtype_of_the_region() -> None:
    settings = {"kernel_size": 3, "dilation": 2, "stride": 2, "padding": "valid"}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = correlation(IMAGE, IMAGE, **settings)
    assert torch.equal(out, correlation(IMAGE.bfloat16(), IMAGE.bfloat16(), **settings))


def test_module_is_the_function() -> None:
    module = Correlation(4, kernel_size=(3, 5), dilation=2, groups=2, stride=(2, 1), padding="valid")
    assert (module.stride, module.padding) == ((2, 1), "valid")
    settings = {"kernel_size": (3, 5), "dilation": 2, "groups": 2, "stride": (2, 1), "padding": "valid"}
    assert torch.equal(module(IMAGE, IMAGE), correlation(IMAGE, IMAGE, module.weight, **settings))
    assert module(IMAGE, IMAGE).shape == (2, 30, 5, 6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"stride": (2, -1)}, r"stride must be at least 1, got \(2, -1\)"),
        ({"stride": 1.0}, r"stride must be an integer or a \(y, x\) pair of integers, got 1.0"),
        ({"padding": "full"}, r"padding must be one of \['same', 'valid'\], got 'full'"),
        ({"padding": 1}, r"padding must be one of \['same', 'valid'\], got 1"),
    ],
)
def test_options_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        correlation(IMAGE, IMAGE, kernel_size=3, **settings)
    with pytest.raises(ValueError, match=message):
        Correlation(4, kernel_size=3, **settings)


def test_frames_too_small_for_valid_positions() -> None:
    message = (
        r'padding "valid" with kernel_size=\(5, 7\) and dilation=\(3, 2\) needs frames of at least 13 x 13 '
        r"pixels, got 13 x 12"
    )
    with pytest.raises(ValueError, match=message):
        correlation(IMAGE[..., :12], IMAGE[..., :12], kernel_size=(5, 7), dilation=(3, 2), padding="valid")
    image = IMAGE[..., :13]
    assert correlation(image, image, kernel_size=(5, 7), dilation=(3, 2), padding="valid").shape[2:] == (1, 1)
