"""The compiled kernels: every instruction set of this processor, any strides, any threads, any process."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from corr_ops import video_correlation
from corr_ops.impl import cpu, reference
from corr_ops.impl.cpu import library
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

if not library.path().exists():
    pytest.skip(f"no compiled library: {library.unavailable()}", allow_module_level=True)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INSTRUCTION_SETS = list(library.instruction_sets())

# Beside the corners of the definition: sizes around those of vectors, strips and parts of the kernels.
STRESS = [
    *(
        Case(name=f"width-{w}", width=w, height=3, num_frames=2, num_clips=1, dilation=(1, 2))
        for w in range(1, 21)
    ),
    *(
        Case(name=f"height-{h}", width=3, height=h, num_frames=2, num_clips=1, dilation=(2, 1))
        for h in range(1, 7)
    ),
    *(
        Case(
            name=f"kernel-{ky}x{kx}",
            kernel_size=(ky, kx),
            num_clips=1,
            channels=2,
            groups=1,
            height=10,
            width=9,
        )
        for ky, kx in [(15, 15), (13, 1), (11, 3), (9, 5), (5, 9), (1, 15), (7, 3)]
    ),
    Case(
        name="many-channels",
        num_clips=1,
        channels=300,
        groups=1,
        num_frames=1,
        height=2,
        width=5,
        kernel_size=(3, 1),
    ),
    Case(name="channels-no-power-of-two", num_clips=1, channels=33, groups=3, num_frames=2, width=17),
    Case(name="dilation-reaches-the-last-row", dilation=(6, 5), height=7, width=6),
    Case(name="dilation-of-many-strips", dilation=(4, 1), height=23, width=5, num_clips=1, num_frames=2),
    Case(name="one-column", height=9, width=1),
    Case(name="one-column-wide-kernel", height=5, width=1, kernel_size=(3, 5), dilation=(2, 3)),
    Case(
        name="bands", num_clips=1, channels=2, groups=1, num_frames=1, height=70, width=5, kernel_size=(5, 3)
    ),
    Case(
        name="bands-without-rows",
        num_clips=1,
        channels=1,
        groups=1,
        num_frames=1,
        height=257,
        width=3,
        dilation=(3, 1),
    ),
    Case(
        name="bands-lower-than-reach",
        num_clips=1,
        channels=1,
        groups=1,
        num_frames=1,
        height=64,
        dilation=(31, 2),
    ),
]
PLAIN = Case(name="plain", channels=6, height=9, width=11)
WIDE_KERNEL = Case(name="kernel-wider-than-frame", kernel_size=(7, 9), height=3, width=4)
PAPER = Case(name="paper", channels=8, height=20, width=14, kernel_size=(7, 7), dilation=(2, 2))
TALL = Case(name="tall", num_clips=1, channels=4, groups=1, num_frames=1, height=90, width=9, dilation=(2, 1))

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.fixture(params=INSTRUCTION_SETS)
def each_instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(library, "instruction_set", lambda: request.param)
    return request.param


def options(case: Case) -> dict[str, object]:
    return {"kernel_size": case.kernel_size, "dilation": case.dilation, "groups": case.groups}


def assert_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_library_beside_these_sources_can_be_used() -> None:
    # Where it cannot, tests with each backend would be skipped in silence.
    assert library.unavailable() is None
    assert INSTRUCTION_SETS[-1] == "baseline"


# The corners of the definition have every kind of call with every dtype. Sizes are split alike in all kinds: they have
# one with each dtype, in turn.
KINDS = [(case, dtype, tuple(LAGS)) for case, dtype in itertools.product(cases(), DTYPES)]
KINDS += [
    (case, dtype, (tuple(LAGS)[(i + j) % len(LAGS)],))
    for (i, case), (j, dtype) in itertools.product(enumerate(STRESS), enumerate(DTYPES))
]


@pytest.mark.parametrize(
    ("case", "dtype", "kinds"),
    KINDS,
    ids=lambda value: (
        "+".join(value)
        if isinstance(value, tuple)
        else str(getattr(value, "name", value)).removeprefix("torch.")
    ),
)
def test_every_result_is_within_the_error_budget_of_the_oracle(
    each_instruction_set: str, case: Case, dtype: torch.dtype, kinds: tuple[str, ...]
) -> None:
    for kind in kinds:
        lag = LAGS[kind]
        ours = run_implementation(
            cpu, make_factors(case, kind, dtype=dtype), make_grad(case, dtype=dtype), case, lag
        )
        exact = oracle_results(case, kind, dtype, torch.float64)
        if dtype == torch.float64:
            torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
            continue
        for result, truth, low in zip(ours, exact, oracle_results(case, kind, dtype, dtype), strict=True):
            assert result.dtype == dtype
            assert_within_budget(result, exact=truth, low_precision=low)


@pytest.mark.parametrize("lag", LAGS.values(), ids=LAGS)
@pytest.mark.parametrize("weights", ["none", "one", "per_frame"])
@pytest.mark.parametrize("needed", list(itertools.product([False, True], repeat=3))[1:], ids=str)
def test_every_combination_of_arguments_equals_the_reference(
    lag: int, weights: str, needed: tuple[bool, bool, bool]
) -> None:
    num_frames = {"none": None, "one": 1, "per_frame": PLAIN.num_frames}[weights]
    weight = None if num_frames is None else make_weight(PLAIN, num_frames=num_frames)
    grad = make_grad(PLAIN, dtype=torch.float64)
    if weight is None and needed[2]:
        needed = (*needed[:2], False)
    for search in (make_frames(PLAIN, seed=5), None):
        if search is None and needed[1]:
            continue
        factors = [make_frames(PLAIN), search, weight]
        ours, theirs = (
            run_implementation(module, factors, grad, PLAIN, lag, needed) for module in (cpu, reference)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lag", LAGS.values(), ids=LAGS)
def test_gradient_of_frames_in_both_roles_is_the_sum_of_two(each_instruction_set: str, lag: int) -> None:
    x, weight = make_frames(PAPER), make_weight(PAPER, num_frames=PAPER.num_frames)
    grad = make_grad(PAPER, dtype=torch.float64)
    out, *shared = run_implementation(cpu, [x, None, weight], grad, PAPER, lag)
    pair_out, as_base, as_search, by_weight = run_implementation(
        cpu, [x, x.clone(), weight], grad, PAPER, lag
    )
    assert torch.equal(out, pair_out)
    torch.testing.assert_close(shared, [as_base + as_search, by_weight], rtol=1e-13, atol=1e-13)


# ---- Strides ----


def sliced(x: Tensor) -> Tensor:
    """Return every second row and third column, away from the edges of what surrounds them."""
    n, c, frames, height, width = x.shape
    around = x.new_full((n + 1, c + 2, frames + 1, 2 * height + 3, 3 * width + 4), float("nan"))
    view = around[1:, 1 : c + 1, :frames, 2 : 2 * height + 2 : 2, 1 : 3 * width + 1 : 3]
    return view.copy_(x)


def permuted(*order: int) -> Callable[[Tensor], Tensor]:
    def view(x: Tensor) -> Tensor:
        inverse = sorted(range(x.dim()), key=order.__getitem__)
        return x.permute(order).contiguous().permute(inverse)

    return view


def expanded(dim: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.narrow(dim, 0, 1).expand(x.shape)


def overlapping(x: Tensor) -> Tensor:
    """Return a view whose frames and rows share memory, beginning in the middle of it."""
    strides = (7 * x.shape[1], 7, 3, 2, 1)
    size = sum((count - 1) * stride for count, stride in zip(x.shape, strides, strict=True)) + 1
    values = torch.randn(size + 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(
        x.dtype
    )
    return values.as_strided(x.shape, strides, 5)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last_3d),
    "channels-last-rows-first": permuted(3, 0, 2, 4, 1),
    "channels-last-within-more-channels": lambda x: torch.cat([x, x], 1).contiguous(
        memory_format=torch.channels_last_3d
    )[:, x.shape[1] :],
    "transposed": permuted(0, 1, 2, 4, 3),
    "clips-innermost": permuted(2, 4, 3, 1, 0),
    "sliced": sliced,
    "overlapping": overlapping,
    **{
        f"expanded-{name}": expanded(dim)
        for dim, name in enumerate(["clips", "channels", "frames", "rows", "columns"])
    },
}


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [PLAIN, WIDE_KERNEL, TALL], ids=lambda case: case.name)
def test_strides_change_no_bit(
    each_instruction_set: str, case: Case, dtype: torch.dtype, layout: str
) -> None:
    view = LAYOUTS[layout]
    weight = make_weight(case, num_frames=case.num_frames, dtype=dtype)
    base, search = view(make_frames(case, dtype=dtype)), view(make_frames(case, dtype=dtype, seed=5))
    grad = view(make_grad(case, dtype=dtype))
    dense_base, dense_search, dense_grad = (tensor.contiguous() for tensor in (base, search, grad))
    expected = run_implementation(cpu, [dense_base, dense_search, weight], dense_grad, case, 1)
    assert_equal(run_implementation(cpu, [base, dense_search, weight], dense_grad, case, 1), expected)
    assert_equal(run_implementation(cpu, [dense_base, search, weight], dense_grad, case, 1), expected)
    assert_equal(run_implementation(cpu, [dense_base, dense_search, weight], grad, case, 1), expected)
    assert_equal(run_implementation(cpu, [base, search, weight], grad, case, 1), expected)
    shared = run_implementation(cpu, [dense_base, None, weight], dense_grad, case, -1)
    assert_equal(run_implementation(cpu, [base, None, weight], grad, case, -1), shared)


@pytest.mark.parametrize(
    "view",
    [
        lambda w: w[:1].expand(w.shape),
        lambda w: w[:, :1].expand(w.shape),
        lambda w: w[..., :1].expand(w.shape),
        lambda w: w.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        lambda w: w.contiguous(memory_format=torch.channels_last),
        lambda w: w.repeat_interleave(2, -1)[..., ::2],
    ],
    ids=["expanded-frames", "expanded-channels", "expanded-columns", "reversed", "channels-last", "sliced"],
)
@each_dtype
def test_strides_of_filters_change_no_bit(view: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    weight = view(make_weight(PLAIN, num_frames=PLAIN.num_frames, dtype=dtype))
    x, grad = make_frames(PLAIN, dtype=dtype), make_grad(PLAIN, dtype=dtype)
    ours = run_implementation(cpu, [x, None, weight], grad, PLAIN, 1)
    assert_equal(ours, run_implementation(cpu, [x, None, weight.contiguous()], grad, PLAIN, 1))


def test_lazily_negated_and_zero_tensors_are_what_they_stand_for() -> None:
    x, grad = make_frames(PLAIN), make_frames(PLAIN, seed=5)
    negated = torch.complex(grad, -x).conj().imag
    assert negated.is_neg()
    assert torch.equal(negated, x)
    assert torch.equal(
        video_correlation(negated, kernel_size=3, backend="cpu"),
        video_correlation(x, kernel_size=3, backend="cpu"),
    )
    zeros = torch._efficientzerotensor(x.shape, dtype=x.dtype)
    assert not video_correlation(zeros, kernel_size=3, backend="cpu").any()


# ---- Memory ----


@each_dtype
@pytest.mark.parametrize("case", [*cases(), *STRESS[-6:]], ids=lambda case: case.name)
def test_every_value_of_fresh_memory_is_written(case: Case, dtype: torch.dtype) -> None:
    # In deterministic mode PyTorch fills fresh memory with NaN.
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        for kind, lag in LAGS.items():
            for layout in (torch.contiguous_format, torch.channels_last_3d):
                base, *others = make_factors(case, kind, dtype=dtype)
                base = base.contiguous(memory_format=layout)
                results = run_implementation(cpu, [base, *others], make_grad(case, dtype=dtype), case, lag)
                assert all(result.isfinite().all() for result in results)
    finally:
        torch.use_deterministic_algorithms(False)


def test_values_that_are_not_finite_stay_where_they_belong(each_instruction_set: str) -> None:
    case = Case(name="three-clips", num_clips=3, num_frames=4, height=20, width=13)
    x, weight = make_frames(case), make_weight(case, num_frames=case.num_frames)
    x[1, :2, 2] = float("inf")  # clip 1, group 0, frame 2
    out, grad_x, grad_weight = run_implementation(
        cpu, [x, None, weight], make_grad(case, dtype=torch.float64), case, 1
    )
    assert not_finite(out) == {(1, 0, 2), (1, 0, 3)}  # as base and as searched frame
    assert not_finite(grad_x) == {(1, 0, 1), (1, 0, 3)}  # of what it was multiplied with
    assert not_finite(grad_weight.movedim(0, 1)[None].flatten(-2)[..., None]) == {(0, 0, 2), (0, 0, 3)}


def not_finite(x: Tensor) -> set[tuple[int, ...]]:
    """Return (clip, group, frame) of values that are not finite."""
    return {tuple(at) for at in (~x.isfinite()).unflatten(1, (2, -1)).any(dim=(2, 4, 5)).nonzero().tolist()}


def test_offsets_past_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(name="far-apart", num_clips=2, channels=2, groups=1, num_frames=2, height=5, width=9)
    distance = 2**31 + 2**20

    def spread(x: Tensor) -> Tensor:
        """Lay the clips far apart; memory between them is reserved but not touched."""
        try:
            memory = torch.empty(distance + x[0].numel(), dtype=x.dtype)
        except RuntimeError as error:
            pytest.skip(str(error))
        return memory.as_strided(x.shape, (distance, *x[0].stride())).copy_(x)

    def spread_like(factor: Tensor, **_: object) -> Tensor:
        return spread(torch.zeros_like(factor)) if factor.dim() == 5 else torch.zeros_like(factor)

    x, grad = make_frames(case, dtype=torch.bfloat16), make_grad(case, dtype=torch.bfloat16)
    weight = make_weight(case, num_frames=2, dtype=torch.bfloat16)
    y = make_frames(case, dtype=torch.bfloat16, seed=5)
    expected = run_implementation(cpu, [x, y, weight], grad, case, 1)
    monkeypatch.setattr(cpu, "empty_output", lambda *_: spread(torch.zeros_like(expected[0])))
    monkeypatch.setattr(cpu, "empty_gradient", spread_like)
    actual = run_implementation(cpu, [spread(x), spread(y), weight], spread(grad), case, 1)
    assert all(result.stride(0) == distance for result in actual[:3])
    assert_equal(actual, expected)


@pytest.mark.slow
def test_lack_of_memory_is_an_error() -> None:
    script = """
