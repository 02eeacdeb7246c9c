"""Values of the forward pass: eq. 1, frame by frame, in every dtype and memory format."""

import pytest
import torch

from corr_ops import correlation, video_correlation
from corr_ops.testing import (
    Case,
    assert_within_budget,
    cases,
    make_frames,
    make_weight,
    oracle_correlation,
    oracle_video_correlation,
)

ALL_CASES = pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
WEIGHTS = pytest.mark.parametrize("weights", ["none", "shared", "one", "per_frame"])
PLAIN = cases()[0]
pytestmark = pytest.mark.usefixtures("each_backend")


def options(case: Case) -> dict[str, object]:
    return {"kernel_size": case.kernel_size, "dilation": case.dilation, "groups": case.groups}


def weight_of(case: Case, weights: str, dtype: torch.dtype = torch.float64) -> torch.Tensor | None:
    if weights == "none":
        return None
    num_frames = {"shared": None, "one": 1, "per_frame": case.num_frames}[weights]
    return make_weight(case, num_frames=num_frames, dtype=dtype)


def test_small_example_by_hand() -> None:
    # One row of two pixels, two channels in one group, neighbors left, here and right.
    base = torch.tensor([[[[2.0, 3.0]], [[5.0, 7.0]]]])
    search = torch.tensor([[[[11.0, 13.0]], [[17.0, 19.0]]]])
    out = correlation(base, search, kernel_size=(1, 3))
    left = [0.0, (3 * 11 + 7 * 17) / 2]
    here = [(2 * 11 + 5 * 17) / 2, (3 * 13 + 7 * 19) / 2]
    right = [(2 * 13 + 5 * 19) / 2, 0.0]
    assert out.tolist() == [[[left], [here], [right]]]


def test_channels_are_group_then_row_then_column() -> None:
    base = torch.zeros(1, 2, 5, 7)
    search = torch.zeros(1, 2, 5, 7)
    base[0, 1, 2, 3] = 1.0
    search[0, 1, 2 - 1, 3 + 2] = 1.0
    out = correlation(base, search, kernel_size=3, dilation=(1, 2), groups=2)
    row, column = 0, 2
    assert out.nonzero().tolist() == [[0, 9 + row * 3 + column, 2, 3]]


@ALL_CASES
@WEIGHTS
@pytest.mark.parametrize("searched", ["previous", "current"])
def test_video_equals_the_oracle(case: Case, weights: str, searched: str) -> None:
    x, weight = make_frames(case), weight_of(case, weights)
    out = video_correlation(x, weight, searched=searched, **options(case))
    exact = oracle_video_correlation(x, weight, searched=searched, **options(case))
    torch.testing.assert_close(out, exact, rtol=1e-12, atol=1e-12)


