"""The modules: filters, clip lengths, copies and saved states."""

import copy
import pickle

import pytest
import torch

from corr_ops import Correlation, VideoCorrelation, correlation, video_correlation

X = torch.randn(2, 4, 3, 5, 6, generator=torch.Generator().manual_seed(0))


def randomized(module: VideoCorrelation) -> VideoCorrelation:
    with torch.no_grad():
        module.weight.copy_(torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(1)))
    return module


def test_defaults_are_those_of_the_paper() -> None:
    module = VideoCorrelation(64, 32)
    assert (module.kernel_size, module.dilation) == ((7, 7), (2, 2))
    assert (module.searched, module.filters) == ("previous", "per_frame")
    assert module.weight.shape == (32, 64, 7, 7)


@pytest.mark.parametrize("searched", ["previous", "current"])
@pytest.mark.parametrize(
    ("filters", "shape"), [("per_frame", (3, 4, 3, 3)), ("shared", (4, 3, 3)), ("none", None)]
)
def test_video_module_is_the_function(searched: str, filters: str, shape: tuple[int, ...] | None) -> None:
    options = {"kernel_size": 3, "dilation": 2, "groups": 2, "searched": searched}
    module = VideoCorrelation(4, 3, filters=filters, **options)
    if shape is None:
        assert module.weight is None
        assert list(module.parameters()) == []
    else:
        assert randomized(module).weight.shape == shape
    out = module(X)
    assert out.shape[1] == module.out_channels == 18
    assert torch.equal(out, video_correlation(X, module.weight, **options))


@pytest.mark.parametrize("weight", [True, False])
def test_pair_module_is_the_function(weight: bool) -> None:
    module = Correlation(4, kernel_size=(3, 1), dilation=(1, 2), groups=2, weight=weight)
    assert (module.weight is not None) == weight
    base, search = X[:, :, 0], X[:, :, 1]
    if weight:
        assert randomized(module).weight.shape == (4, 3, 1)
    expected = correlation(base, search, module.weight, kernel_size=(3, 1), dilation=(1, 2), groups=2)
    assert torch.equal(module(base, search), expected)
    assert module(X, X).shape == (2, module.out_channels, 3, 5, 6)


def test_fresh_filters_are_the_plain_correlation() -> None:
    module = VideoCorrelation(4, 3, kernel_size=3, groups=2)
    plain = VideoCorrelation(4, 3, kernel_size=3, groups=2, filters="none")
    torch.testing.assert_close(module(X), plain(X))
    randomized(module).reset_parameters()
    assert torch.equal(module.weight, torch.ones(3, 4, 3, 3))


@pytest.mark.parametrize("filters", ["shared", "none"])
def test_filters_for_all_frames_take_any_clip_length(filters: str) -> None:
    module = VideoCorrelation(4, 8, kernel_size=3, filters=filters)
    assert module(X).shape == (2, 9, 3, 5, 6)


def test_filters_per_frame_take_their_clip_length_alone() -> None:
    with pytest.raises(ValueError, match=r"filters for 3 frames, got 8; VideoCorrelation\.set_num_frames"):
        VideoCorrelation(4, 8, kernel_size=3)(X)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([3.0, 5.0], [3.0, 4.0, 5.0]),
        ([3.0, 5.0, 9.0], [3.0, 9.0]),
        ([0.0, 8.0, 4.0], [0.0, 4.0, 8.0, 6.0, 4.0]),
        ([3.0, 5.0, 9.0], [3.0]),
        ([3.0], [3.0, 3.0, 3.0, 3.0]),
        ([0.0, 6.0], [0.0, 2.0, 4.0, 6.0]),
    ],
)
def test_set_num_frames_interpolates_linearly(old: list[float], new: list[float]) -> None:
    module = VideoCorrelation(4, len(old), kernel_size=3).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor(old).reshape(-1, 1, 1, 1).expand_as(module.weight))
    module.set_num_frames(len(new))
    assert module.num_frames == len(new)
    expected = torch.tensor(new).double().reshape(-1, 1, 1, 1).expand(-1, 4, 3, 3)
    torch.testing.assert_close(module.weight.detach(), expected, rtol=1e-15, atol=1e-15)
    assert module(torch.zeros(1, 4, len(new), 2, 2).double()).shape[2] == len(new)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_frames", [1, 3, 8, 9, 16, 32, 33])
