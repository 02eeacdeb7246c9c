"""The operator inside PyTorch's machinery: opcheck, compile, export, autocast, vmap, checkpointing, meta."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck
from torch.utils.checkpoint import checkpoint

from corr_ops import VideoCorrelation, correlation, ops, video_correlation
from corr_ops._backends import IMPLEMENTATIONS

OP = torch.ops.corr_ops.correlation.default
BACKWARD_OP = torch.ops.corr_ops.correlation_backward.default


def frames(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 4, 3, 5, 6, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def filters(num_frames: int = 3) -> torch.Tensor:
    return torch.randn(num_frames, 4, 3, 3, generator=torch.Generator().manual_seed(7))


def operator(x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    return video_correlation(x, weight, kernel_size=3, dilation=2, groups=2)


def layouts() -> dict[str, torch.Tensor]:
    x = frames()
    return {
        "contiguous": x,
        "channels_last_3d": x.contiguous(memory_format=torch.channels_last_3d),
        "permuted": x.permute(2, 4, 0, 3, 1).contiguous().permute(2, 4, 0, 3, 1),
        "expanded": x[:, :1].expand(-1, 4, -1, -1, -1),
    }


LAYOUTS = pytest.mark.parametrize("layout", list(layouts()))


@pytest.mark.parametrize(
    ("layout", "lag"), [("contiguous", 0), ("channels_last_3d", 1), ("permuted", -1), ("expanded", 1)]
)
def test_opcheck_of_the_forward_operator(layout: str, lag: int) -> None:
    base = layouts()[layout].detach().requires_grad_()
    search = frames(1).requires_grad_()
    opcheck(OP, (base, search, filters().requires_grad_(), [3, 3], [2, 1], 2, lag, "reference"))


@pytest.mark.parametrize(
    ("layout", "needed"),
    [
        ("contiguous", [False, True, False]),
        ("channels_last_3d", [True, True, True]),
        ("permuted", [True, True, True]),
        ("expanded", [True, True, True]),
    ],
)
def test_opcheck_of_the_backward_operator(layout: str, needed: list[bool]) -> None:
    grad = torch.randn(2, 18, 3, 5, 6, requires_grad=True)
    base = layouts()[layout].detach().requires_grad_()
    search, weight = frames(1).requires_grad_(), filters().requires_grad_()
    opcheck(BACKWARD_OP, (grad, base, search, weight, [3, 3], [2, 1], 2, 1, needed, "reference"))


def test_opcheck_without_a_weight() -> None:
    x, grad = frames().requires_grad_(), torch.randn(2, 9, 3, 5, 6, requires_grad=True)
    opcheck(OP, (x, x, None, [3, 3], [1, 1], 1, 1, "reference"))
    opcheck(BACKWARD_OP, (grad, x, x, None, [3, 3], [1, 1], 1, 1, [True, True, False], "reference"))


@pytest.mark.parametrize("kind", ["none", "shared", "per_frame"])
def test_compiles_modules_with_symbolic_sizes(kind: str) -> None:
    # Parameters keep fixed sizes: the number of frames is a symbol in the clip, a number in the filters.
    torch._dynamo.reset()
    module = VideoCorrelation(4, 3, kernel_size=3, filters=kind)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    assert torch.equal(compiled(frames()), module(frames()))


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_to_one_graph(dynamic: bool | None) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(operator, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    weight = filters().requires_grad_()
    for shape in [(2, 4, 3, 5, 6), (1, 4, 3, 8, 7), (3, 4, 3, 4, 9)]:
        x = torch.randn(shape, requires_grad=True)
        out, expected = compiled(x, weight), operator(x, weight)
        assert torch.equal(out, expected)
        ours = torch.autograd.grad(out.square().sum(), (x, weight))
        theirs = torch.autograd.grad(expected.square().sum(), (x, weight))
        torch.testing.assert_close(ours, theirs)


def test_compiles_pairs_of_images() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(correlation, fullgraph=True, dynamic=True, backend="aot_eager")
    base = frames()[:, :, 0].contiguous(memory_format=torch.channels_last)
    search = frames(1)[:, :, 0]
    out = compiled(base, search, kernel_size=(3, 1))
    expected = correlation(base, search, kernel_size=(3, 1))
    assert torch.equal(out, expected)
    assert out.stride() == expected.stride()


@pytest.mark.slow
def test_compiled_call_may_be_the_first_of_a_process() -> None:
    script = """
import torch, corr_ops
module = corr_ops.VideoCorrelation(4, 3, kernel_size=3, groups=2)
x = torch.randn(2, 4, 3, 5, 6, requires_grad=True)
out = torch.compile(module, fullgraph=True, dynamic=True, backend="inductor")(x)
out.square().sum().backward()
grad, x.grad = x.grad, None
expected = module(x)
expected.square().sum().backward()
torch.testing.assert_close(out, expected)
torch.testing.assert_close(grad, x.grad)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)