import resource, torch
from corr_ops import correlation
images = torch.zeros(1).expand(1, 1 << 24, 64, 64)  # 4 bytes; the kernel's copies take more than 64 GiB
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
try:
    correlation(images, images, kernel_size=3, backend="cpu")
except MemoryError as error:
    print(error)
"""
    assert "no memory for the buffers" in run_script(script)


# ---- 16-bit values ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_all_values_of_16_bits_survive(each_instruction_set: str, dtype: torch.dtype) -> None:
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    x = bits.view(dtype).reshape(1, 1, 1, 256, 256)
    out = run_forward_1x1(x, torch.ones_like(x))
    assert torch.equal(out.isnan(), x.isnan())
    assert torch.equal(out.nan_to_num(), x.nan_to_num())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_products_are_rounded_to_16_bits_as_pytorch_does(
    each_instruction_set: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    shape, scale = (1, 1, 1, 256, 257), 2.0 ** torch.randint(-30, 20, (257,), generator=generator)
    x = (torch.randn(shape, generator=generator) * scale).to(dtype)
    y = torch.randn(shape, generator=generator).to(dtype)
    expected = (x.float() * y.float()).to(dtype)
    assert expected.isinf().any() or dtype == torch.bfloat16
    assert torch.equal(run_forward_1x1(x, y), expected)


def run_forward_1x1(base: Tensor, search: Tensor) -> Tensor:
    return cpu.forward(base, search, None, (1, 1), (1, 1), 1, 0)


# ---- Threads and processes ----


@pytest.fixture(params=["openmp", "python"])
def each_kind_of_thread(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "python":
        monkeypatch.setattr(library, "_parallel", lambda: library._run_in_python_threads)
    elif library._openmp_parallel() is None:
        pytest.skip("PyTorch has no OpenMP runtime here")
    return request.param


@pytest.fixture
def set_num_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@each_dtype
@pytest.mark.parametrize("case", [PAPER, TALL], ids=lambda case: case.name)
def test_number_of_threads_changes_no_bit(
    each_kind_of_thread: str, case: Case, dtype: torch.dtype, set_num_threads: Callable[[int], None]
) -> None:
    factors = [
        make_frames(case, dtype=dtype),
        None,
        make_weight(case, num_frames=case.num_frames, dtype=dtype),
    ]
    results = []
    for num_threads in (1, 2, 3, 5, 5):
        set_num_threads(num_threads)
        results.append(run_implementation(cpu, factors, make_grad(case, dtype=dtype), case, 1))
    for result in results[1:]:
        assert_equal(result, results[0])


def test_calls_from_several_threads_do_not_mix(
    each_kind_of_thread: str, set_num_threads: Callable[[int], None]
) -> None:
    set_num_threads(2)
    grad = make_grad(PAPER, dtype=torch.float32)
    calls = [
        [
            make_frames(PAPER, dtype=torch.float32, seed=seed),
            None,
            make_weight(PAPER, num_frames=3, seed=seed).float(),
        ]
        for seed in range(8)
    ]
    expected = [run_implementation(cpu, factors, grad, PAPER, 1) for factors in calls]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for ours, theirs in zip(
                pool.map(lambda f: run_implementation(cpu, f, grad, PAPER, 1), calls), expected, strict=True
            ):
                assert_equal(ours, theirs)


FORK = """
import os, sys, torch
from corr_ops.impl import cpu
from corr_ops.impl.cpu import library
openmp = library._openmp_parallel
x = torch.randn(1, 8, 4, 20, 20)
for kind, parallel in (("python", lambda: None), ("openmp", openmp)):
    library._openmp_parallel = parallel
    library._parallel.cache_clear()
    torch.set_num_threads(2)
    expected = cpu.forward(x, None, None, (3, 3), (1, 1), 2, 1)
    child = os.fork()
    for num_threads in (1, 2) if child == 0 else (2,):
        torch.set_num_threads(num_threads)
        equal = torch.equal(cpu.forward(x, None, None, (3, 3), (1, 1), 2, 1), expected)
        if not equal:
            os._exit(3)
    if child == 0:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    print("equal", kind)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_forked_processes_compute_too() -> None:
    # With the threads of OpenMP, which a child does not have, it would wait for ever.
    assert run_script(FORK).splitlines() == ["equal python", "equal openmp"]


