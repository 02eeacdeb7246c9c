"""The GPU kernels' arithmetic: in Triton's interpreter where there is no GPU, on the GPU where there is one.

The interpreter is wrong for bfloat16, which is tested on GPUs alone. It takes about a second for each tile of a
frame: on a CPU frames are tiny, and what is independent of each other is chosen in turn.
"""

import dataclasses
import functools
import itertools
import os

import pytest
import torch
from torch import Tensor

from corr_ops.impl import reference, triton
from corr_ops.impl.triton import launch
from corr_ops.testing import (
    LAGS,
    Case,
    assert_within_budget,
    cases,
    make_factors,
    make_frames,
    make_grad,
    make_weight,
    oracle_results,
    run_implementation,
)

pytest.importorskip("triton")
pytestmark = pytest.mark.slow  # in the interpreter
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU, and Triton was imported without its interpreter", allow_module_level=True)
DTYPES = [torch.float32, torch.float16, torch.float64, *([torch.bfloat16] if DEVICE == "cuda" else [])]

TINY = {"num_clips": 1, "channels": 2, "groups": 1, "num_frames": 2, "height": 3, "width": 4}
CASES = [
    Case(name="two-groups", **{**TINY, "channels": 4, "groups": 2}),
    Case(name="strips-end-inside", **{**TINY, "width": 17}, dilation=(1, 2), kernel_size=(3, 5)),
    Case(name="channels-3-of-4", **{**TINY, "channels": 3}),
    Case(name="several-blocks", **{**TINY, "channels": 36}, kernel_size=(1, 3)),
    Case(name="one-column-tall", **{**TINY, "height": 9, "width": 1, "num_frames": 1}, kernel_size=(5, 1)),
]
if DEVICE == "cuda":
    LARGE = {"num_clips": 1, "channels": 4, "groups": 2, "num_frames": 3, "height": 20, "width": 14}
    CASES += [
        *cases(),
        Case(name="kernel-15", **LARGE, kernel_size=(15, 15)),
        Case(name="paper", **{**LARGE, "channels": 64}, kernel_size=(7, 7), dilation=(2, 2)),
        Case(name="group-of-2048", **{**LARGE, "channels": 2048, "groups": 1}),
    ]


def named(values: list) -> list:
    """Return parameters whose ids are the names of cases and dtypes."""
    return [
        pytest.param(*value, id="-".join(str(getattr(v, "name", v)).removeprefix("torch.") for v in value))
        for value in values
    ]


# float32 and float64 run the same kernels, but for the dtype of their sums.
KERNEL_DTYPES = [torch.float16, torch.float32] if DEVICE == "cpu" else DTYPES
each_kernel = pytest.mark.parametrize(
    "dtype", KERNEL_DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch.")
)
# Of the exact kernels float64 shows faults best; float32 is there where groups, and blocks of channels, are summed.
# In the interpreter a case has another kind of call with each dtype, and a dtype has all kinds between the cases.
BUDGETED = [
    (case, dtype, kind)
    for (i, case), (j, dtype), (k, kind) in itertools.product(
        enumerate(CASES), enumerate(DTYPES), enumerate(LAGS)
    )
    if DEVICE == "cuda"
    or ((dtype != torch.float32 or case.name in ("two-groups", "several-blocks")) and k == (i + j) % 3)
]


