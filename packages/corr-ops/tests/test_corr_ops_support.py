"""The cells of the README's support table: every feature with every implementation and dtype.

A cell is supported when its check passes. A refusal on purpose is declared beside the check with its reason,
which the error has to state. `tools/support.py` runs this file and writes the table.
"""

import copy
import importlib.util
import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from corr_ops import VideoCorrelation, correlation, explain, ops, video_correlation
from corr_ops.testing import Case, make_frames, make_weight, oracle_correlation, oracle_video_correlation

PACKAGE = Path(__file__).parents[1]
BACKENDS = ("cpu", "reference")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CASE = Case(
    name="support", num_clips=2, channels=4, num_frames=2, height=3, width=4, dilation=(1, 2), groups=2
)
OPTIONS = {"kernel_size": CASE.kernel_size, "dilation": CASE.dilation, "groups": CASE.groups}

Function = Callable[..., Tensor]


class Setting(NamedTuple):
    """One column of the table and one dtype."""

    backend: str
    dtype: torch.dtype

    def frames(self, seed: int = 0) -> Tensor:
        return make_frames(CASE, dtype=self.dtype, seed=seed)

    def weight(self, seed: int = 1) -> Tensor:
        return make_weight(CASE, num_frames=CASE.num_frames, dtype=self.dtype, seed=seed)

    def video(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        return video_correlation(x, weight, backend=self.backend, **OPTIONS)

    def pair(self, base: Tensor, search: Tensor, weight: Tensor | None = None) -> Tensor:
        return correlation(base, search, weight, backend=self.backend, **OPTIONS)


class Feature(NamedTuple):
    """One row of the table; `refused` gives the reason for each implementation that does not have it."""

    name: str
    check: Callable[[Setting], object]
    refused: dict[str, str]


FEATURES: list[Feature] = []
EXACT: dict[tuple, Sequence[Tensor]] = {}


def feature(name: str, *, refused: dict[str, str] | None = None) -> Callable:
    def register(check: Callable[[Setting], object]) -> Callable[[Setting], object]:
        FEATURES.append(Feature(name, check, refused or {}))
        return check

    return register


def assert_equal_to_oracle(
    setting: Setting, transform: Callable[..., Sequence[Tensor]], *, pair: bool = False
) -> None:
    """Check what a transform makes of the operator against what it makes of the oracle in float64."""
    factors = [setting.frames(), *([setting.frames(5)] if pair else []), setting.weight()]
    oracle = oracle_correlation if pair else oracle_video_correlation
    ours = transform(setting.pair if pair else setting.video, *factors)
    # One for the implementations: what a transform makes of the oracle is slow, and depends on nothing else.
    assert transform.__closure__ is None
    key = (transform.__code__, setting.dtype, pair)
    if key not in EXACT:
        EXACT[key] = transform(lambda *f: oracle(*f, **OPTIONS), *(factor.double() for factor in factors))
    exact = EXACT[key]
    for actual, expected in zip(ours, exact, strict=True):
        assert actual.dtype == setting.dtype
        assert actual.shape == expected.shape
        assert expected.abs().max() > 0
        error = (actual.double() - expected).abs().max() / expected.abs().max()
        assert error <= 32 * torch.finfo(setting.dtype).eps


def like(x: Tensor, seed: int) -> Tensor:
    """Return numbers in [-1, 1) without an evident pattern; `vmap` refuses random ones."""
    sequence = (
        torch.arange(1, x.numel() + 1, dtype=torch.float64) * 0.7548776662466927 + 0.5698402909980532 * seed
    )
    return (2 * sequence.frac() - 1).reshape(x.shape).to(x.dtype)


def scalar(function: Function, *factors: Tensor) -> Tensor:
    """Return a number that depends on every output in a way of its own, and not linearly.

    The gradient that comes back then depends on the factors too, as that of any loss does.
    """
    out = function(*factors)
    return (out.square() * like(out, 11)).sum()


def gradients(function: Function, *factors: Tensor) -> tuple[Tensor, ...]:
    leaves = [factor.detach().clone().requires_grad_() for factor in factors]
    scalar(function, *leaves).backward()
    return tuple(leaf.grad for leaf in leaves)


# ---- Values and derivatives ----


@feature("forward: clips, pairs of clips")
def check_forward(setting: Setting) -> None:
    assert_equal_to_oracle(setting, lambda f, *factors: [f(*factors)])
    assert_equal_to_oracle(setting, lambda f, *factors: [f(*factors)], pair=True)


@feature("gradients of base, search, weight")
def check_gradients(setting: Setting) -> None:
    assert_equal_to_oracle(setting, gradients)
    assert_equal_to_oracle(setting, gradients, pair=True)


@feature("double backward")
def check_double_backward(setting: Setting) -> None:
    def transform(function: Function, *factors: Tensor) -> tuple[Tensor, ...]:
        leaves = [factor.clone().requires_grad_() for factor in factors]
        grads = torch.autograd.grad(scalar(function, *leaves), leaves, create_graph=True)
        return torch.autograd.grad(grads, leaves, [like(g, k) for k, g in enumerate(grads)])

    assert_equal_to_oracle(setting, transform)
    assert_equal_to_oracle(setting, transform, pair=True)


@feature("forward mode (`torch.func.jvp`, `torch.autograd.forward_ad`)")
def check_forward_mode(setting: Setting) -> None:
    def transform(function: Function, *factors: Tensor) -> tuple[Tensor, ...]:
        tangents = tuple(like(factor, k) for k, factor in enumerate(factors))
        with torch.autograd.forward_ad.dual_level():
            duals = [
                torch.autograd.forward_ad.make_dual(*pair) for pair in zip(factors, tangents, strict=True)
            ]
            dual_tangent = torch.autograd.forward_ad.unpack_dual(function(*duals)).tangent
        return *jvp(function, factors, tangents), dual_tangent

    assert_equal_to_oracle(setting, transform)
    assert_equal_to_oracle(setting, transform, pair=True)


@feature("forward over reverse (`jvp` of `grad`, `torch.func.hessian`)")
def check_forward_over_reverse(setting: Setting) -> None:
    def transform(function: Function, *factors: Tensor) -> tuple[Tensor, ...]:
        arguments = tuple(range(len(factors)))
        gradient = grad(lambda *f: scalar(function, *f), argnums=arguments)
        return jvp(gradient, factors, tuple(like(factor, k) for k, factor in enumerate(factors)))[1]

    assert_equal_to_oracle(setting, transform)
    assert_equal_to_oracle(setting, transform, pair=True)

    def hessian(function: Function, *factors: Tensor) -> list[Tensor]:
        by_weight = jacfwd(jacrev(lambda *f: scalar(function, *f), argnums=0), argnums=len(factors) - 1)
        return [by_weight(*factors)]

    assert_equal_to_oracle(setting, hessian)


@feature("reverse over forward (`grad` of `jvp`)")
def check_reverse_over_forward(setting: Setting) -> None:
    def transform(function: Function, *factors: Tensor) -> tuple[Tensor, ...]:
        tangents = tuple(like(factor, k) for k, factor in enumerate(factors))
        derivative = lambda *f: scalar(lambda *g: jvp(function, g, tangents)[1], *f)  # noqa: E731
        return grad(derivative, argnums=tuple(range(len(factors))))(*factors)

    assert_equal_to_oracle(setting, transform)
    assert_equal_to_oracle(setting, transform, pair=True)


@feature("forward over forward (`jvp` of `jvp`), also of gradients")
def check_forward_over_forward(setting: Setting) -> None:
    def transform(function: Function, *factors: Tensor) -> tuple[Tensor, ...]:
        inner, outer = (tuple(like(factor, k) for k, factor in enumerate(factors, start)) for start in (0, 7))
        gradient = grad(lambda *f: scalar(function, *f), argnums=tuple(range(len(factors))))
        return (
            jvp(lambda *f: jvp(function, f, inner)[1], factors, outer)[1],
            *jvp(lambda *f: jvp(gradient, f, inner)[1], factors, outer)[1],
        )

    assert_equal_to_oracle(setting, transform)
    assert_equal_to_oracle(setting, transform, pair=True)


@feature("`torch.func.grad`, `vjp`, `jacrev`, `jacfwd`")
def check_func(setting: Setting) -> None:
    def transform(function: Function, *factors: Tensor) -> tuple[Tensor, ...]:
        arguments = tuple(range(len(factors)))
        out, pullback = vjp(function, *factors)
        reduced = lambda *f: function(*f).sum((1, 3, 4))  # noqa: E731
        return (
            *grad(lambda *f: scalar(function, *f), argnums=arguments)(*factors),
            *pullback(like(out, 3)),
            jacrev(reduced, argnums=arguments[-1])(*factors),
            jacfwd(reduced, argnums=arguments[-1])(*factors),
        )

    assert_equal_to_oracle(setting, transform)
    assert_equal_to_oracle(setting, transform, pair=True)


@feature("`vmap` over every argument, per-sample gradients, batched gradients")
def check_vmap(setting: Setting) -> None:
    def transform(function: Function, x: Tensor, weight: Tensor) -> list[Tensor]:
        xs, weights = torch.stack([x, 2 * x, -x]), torch.stack([weight, -weight, weight / 2])
        per_sample = grad(lambda w, clip: scalar(function, clip.unsqueeze(0), w))
        leaf = x.clone().requires_grad_()
        out = function(leaf, weight)
        cotangents = torch.stack([like(out, 1), like(out, 2)])
        return [
            torch.vmap(function)(xs, weights),
            torch.vmap(function, in_dims=(0, None))(xs, weight),
            torch.vmap(function, in_dims=(None, 0))(x, weights),
            torch.vmap(per_sample, in_dims=(None, 0))(weight, x),
            *torch.autograd.grad(out, leaf, cotangents, is_grads_batched=True),
        ]

    assert_equal_to_oracle(setting, transform)


# ---- Inside PyTorch ----


@feature("autocast")
def check_autocast(setting: Setting) -> None:
    leaves = [setting.frames().requires_grad_(), setting.weight().requires_grad_()]
    for region in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=region):
            out = setting.video(*leaves)
        inside = torch.float64 if setting.dtype == torch.float64 else region
        assert out.dtype == inside
        assert torch.equal(out, setting.video(*(leaf.to(inside) for leaf in leaves)))
        grads = torch.autograd.grad(out.double().sum(), leaves)
        assert {gradient.dtype for gradient in grads} == {setting.dtype}


