"""Gradients of every factor, to any order."""

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

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
TINY = Case(name="tiny", num_clips=1, channels=2, height=2, width=3, dilation=(1, 2), groups=1)
pytestmark = pytest.mark.usefixtures("each_backend")


def options(case: Case) -> dict[str, object]:
    return {"kernel_size": case.kernel_size, "dilation": case.dilation, "groups": case.groups}


class Calls(TorchDispatchMode):
    """Records which gradients the backward operator is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.needed: list[list[bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.corr_ops.correlation_backward.default:
            self.needed.append(list(args[8]))
        return func(*args, **(kwargs or {}))


def gradients(function, factors, seed: int = 9) -> tuple[torch.Tensor, ...]:
    leaves = [factor.clone().requires_grad_() for factor in factors]
    out = function(*leaves)
    generator = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(factors[0].dtype)
    return torch.autograd.grad(out, leaves, cotangent.to(out.dtype))


@ALL_CASES
@pytest.mark.parametrize("searched", ["previous", "current"])
@pytest.mark.parametrize("per_frame", [True, False])
def test_video_gradients_equal_the_oracle(case: Case, searched: str, per_frame: bool) -> None:
    factors = make_frames(case), make_weight(case, num_frames=case.num_frames if per_frame else None)
    ours = gradients(lambda *f: video_correlation(*f, searched=searched, **options(case)), factors)
    exact = gradients(lambda *f: oracle_video_correlation(*f, searched=searched, **options(case)), factors)
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


@ALL_CASES
def test_pair_gradients_equal_the_oracle(case: Case) -> None:
    factors = make_frames(case), make_frames(case, seed=5), make_weight(case, num_frames=1)
    ours = gradients(lambda *f: correlation(*f, **options(case)), factors)
    exact = gradients(lambda *f: oracle_correlation(*f, **options(case)), factors)
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", cases()[:5], ids=lambda case: case.name)
def test_gradients_in_narrow_dtypes_stay_within_the_error_budget(case: Case, dtype: torch.dtype) -> None:
    factors = (
        make_frames(case, dtype=dtype),
        make_frames(case, dtype=dtype, seed=5),
        make_weight(case, num_frames=case.num_frames, dtype=dtype),
    )
    ours = gradients(lambda *f: correlation(*f, **options(case)), factors)
    low = gradients(lambda *f: oracle_correlation(*f, dtype=dtype, **options(case)), factors)
    leaves = [factor.double() for factor in factors]
    generator = torch.Generator().manual_seed(9)
    for factor in leaves:
        factor.requires_grad_()
    out = oracle_correlation(*leaves, **options(case))
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(dtype).double()
    exact = torch.autograd.grad(out, leaves, cotangent)
    for grad, low_precision, reference in zip(ours, low, exact, strict=True):
        assert grad.dtype == dtype
        assert_within_budget(grad, exact=reference, low_precision=low_precision)


def leaf(x: torch.Tensor) -> torch.Tensor:
    return x.clone().requires_grad_()


# Fast mode compares one random projection of the Jacobian: the tests above compare every gradient with the oracle's.
ORDERS = pytest.mark.parametrize(
    "check",
    [partial(gradcheck, fast_mode=True), partial(gradgradcheck, fast_mode=True)],
    ids=["first", "second"],
)


@ORDERS
@pytest.mark.parametrize(
    ("searched", "num_frames"), [("previous", 3), ("current", 3), ("previous", None), ("current", 1)]
)
def test_video_derivatives_equal_finite_differences(check, searched: str, num_frames) -> None:
    inputs = leaf(make_frames(TINY)), leaf(make_weight(TINY, num_frames=num_frames))
    assert check(lambda *f: video_correlation(*f, searched=searched, **options(TINY)), inputs)


@ORDERS
def test_pair_derivatives_equal_finite_differences(check) -> None:
    case = Case(name="pair", num_clips=1, channels=2, num_frames=1, height=3, width=3, groups=1)
    frames = leaf(make_frames(case)), leaf(make_frames(case, seed=5))
    assert check(lambda *f: correlation(*f, kernel_size=3), frames)
    assert check(lambda *f: correlation(*f, kernel_size=3), (*frames, leaf(make_weight(case, num_frames=1))))


def test_third_derivatives_exist() -> None:
    base, search, weight = (torch.tensor(v).double() for v in (2.0, 3.0, 5.0))
    base, search, weight = (leaf(v.reshape(1, 1, 1, 1)) for v in (base, search, weight))
    out = correlation(base, search, weight, kernel_size=1)
    (by_base,) = torch.autograd.grad(out, base, create_graph=True)
    (by_search,) = torch.autograd.grad(by_base, search, create_graph=True)
    (by_weight,) = torch.autograd.grad(by_search, weight)
    assert [out.item(), by_base.item(), by_search.item(), by_weight.item()] == [30.0, 15.0, 5.0, 1.0]


@pytest.mark.parametrize("wanted", [[True, False, False], [False, True, False], [False, False, True]])
def test_only_the_gradients_needed_are_computed(wanted: list[bool]) -> None:
    factors = [make_frames(TINY), make_frames(TINY, seed=5), make_weight(TINY, num_frames=1)]
    for factor, needs in zip(factors, wanted, strict=True):
        factor.requires_grad_(needs)
    with Calls() as calls:
        correlation(*factors, **options(TINY)).sum().backward()
    assert calls.needed == [wanted]
    assert [factor.grad is not None for factor in factors] == wanted


def test_only_the_inputs_are_saved_for_the_backward_pass() -> None:
    x, weight = leaf(make_frames(TINY)), leaf(make_weight(TINY, num_frames=3))
    saved = []

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        video_correlation(x, weight, **options(TINY))
    assert saved
    assert set(saved) <= {x.data_ptr(), weight.data_ptr()}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_gradients_have_the_memory_format_of_their_factor(memory_format: torch.memory_format) -> None:
    x = make_frames(TINY).contiguous(memory_format=memory_format).requires_grad_()
    (grad,) = torch.autograd.grad(video_correlation(x, **options(TINY)).square().sum(), x)
    assert grad.stride() == x.stride()


def test_gradients_are_bitwise_equal_run_to_run() -> None:
    case = cases()[1]
    factors = make_frames(case, dtype=torch.float32), make_weight(case, num_frames=3, dtype=torch.float32)
    first, second = (gradients(lambda *f: video_correlation(*f, **options(case)), factors) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