@pytest.fixture(autouse=True, scope="module")
def interpreter_without_checks_of_overflow():
    """Spare a third of the interpreter's time: integers of so small frames do not overflow."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            from triton.runtime.interpreter import interpreter_builder

            options = dataclasses.replace(interpreter_builder.options, sanitize_overflow=False)
            patch.setattr(interpreter_builder, "options", options)
        yield


@pytest.fixture(autouse=True)
def fresh_memory_is_nan():
    # In deterministic mode PyTorch fills fresh memory with NaN, which shows what was not written.
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@functools.cache
def results(case: Case, dtype: torch.dtype, kind: str) -> list[Tensor]:
    factors = make_factors(case, kind, dtype=dtype, device=DEVICE)
    return run_implementation(triton, factors, make_grad(case, dtype=dtype, device=DEVICE), case, LAGS[kind])


@pytest.mark.parametrize(("case", "dtype", "kind"), named(BUDGETED))
def test_every_result_is_within_the_error_budget_of_the_oracle(
    case: Case, dtype: torch.dtype, kind: str
) -> None:
    ours, exact = results(case, dtype, kind), oracle_results(case, kind, dtype, torch.float64)
    if dtype == torch.float64:
        torch.testing.assert_close([result.cpu() for result in ours], exact, rtol=1e-12, atol=1e-12)
        return
    for result, truth, low in zip(ours, exact, oracle_results(case, kind, dtype, dtype), strict=True):
        assert result.dtype == dtype
        assert_within_budget(result.cpu(), exact=truth, low_precision=low)


SMALL = CASES[0]


CHOICES = (
    list(LAGS.values()),
    ["none", "one", "per_frame"],
    [(True, False, False), (False, True, True), (False, False, True)],
)
# In the interpreter any two choices are made together once, of lag, weights, gradients and dtype.
COMBINATIONS = [
    (dtype, lag, weights, needed)
    for ((i, lag), (j, weights), (k, needed)), (m, dtype) in itertools.product(
        itertools.product(*map(enumerate, CHOICES)), enumerate(DTYPES)
    )
    if DEVICE == "cuda" or (k == (i + j) % 3 and m == (i + 2 * j) % 3)
]


@pytest.mark.parametrize(("dtype", "lag", "weights", "needed"), named(COMBINATIONS))
def test_every_combination_of_arguments_equals_the_reference(dtype, lag, weights, needed) -> None:
    num_frames = {"none": None, "one": 1, "per_frame": SMALL.num_frames}[weights]
    search = make_frames(SMALL, dtype=dtype, device=DEVICE, seed=5) if lag == 0 else None
    weight = make_weight(SMALL, num_frames=num_frames, dtype=dtype, device=DEVICE) if num_frames else None
    factors = [make_frames(SMALL, dtype=dtype, device=DEVICE), search, weight]
    needed = [need and factor is not None for need, factor in zip(needed, factors, strict=True)]
    grad = make_grad(SMALL, dtype=dtype, device=DEVICE)
    ours, theirs = (
        run_implementation(module, factors, grad, SMALL, lag, needed) for module in (triton, reference)
    )
    tolerance = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@each_kernel
@pytest.mark.parametrize("factor", range(3), ids=["base", "search", "weight"])
def test_nan_reaches_the_outputs_that_it_reaches_in_the_reference(factor: int, dtype: torch.dtype) -> None:
    factors = make_factors(SMALL, "pair", dtype=dtype, device=DEVICE)
    factors[factor][0, 0, ..., 0, 0] = float("nan")
    out, expected = (
        module.forward(*factors, SMALL.kernel_size, SMALL.dilation, SMALL.groups, 0).isnan()
        for module in (triton, reference)
    )
    if (
        dtype.itemsize == 2 and factor < 2
    ):  # tensor cores add all positions of a row of the neighborhood at once
        rows = expected.unflatten(1, (-1, SMALL.kernel_size[1]))
        expected = rows.any(2, keepdim=True).expand_as(rows).flatten(1, 2)
    assert expected.any() and torch.equal(out, expected)


LAYOUTS = {
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last_3d),
    "transposed": lambda x: x.transpose(3, 4).contiguous().transpose(3, 4),
    "within-more-channels": lambda x: torch.cat([x, x], 1)[:, x.shape[1] :],
    "every-second-column": lambda x: x.repeat_interleave(2, 4)[..., ::2],
    "one-frame-expanded": lambda x: x[:, :, :1].expand_as(x),
}
# The kernels take channels that are last as they are, and in float32 the forward pass takes rows that are; of other
# frames they get a copy, whatever the dtype.
IN_THEIR_LAYOUT = [
    (layout, dtype)
    for layout, dtype in itertools.product(LAYOUTS, KERNEL_DTYPES)
    if DEVICE == "cuda" or (dtype == torch.float16) == (layout in ("channels-last", "transposed"))
]
ONE_GROUP = dataclasses.replace(SMALL, name="one-group", channels=2, groups=1)


@functools.cache
def dense_results(dtype: torch.dtype, one_frame: bool) -> list[Tensor]:
    """Return the results for the frames of `ONE_GROUP`, or for their first alone, all in dense memory."""
    view = LAYOUTS["one-frame-expanded"] if one_frame else lambda x: x
    frames = [
        view(make_frames(ONE_GROUP, dtype=dtype, device=DEVICE, seed=seed)).contiguous() for seed in (0, 5)
    ]
    weight = make_weight(ONE_GROUP, num_frames=2, dtype=dtype, device=DEVICE)
    grad = view(make_grad(ONE_GROUP, dtype=dtype, device=DEVICE)).contiguous()
    return run_implementation(triton, [*frames, weight], grad, ONE_GROUP, 0)


@pytest.mark.parametrize(("layout", "dtype"), named(IN_THEIR_LAYOUT))
def test_layouts_change_nothing(layout: str, dtype: torch.dtype) -> None:
    view = LAYOUTS[layout]
    base, search = (view(make_frames(ONE_GROUP, dtype=dtype, device=DEVICE, seed=seed)) for seed in (0, 5))
    weight = make_weight(ONE_GROUP, num_frames=2, dtype=dtype, device=DEVICE)
    grad = view(make_grad(ONE_GROUP, dtype=dtype, device=DEVICE))
    ours = run_implementation(triton, [base, search, weight], grad, ONE_GROUP, 0)
    expected = dense_results(dtype, one_frame=layout == "one-frame-expanded")
    for result, wanted in zip(ours, expected, strict=True):
        assert torch.equal(result, wanted)
    if layout == "channels-last":
        assert all(result.is_contiguous(memory_format=torch.channels_last_3d) for result in ours[:3])


@each_kernel
def test_wide_offsets_change_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[3]
    kind = next(kind for budgeted, other, kind in BUDGETED if (budgeted, other) == (case, dtype))
    narrow = results(case, dtype, kind)
    monkeypatch.setattr(launch, "_is_wide", lambda *_: True)
    for result, expected in zip(results.__wrapped__(case, dtype, kind), narrow, strict=True):
        assert torch.equal(result, expected)