def assert_compiles(setting: Setting, shapes: Sequence[tuple[int, ...]], *, dynamic: bool | None) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(setting.video, fullgraph=True, dynamic=dynamic, backend=counter)
    weight = setting.weight().requires_grad_()
    for shape in shapes:
        x = like(torch.empty(shape, dtype=setting.dtype), 0).requires_grad_()
        out, expected = compiled(x, weight), setting.video(x, weight)
        assert torch.equal(out, expected)
        cotangent = like(out, 1)
        ours, theirs = (torch.autograd.grad(o, (x, weight), cotangent) for o in (out, expected))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert counter.frame_count == 1


@feature("`torch.compile(fullgraph=True)`, forward and backward")
def check_compile(setting: Setting) -> None:
    assert_compiles(setting, [setting.frames().shape], dynamic=None)


@feature("`torch.compile(dynamic=True)`, one graph for every size")
def check_dynamic_shapes(setting: Setting) -> None:
    # PyTorch ties sizes that are equal in the first call, so none are.
    assert_compiles(setting, [(5, 4, 2, 6, 7), (3, 4, 2, 5, 6), (4, 4, 2, 7, 3)], dynamic=True)


@feature("`torch.export` with dynamic sizes, saved and loaded")
def check_export(setting: Setting) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(setting.weight())

        def forward(self, x: Tensor) -> Tensor:
            return setting.video(x, self.weight)

    model, file = Model(), io.BytesIO()
    sizes = {0: torch.export.Dim("batch"), 3: torch.export.Dim("height"), 4: torch.export.Dim("width")}
    torch.export.save(torch.export.export(model, (setting.frames(),), dynamic_shapes=(sizes,)), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    other = like(torch.empty(3, 4, 2, 6, 5, dtype=setting.dtype), 2)
    assert torch.equal(loaded(other), model(other))


@feature("`torch.jit.trace`")
def check_trace(setting: Setting) -> None:
    x, weight = setting.frames(), setting.weight()
    traced = torch.jit.trace(lambda y, w: setting.video(y, w), (x, weight))
    assert torch.equal(traced(-x, weight), setting.video(-x, weight))


@feature("activation checkpointing")
def check_checkpointing(setting: Setting) -> None:
    plain = gradients(setting.video, setting.frames(), setting.weight())
    for reentrant in (False, True):
        again = gradients(
            lambda *f, reentrant=reentrant: checkpoint(setting.video, *f, use_reentrant=reentrant),
            setting.frames(),
            setting.weight(),
        )
        assert all(torch.equal(a, b) for a, b in zip(again, plain, strict=True))


@feature("fake tensors")
def check_fake_tensors(setting: Setting) -> None:
    x = setting.frames().contiguous(memory_format=torch.channels_last_3d)
    real, mode = setting.video(x, setting.weight()), FakeTensorMode()
    fake = setting.video(mode.from_tensor(x), mode.from_tensor(setting.weight()))
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


@feature(
    "meta device", refused={"cpu": "asked for by name it serves the CPU alone; `auto` accepts meta tensors"}
)
def check_meta(setting: Setting) -> None:
    x, weight = setting.frames().to("meta"), setting.weight().to("meta")
    if setting.backend == "cpu":
        with pytest.raises(ValueError, match='it serves the CPU alone, not meta; allowed: "auto"'):
            setting.video(x, weight)
        setting = setting._replace(backend="auto")
    out = setting.video(x.requires_grad_(), weight)
    assert (out.shape, out.dtype) == ((2, 18, 2, 3, 4), setting.dtype)
    assert torch.autograd.grad(out.sum(), x)[0].shape == x.shape


@feature("`FlopCounterMode`")
def check_flop_counter(setting: Setting) -> None:
    with FlopCounterMode(display=False) as counter:
        setting.video(setting.frames(), setting.weight())
    assert counter.get_total_flops() == 2 * 4 * 9 * 2 * 2 * 3 * 4


# ---- Memory and modules ----


def assert_layout_changes_nothing(setting: Setting, view: Callable[[Tensor], Tensor]) -> Tensor:
    """Check results for a view of the frames and of the incoming gradient; return the output."""
    dense, weight = view(setting.frames()).contiguous(), setting.weight()
    leaf = view(dense).requires_grad_()
    dense_leaf = leaf.detach().contiguous().clone().requires_grad_()
    out, expected = setting.video(leaf, weight), setting.video(dense_leaf, weight)
    assert out.shape == expected.shape
    cotangent = view(like(expected, 4))
    actual = [out, *torch.autograd.grad(out, leaf, cotangent)]
    wanted = [expected, *torch.autograd.grad(expected, dense_leaf, cotangent.contiguous())]
    tolerance = 8 * torch.finfo(setting.dtype).eps
    torch.testing.assert_close(actual, wanted, rtol=tolerance, atol=tolerance)
    return out


@feature("channels-last frames, output in the same format")
def check_channels_last(setting: Setting) -> None:
    memory_format = torch.channels_last_3d
    out = assert_layout_changes_nothing(setting, lambda x: x.contiguous(memory_format=memory_format))
    assert out.is_contiguous(memory_format=memory_format)
    images = setting.frames()[:, :, 0].contiguous(memory_format=torch.channels_last)
    assert setting.pair(images, images).is_contiguous(memory_format=torch.channels_last)


@feature("permuted, sliced and expanded frames")
def check_strides(setting: Setting) -> None:
    assert_layout_changes_nothing(
        setting, lambda x: x.permute(4, 2, 0, 3, 1).contiguous().permute(2, 4, 1, 3, 0)
    )
    assert_layout_changes_nothing(
        setting, lambda x: torch.cat([x, x, x], 4).repeat(1, 1, 1, 2, 1)[..., ::2, 1::3]
    )
    assert_layout_changes_nothing(setting, lambda x: x[:, :1].expand(x.shape))


@feature("batches of no clip")
def check_empty_batch(setting: Setting) -> None:
    x, weight = setting.frames()[:0].requires_grad_(), setting.weight().requires_grad_()
    out = setting.video(x, weight)
    assert out.shape == (0, 18, 2, 3, 4)
    by_x, by_weight = torch.autograd.grad(out.sum(), (x, weight))
    assert by_x.shape == x.shape
    assert not by_weight.any()


@feature("results equal bit for bit, run to run")
def check_deterministic(setting: Setting) -> None:
    runs = [gradients(setting.pair, setting.frames(), setting.frames(5), setting.weight()) for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


@feature("modules: pickle, deep copy, `functional_call`")
def check_modules(setting: Setting) -> None:
    options = {"kernel_size": 3, "dilation": (1, 2), "groups": 2}
    module = VideoCorrelation(4, 2, **options).to(setting.dtype)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "choose", lambda *_: setting.backend)  # modules do not ask for one
        module.weight.copy_(setting.weight())
        expected = setting.video(setting.frames(), setting.weight())
        for other in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert torch.equal(other(setting.frames()), expected)
        swapped = functional_call(module, {"weight": -setting.weight()}, setting.frames())
        assert torch.equal(swapped, -expected)


# ---- The table ----


def _id(value: object) -> str:
    return value.name if isinstance(value, Feature) else str(value).removeprefix("torch.")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("dtype", DTYPES, ids=_id)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", FEATURES, ids=_id)
def test_cell(row: Feature, backend: str, dtype: torch.dtype, record_property) -> None:
    if reason := explain(torch.empty(0)).reasons.get(backend):
        pytest.skip(reason)
    row.check(Setting(backend, dtype))
    record_property("cell", (row.name, backend, str(dtype), row.refused.get(backend)))


def test_readme_has_the_table_of_these_cells() -> None:
    spec = importlib.util.spec_from_file_location("corr_ops_support_table", PACKAGE / "tools" / "support.py")
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    cells = [
        (row.name, backend, str(dtype), row.refused.get(backend))
        for row in FEATURES
        for backend in BACKENDS
        for dtype in DTYPES
    ]
    assert table.in_readme() == table.render(cells)
