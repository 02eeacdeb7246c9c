"""Wrong calls end in a ValueError that names what was got and what is allowed, before any kernel runs."""

import pytest
import torch

from corr_ops import Correlation, VideoCorrelation, correlation, explain, video_correlation

X = torch.zeros(2, 4, 3, 5, 6)
IMAGE = torch.zeros(2, 4, 5, 6)
W = torch.zeros(3, 4, 3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd and at least 1, got 4"),
        ({"kernel_size": (3, 2)}, r"kernel_size must be odd and at least 1, got \(3, 2\)"),
        ({"kernel_size": -1}, "kernel_size must be odd and at least 1, got -1"),
        ({"kernel_size": 3.0}, "kernel_size must be an integer or a .* got 3.0"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size must be an integer or a .* got "),
        ({"kernel_size": 3, "dilation": 0}, "dilation must be at least 1, got 0"),
        ({"kernel_size": 3, "dilation": "2"}, "dilation must be an integer or a .* got '2'"),
        ({"kernel_size": 3, "groups": 3}, "positive multiple of groups=3, got 4"),
        ({"kernel_size": 3, "groups": 0}, "groups must be an integer of at least 1, got 0"),
        (
            {"kernel_size": 3, "backend": "cuda"},
            r"backend must be one of \['auto', 'triton', 'cpu', 'reference'\], got 'cuda'",
        ),
    ],
)
def test_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        video_correlation(X, **options)
    with pytest.raises(ValueError, match=message):
        correlation(IMAGE, IMAGE, **options)


def test_searched() -> None:
    with pytest.raises(ValueError, match=r"one of \['previous', 'current'\], got 'next'"):
        video_correlation(X, kernel_size=3, searched="next")


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6), (1, 2, 4, 3, 5, 6)])
def test_rank(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"x must be \[N, C, L, H, W\], got shape"):
        video_correlation(x, kernel_size=3)
    with pytest.raises(ValueError, match=r"base must be \[N, C, H, W\] or \[N, C, L, H, W\], got shape"):
        correlation(x, x, kernel_size=3)


def test_images_are_no_clip() -> None:
    with pytest.raises(ValueError, match=r"got shape \[2, 4, 5, 6\]"):
        video_correlation(IMAGE, kernel_size=3)


def test_base_and_search_of_different_shapes() -> None:
    with pytest.raises(ValueError, match=r"shape of base \[2, 4, 5, 6\], got \[2, 4, 5, 5\]"):
        correlation(IMAGE, IMAGE[..., :5], kernel_size=3)


@pytest.mark.parametrize("shape", [(4,), (3, 3), (4, 5, 5), (2, 3, 3), (3, 4, 3, 5), (1, 3, 4, 3, 3)])
def test_weight_of_a_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"weight must be \[4, 3, 3\] or \[3, 4, 3, 3\], got shape") as error:
        video_correlation(X, torch.zeros(shape), kernel_size=3)
    assert str(list(shape)) in str(error.value)


def test_weight_of_another_clip_length_says_how_to_convert_it() -> None:
    with pytest.raises(ValueError, match=r"filters for 3 frames, got 8; VideoCorrelation\.set_num_frames"):
        video_correlation(X, torch.zeros(8, 4, 3, 3), kernel_size=3)


def test_weight_per_frame_for_images() -> None:
    with pytest.raises(ValueError, match="filters for 1 frames, got 3"):
        correlation(IMAGE, IMAGE, W, kernel_size=3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_dtypes_without_an_operator(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"x must have a dtype of .*got {dtype}"):
        video_correlation(X.to(dtype), kernel_size=3)
    with pytest.raises(ValueError, match=f"got {dtype}"):
        explain(X.to(dtype))


def test_mixed_dtypes() -> None:
    with pytest.raises(ValueError, match=r"one dtype, got .*float32.*float64"):
        video_correlation(X, W.double(), kernel_size=3)
    with pytest.raises(ValueError, match=r"one dtype, got .*float32.*float16"):
        correlation(IMAGE, IMAGE.half(), kernel_size=3)


def test_mixed_devices() -> None:
    with pytest.raises(ValueError, match=r"one device, got .*cpu.*meta"):
        video_correlation(X, W.to("meta"), kernel_size=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 4, "num_frames": 0}, "num_frames must be an integer of at least 1, got 0"),
        ({"channels": 0, "num_frames": 2}, "positive multiple of groups=1, got 0"),
        ({"channels": 6, "num_frames": 2, "groups": 4}, "positive multiple of groups=4, got 6"),
        ({"channels": 4, "num_frames": 2, "filters": "all"}, "'per_frame', 'shared', 'none'.*got 'all'"),
        ({"channels": 4, "num_frames": 2, "searched": "next"}, "'previous', 'current'.*got 'next'"),
        ({"channels": 4, "num_frames": 2, "kernel_size": 2}, "kernel_size must be odd"),
    ],
)
def test_module_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoCorrelation(**options)


def test_module_inputs() -> None:
    with pytest.raises(ValueError, match=r"input must have 8 channels, got shape \[2, 4, 3, 5, 6\]"):
        VideoCorrelation(8, 3, filters="none")(X)
    with pytest.raises(ValueError, match=r"input must have 8 channels, got shape \[2, 4, 5, 6\]"):
        Correlation(8, kernel_size=3, weight=False)(IMAGE, IMAGE)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        VideoCorrelation(4, 3).set_num_frames(0)