def test_set_num_frames_keeps_the_ends_exactly(dtype: torch.dtype, num_frames: int) -> None:
    module = randomized(VideoCorrelation(2, 8, kernel_size=3)).to(dtype)
    before = module.weight.detach().clone()
    module.set_num_frames(num_frames)
    assert torch.equal(module.weight[0], before[0])
    assert torch.equal(module.weight[-1], before[-1 if num_frames > 1 else 0])
    assert torch.equal(module.weight, before) == (num_frames == 8)
    assert module.weight.dtype == dtype


def test_set_num_frames_changes_the_same_parameter() -> None:
    module = randomized(VideoCorrelation(4, 3, kernel_size=3))
    module.weight.requires_grad_(False)
    parameter = module.weight
    module.set_num_frames(6)
    assert module.weight is parameter
    assert not parameter.requires_grad
    parameter.requires_grad_()
    module(torch.randn(1, 4, 6, 5, 5)).sum().backward()
    assert parameter.grad.shape == (6, 4, 3, 3)
    module.set_num_frames(2)
    assert parameter.grad is None
    on_meta = VideoCorrelation(4, 3, kernel_size=3).to("meta")
    on_meta.set_num_frames(5)
    assert on_meta.weight.is_meta
    assert on_meta.weight.shape == (5, 4, 3, 3)


def test_set_num_frames_without_filters_per_frame() -> None:
    module = randomized(VideoCorrelation(4, 3, kernel_size=3, filters="shared"))
    before = module.weight.detach().clone()
    module.set_num_frames(16)
    assert torch.equal(module.weight, before)
    assert module.num_frames == 16


DUPLICATES = pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))],
    ids=["deepcopy", "pickle"],
)


@DUPLICATES
def test_copies_compute_the_same_and_own_their_filters(duplicate) -> None:
    module = randomized(VideoCorrelation(4, 3, kernel_size=3))
    twin = duplicate(module)
    assert torch.equal(twin(X), module(X))
    twin.reset_parameters()
    assert not torch.equal(twin(X), module(X))


@DUPLICATES
def test_copies_of_the_pair_module_keep_their_options(duplicate) -> None:
    module = randomized(Correlation(4, kernel_size=3, dilation=2, groups=2, stride=(2, 1), padding="valid"))
    twin = duplicate(module)
    assert repr(twin) == repr(module)
    assert torch.equal(twin(X, X), module(X, X))
    assert twin.weight is not module.weight
    assert repr(duplicate(Correlation(4, kernel_size=3, weight=False))).endswith("weight=False)")


@pytest.mark.parametrize(
    "make", [lambda: VideoCorrelation(4, 3, kernel_size=3), lambda: Correlation(4, kernel_size=3)]
)
def test_moved_modules_take_their_filters_along(make) -> None:
    module = randomized(make())
    num_inputs = 2 if isinstance(module, Correlation) else 1
    before = module(*[X] * num_inputs)
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        assert module.to(dtype) is module
        assert module.weight.dtype == dtype
        assert module(*[X.to(dtype)] * num_inputs).dtype == dtype
    assert module(*[X] * num_inputs).shape == before.shape
    on_meta = copy.deepcopy(module).to("meta")
    assert on_meta(*[X.to("meta")] * num_inputs).shape == before.shape
    revived = on_meta.to_empty(device="cpu")
    revived.load_state_dict(module.state_dict())
    assert torch.equal(revived(*[X] * num_inputs), module(*[X] * num_inputs))


def test_state_goes_from_module_to_module() -> None:
    module, other = randomized(VideoCorrelation(4, 3, kernel_size=3)), VideoCorrelation(4, 3, kernel_size=3)
    assert list(module.state_dict()) == ["weight"]
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(X), module(X))
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        VideoCorrelation(4, 8, kernel_size=3).load_state_dict(module.state_dict())


def test_repr_shows_the_options() -> None:
    assert repr(VideoCorrelation(4, 3, groups=2, filters="shared")) == (
        "VideoCorrelation(4, num_frames=3, kernel_size=(7, 7), dilation=(2, 2), groups=2, "
        "searched='previous', filters='shared')"
    )
    assert repr(Correlation(4, kernel_size=3, weight=False)) == (
        "Correlation(4, kernel_size=(3, 3), dilation=(1, 1), groups=1, stride=(1, 1), padding='same', "
        "weight=False)"
    )


def test_filters_are_learned() -> None:
    torch.manual_seed(0)
    target, module = randomized(VideoCorrelation(4, 3, kernel_size=3)), VideoCorrelation(4, 3, kernel_size=3)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    first = None
    for _ in range(60):
        x = torch.randn(4, 4, 3, 6, 6)
        loss = (module(x) - target(x)).square().mean()
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * first