def run_script(script: str) -> str:
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


# ---- Choice of the instruction set ----


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_instruction_set_may_be_chosen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.instruction_set.__wrapped__() in INSTRUCTION_SETS
    monkeypatch.setenv("CORR_OPS_ISA", name)
    assert library.instruction_set.__wrapped__() == name


def test_instruction_set_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORR_OPS_ISA", "avx1024")
    with pytest.raises(ValueError, match=r"CORR_OPS_ISA must be one of \[.*'baseline'\] .*, got 'avx1024'"):
        library.instruction_set.__wrapped__()


@pytest.mark.parametrize("place", [(0, 0), (2, 3), (-1, -1)], ids=str)
@pytest.mark.parametrize("factor", ["base", "search", "grad"])
def test_nan_reaches_what_it_reaches_in_the_reference(factor: str, place: tuple[int, int]) -> None:
    case = Case(name="nan", kernel_size=(3, 5), dilation=(2, 1))
    for kind, lag in LAGS.items():
        factors, grad = make_factors(case, kind, dtype=torch.float32), make_grad(case, dtype=torch.float32)
        tensors = {"base": factors[0], "search": factors[1], "grad": grad}
        if (chosen := tensors[factor]) is None:
            continue
        chosen[..., 1, place[0] % chosen.shape[-2], place[1] % chosen.shape[-1]] = float("nan")
        ours, theirs = (run_implementation(module, factors, grad, case, lag) for module in (cpu, reference))
        assert any(result.isnan().any() for result in ours)
        for result, expected in zip(ours[:-1], theirs[:-1], strict=True):
            assert torch.equal(result.isnan(), expected.isnan())
        # The filters' gradient sums over all positions, with those that fill up a vector.
        assert ours[-1].isnan()[theirs[-1].isnan()].all()


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(),
    reason="this system has no large pages to ask for",
)
def test_large_results_are_in_large_pages_where_the_system_allows_them():
    """Asking sets a mark (hg) on the memory, which /proc/self/smaps shows, whether there are such pages or not."""
    code = """
import re, torch, corr_ops
def is_marked(tensor):
    address, marked = tensor.data_ptr() + tensor.nbytes // 2, None
    for line in open("/proc/self/smaps"):
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
x = torch.randn(1, 32, 8, 56, 56, requires_grad=True)
large = corr_ops.video_correlation(x, torch.randn(32, 7, 7), kernel_size=7, backend="cpu")
(grad,) = torch.autograd.grad(large, x, torch.randn_like(large))
small = corr_ops.video_correlation(x[..., :8, :8], torch.randn(32, 7, 7), kernel_size=7, backend="cpu")
print(large.nbytes > 2**22, grad.nbytes > 2**21, is_marked(large), is_marked(small))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    if "VmFlags" not in Path("/proc/self/smaps").read_text():
        pytest.skip("this kernel does not show the flags of memory")
    assert done.stdout.split() == ["True", "True", "True", "False"], done.stderr