def test_exports_with_dynamic_sizes() -> None:
    batch, height, width = torch.export.Dim("batch"), torch.export.Dim("height"), torch.export.Dim("width")
    module = VideoCorrelation(4, 3, kernel_size=3, groups=2)
    sizes = ({0: batch, 3: height, 4: width},)
    program = torch.export.export(module, (frames(),), dynamic_shapes=sizes)
    assert [node.target for node in program.graph.nodes if node.op == "call_function"] == [OP]
    other = torch.randn(5, 4, 3, 9, 8)
    assert torch.equal(program.module()(other), module(other))


@LAYOUTS
def test_meta_and_fake_tensors_have_the_shapes_and_strides_of_real_ones(layout: str) -> None:
    x = layouts()[layout]
    real = operator(x, filters())
    meta = operator(x.to("meta"), filters().to("meta"))
    assert meta.is_meta
    assert (meta.shape, meta.dtype) == (real.shape, real.dtype)
    mode = FakeTensorMode()
    fake = operator(mode.from_tensor(x), mode.from_tensor(filters()))
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(use_reentrant: bool) -> None:
    x, weight = frames().requires_grad_(), filters().requires_grad_()
    plain = torch.autograd.grad(operator(x, weight).square().sum(), (x, weight))
    checkpoint(operator, x, weight, use_reentrant=use_reentrant).square().sum().backward()
    assert torch.equal(x.grad, plain[0])
    assert torch.equal(weight.grad, plain[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_runs_in_the_dtype_of_the_region(dtype: torch.dtype) -> None:
    x, weight = frames().requires_grad_(), filters().requires_grad_()
    expected = operator(x.to(dtype), weight.to(dtype))
    with torch.autocast("cpu", dtype=dtype):
        out = operator(x, weight)
        mixed = operator(x.to(dtype), weight)
    assert out.dtype == dtype
    assert torch.equal(out, expected)
    assert torch.equal(mixed, expected)
    grads = torch.autograd.grad(out.float().square().sum(), (x, weight))
    assert [grad.dtype for grad in grads] == [torch.float32, torch.float32]


def test_autocast_leaves_float64_alone() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert operator(frames(dtype=torch.float64), None).dtype == torch.float64
        with pytest.raises(ValueError, match=r"one dtype, got .*float64.*bfloat16"):
            operator(frames(dtype=torch.float64), filters())


def test_autocast_inside_a_compiled_graph() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(operator, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, expected = compiled(frames(), filters()), operator(frames(), filters())
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected)


def test_that_the_slower_reference_serves_is_told_once_unless_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(IMPLEMENTATIONS["cpu"].kernels, "unavailable", lambda device: "they are gone")
    ops._warn.cache_clear()
    with pytest.warns(UserWarning) as told:
        video_correlation(frames(), kernel_size=3, backend="reference")
        assert len(told) == 0
        for _ in range(2):
            video_correlation(frames(), kernel_size=3)
    (warning,) = told
    assert str(warning.message) == (
        "corr-ops: the CPU kernels cannot be used, the slower reference serves CPUs: they are gone"
    )


@pytest.mark.parametrize(("x_dim", "weight_dim"), [(0, None), (2, 1), (None, 0), (5, -1)])
def test_vmap_equals_a_loop(x_dim: int | None, weight_dim: int | None) -> None:
    xs = torch.stack([frames(seed) for seed in range(3)])
    weights = torch.stack([filters() + seed for seed in range(3)])
    x = xs[0] if x_dim is None else xs.movedim(0, x_dim).requires_grad_()
    weight = weights[0] if weight_dim is None else weights.movedim(0, weight_dim).requires_grad_()
    loop = torch.stack(
        [
            operator(xs[0] if x_dim is None else xs[k], weights[0] if weight_dim is None else weights[k])
            for k in range(3)
        ]
    )
    mapped = torch.vmap(operator, in_dims=(x_dim, weight_dim))(x, weight)
    torch.testing.assert_close(mapped, loop)


def test_gradients_that_are_not_needed_stay_empty_under_vmap() -> None:
    x, weight = frames(), filters()
    out = operator(x, weight)

    def by_x(cotangent: torch.Tensor) -> tuple[torch.Tensor, ...]:
        options = ([3, 3], [2, 2], 2, 1, [True, False, False], "reference")
        return BACKWARD_OP(cotangent, x, None, weight, *options)

    shapes = [list(grad.shape) for grad in torch.vmap(by_x)(torch.randn(2, *out.shape))]
    assert shapes == [[2, *x.shape], [2, 0], [2, 0]]


def test_vmap_over_cotangents_gives_the_jacobian() -> None:
    x, weight = frames().requires_grad_(), filters().requires_grad_()
    out = operator(x, weight)
    cotangents = torch.randn(3, *out.shape)
    batched = torch.autograd.grad(out, (x, weight), cotangents, is_grads_batched=True, retain_graph=True)
    for k, cotangent in enumerate(cotangents):
        single = torch.autograd.grad(out, (x, weight), cotangent, retain_graph=True)
        torch.testing.assert_close([grad[k] for grad in batched], list(single))