@ALL_CASES
@WEIGHTS
def test_pairs_of_clips_equal_the_oracle(case: Case, weights: str) -> None:
    base, search, weight = make_frames(case), make_frames(case, seed=5), weight_of(case, weights)
    out = correlation(base, search, weight, **options(case))
    torch.testing.assert_close(
        out, oracle_correlation(base, search, weight, **options(case)), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("weights", ["none", "shared", "one"])
def test_pairs_of_images_are_clips_of_one_frame(weights: str) -> None:
    base, search = make_frames(PLAIN), make_frames(PLAIN, seed=5)
    weight = weight_of(PLAIN, weights)
    images = correlation(base[:, :, 1], search[:, :, 1], weight, **options(PLAIN))
    assert torch.equal(images, correlation(base, search, weight, **options(PLAIN))[:, :, 1])


def test_first_frame_is_correlated_with_itself() -> None:
    x = make_frames(PLAIN)
    first = x[:, :, 0]
    out = video_correlation(x, **options(PLAIN))
    assert torch.equal(out[:, :, 0], correlation(first, first, **options(PLAIN)))
    assert torch.equal(out[:, :, 2], correlation(x[:, :, 2], x[:, :, 1], **options(PLAIN)))


@ALL_CASES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_dtypes_stay_within_the_error_budget(case: Case, dtype: torch.dtype) -> None:
    x, weight = make_frames(case, dtype=dtype), weight_of(case, "per_frame", dtype)
    out = video_correlation(x, weight, **options(case))
    assert out.dtype == dtype
    exact = oracle_video_correlation(x, weight, **options(case))
    low_precision = oracle_video_correlation(x, weight, dtype=dtype, **options(case))
    assert_within_budget(out, exact=exact, low_precision=low_precision)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_inputs_are_summed_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(1, 512, 2, 4, 4, generator=torch.Generator().manual_seed(3)).to(dtype)
    wide = video_correlation(x.float(), kernel_size=3)
    assert torch.equal(video_correlation(x, kernel_size=3), wide.to(dtype))


def test_float16_products_may_exceed_its_range() -> None:
    x = torch.full((1, 2, 1, 1, 1), 256.0, dtype=torch.float16)
    x[0, 1] = 1.0
    out = video_correlation(x, torch.tensor([0.5, 0.0]).half().reshape(2, 1, 1), kernel_size=1)
    assert out.item() == 256.0 * 256.0 * 0.5 / 2


@pytest.mark.parametrize("width", [1, 5, 8, 9])
def test_nothing_outside_the_frame_is_read(width: int) -> None:
    surrounded = torch.full((2, 4, 3, 5 + 8, width + 20), float("nan"))
    x = surrounded[:, :, :, 4:-4, 10:-10]
    x.fill_(1.0)
    out = video_correlation(x, kernel_size=3)
    assert out.isfinite().all()


def test_a_nan_at_the_border_meets_the_zeros_outside() -> None:
    base, search = torch.ones(1, 2, 5, 6), torch.ones(1, 2, 5, 6)
    base[0, 1, 0, 0] = float("nan")  # five of its nine neighbors lie outside
    wrong = correlation(base, search, kernel_size=3).isnan()
    assert wrong[0, :, 0, 0].all() and wrong.sum() == 9


def test_a_nan_in_the_searched_frame_reaches_the_positions_that_search_there() -> None:
    base, search = torch.ones(1, 2, 5, 6), torch.ones(1, 2, 5, 6)
    search[0, 1, 0, 0] = float("nan")
    wrong = correlation(base, search, kernel_size=3).isnan()
    assert wrong[0, (4, 3, 1, 0), (0, 0, 1, 1), (0, 1, 0, 1)].all() and wrong.sum() == 4


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_every_value_is_written(backward: bool) -> None:
    # In deterministic mode PyTorch fills fresh memory with NaN.
    case = Case(name="mostly-outside", kernel_size=(5, 5), dilation=(3, 3))
    x = make_frames(case).requires_grad_()
    weight = make_weight(case, num_frames=case.num_frames).requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        out = video_correlation(x, weight, **options(case))
        results = torch.autograd.grad(out.sum(), (x, weight)) if backward else (out,)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(result.isfinite().all() for result in results)


def strided_views(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return tensors with equal values and different strides."""
    n, c, frames, h, w = x.shape
    wide = x.new_zeros(n, c, frames, 2 * h, w + 3)
    wide[:, :, :, ::2, 2 : w + 2] = x
    return {
        "contiguous": x.contiguous(),
        "channels_last_3d": x.contiguous(memory_format=torch.channels_last_3d),
        "permuted": x.permute(2, 4, 0, 3, 1).contiguous().permute(2, 4, 0, 3, 1),
        "sliced": wide[:, :, :, ::2, 2 : w + 2],
    }


@pytest.mark.parametrize("layout", ["contiguous", "channels_last_3d", "permuted", "sliced"])
def test_strides_do_not_change_values(layout: str) -> None:
    x, weight = make_frames(PLAIN), weight_of(PLAIN, "per_frame")
    strided = strided_views(x)[layout]
    assert torch.equal(strided, x)
    out = video_correlation(strided, weight, **options(PLAIN))
    torch.testing.assert_close(out, video_correlation(x, weight, **options(PLAIN)), rtol=1e-14, atol=1e-14)
    expected = torch.channels_last_3d if layout == "channels_last_3d" else torch.contiguous_format
    assert out.is_contiguous(memory_format=expected)


def test_channels_last_images_give_channels_last_images() -> None:
    base = torch.randn(2, 4, 5, 6).contiguous(memory_format=torch.channels_last)
    out = correlation(base, base, kernel_size=3)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert correlation(base.contiguous(), base, kernel_size=3).is_contiguous()


def test_expanded_frames_and_weights_are_accepted() -> None:
    x = make_frames(PLAIN)[:, :1].expand(-1, 4, -1, -1, -1)
    weight = make_weight(PLAIN, num_frames=1).expand(PLAIN.num_frames, -1, -1, -1)
    expected = oracle_video_correlation(x, weight, **options(PLAIN))
    torch.testing.assert_close(
        video_correlation(x, weight, **options(PLAIN)), expected, rtol=1e-12, atol=1e-12
    )


def test_inputs_are_left_alone_and_runs_are_bitwise_equal() -> None:
    x = make_frames(PLAIN, dtype=torch.float32)
    weight = make_weight(PLAIN, num_frames=PLAIN.num_frames, dtype=torch.float32)
    x_before, weight_before = x.clone(), weight.clone()
    first = video_correlation(x, weight, **options(PLAIN))
    assert torch.equal(first, video_correlation(x, weight, **options(PLAIN)))
    assert torch.equal(x, x_before)
    assert torch.equal(weight, weight_before)
