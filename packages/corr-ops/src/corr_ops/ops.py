"""Registration of the operator with PyTorch: schema, shapes, derivatives, autocast and vmap.

Two operators carry everything. ``corr_ops::correlation`` is linear in each of base, search and weight;
``corr_ops::correlation_backward`` returns its three gradients. Each gradient is linear in each of its own
factors again, so every derivative of the two, reverse or forward, is a sum of calls of the same two
operators, and derivatives of any order exist.

Arguments here are canonical and checked by `corr_ops._api`: frames [N, C, L, H, W], search None where the
frames of base are searched too, weight [L or 1, C, Ky, Kx] or None, kernel_size and dilation as (y, x), a lag
between base and searched frame, and a backend. Graphs hold the backend as asked for: "auto" is resolved when
they run.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corr_ops._backends import IMPLEMENTATIONS, Kernels
from corr_ops._flops import register_flop_formulas
from corr_ops._torch_internals import autograd_kernel, below_autograd, forward_mode_below
from corr_ops.impl.buffers import empty_gradient, empty_output

_AUTOCAST_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}

_FACTORS = "Tensor base, Tensor? search, Tensor? weight"
_OPTIONS = "int[2] kernel_size, int[2] dilation, int groups, int lag"
_LIBRARY = torch.library.Library("corr_ops", "DEF")
_LIBRARY.define(
    f"correlation({_FACTORS}, {_OPTIONS}, str backend) -> Tensor", tags=torch.Tag.pt2_compliant_tag
)
_LIBRARY.define(
    f"correlation_backward(Tensor grad, {_FACTORS}, {_OPTIONS}, bool[3] needed, str backend) "
    "-> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
correlation_op: Callable[..., Tensor] = torch.ops.corr_ops.correlation.default
correlation_backward_op: Callable[..., tuple[Tensor, Tensor, Tensor]] = (
    torch.ops.corr_ops.correlation_backward.default
)


def choose(backend: str, device: torch.device) -> str:
    """Return the implementation that serves a device: the one asked for, or the first that can for "auto".

    Raises:
        ValueError: If the one asked for cannot serve it.
    """
    if backend != "auto":
        reason = IMPLEMENTATIONS[backend].kernels.unavailable(device)
        if reason is not None:
            raise ValueError(f'backend {backend!r} cannot serve this call: {reason}; allowed: "auto"')
        return backend
    return next(
        name
        for name, implementation in IMPLEMENTATIONS.items()
        if implementation.kernels.unavailable(device) is None
    )


def _kernels(backend: str, device: torch.device) -> Kernels:
    """Return the implementation that serves a device, with a warning where a faster one is missing."""
    chosen = IMPLEMENTATIONS[choose(backend, device)]
    if backend == "auto" and chosen.device is None:
        for other in IMPLEMENTATIONS.values():
            if other.device == device.type:
                _warn(other.hardware, other.kernels.unavailable(device))
    return chosen.kernels


@functools.cache
def _warn(hardware: str, reason: str | None) -> None:
    """Warn, once in a process, that a kind of device is served by the slower implementation."""
    warnings.warn(
        f"corr-ops: the {hardware} kernels cannot be used, the slower reference serves {hardware}s: {reason}",
        stacklevel=2,
    )


def _forward(base: Tensor, search: Tensor | None, weight: Tensor | None, *options: Any) -> Tensor:
    *numbers, backend = options
    return _kernels(backend, base.device).forward(base, search, weight, *numbers)


def _backward(
    grad: Tensor, base: Tensor, search: Tensor | None, weight: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *numbers, backend = options
    return _kernels(backend, base.device).backward(grad, base, search, weight, *numbers)


def _fake_forward(
    base: Tensor,
    search: Tensor | None,
    weight: Tensor | None,
    kernel_size: list[int],
    dilation: list[int],
    groups: int,
    lag: int,
    backend: str,
) -> Tensor:
    return empty_output(base, kernel_size, groups)


def _fake_backward(
    grad: Tensor,
    base: Tensor,
    search: Tensor | None,
    weight: Tensor | None,
    kernel_size: list[int],
    dilation: list[int],
    groups: int,
    lag: int,
    needed: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        empty_gradient(base, needed=needed[0], grad=grad),
        empty_gradient(search, needed=needed[1], grad=grad),
        empty_gradient(weight, needed=needed[2], grad=grad),
    )


class _Correlation(torch.autograd.Function):
    """Derivatives of the forward operator; the inputs alone are saved."""

    @staticmethod
    def forward(
        ctx: Any, base: Tensor, search: Tensor | None, weight: Tensor | None, *options: Any
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(base, search, weight)
        ctx.save_for_forward(base, search, weight)
        ctx.options = options
        with below_autograd():
            out: Tensor = correlation_op(base, search, weight, *options)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * (3 + len(ctx.options))
        grads = _gradients(grad, ctx.saved_tensors, ctx.options, ctx.needs_input_grad[:3])
        return *grads, *(None for _ in ctx.options)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        total: Tensor | None = None
        with forward_mode_below(ctx.saved_tensors) as factors:
            for term in _varied(factors, tangents[:3]):
                total = _sum(total, correlation_op(*term.factors, *ctx.options))
        return total


class _CorrelationBackward(torch.autograd.Function):
    """Derivatives of the backward operator.

    Let T(go, b, s, w) be the sum of ``go * correlation(b, s, w)``: linear in each of its four arguments. The
    operator returns the derivatives of T with respect to b, s and w. With cotangents vb, vs and vw, what is
    differentiated here is T(go, vb, s, w) + T(go, b, vs, w) + T(go, b, s, vw), term by term.
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, base: Tensor, search: Tensor | None, weight: Tensor | None, *options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, base, search, weight)
        ctx.save_for_forward(grad, base, search, weight)
        ctx.options = options
        with below_autograd():
            grads: tuple[Tensor, Tensor, Tensor] = correlation_backward_op(
                grad, base, search, weight, *options
            )
        return grads

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, *factors = ctx.saved_tensors
        need_grad, *need_factors = ctx.needs_input_grad[:4]
        *numbers, needed, backend = ctx.options
        options = (*numbers, backend)
        # The outputs that were not needed are placeholders, whatever flows into them.
        wanted = [vector if need else None for vector, need in zip(cotangents, needed, strict=True)]
        total_grad: Tensor | None = None
        totals: list[Tensor | None] = [None, None, None]
        for term in _varied(factors, wanted):
            if need_grad:
                total_grad = _sum(total_grad, correlation_op(*term.factors, *options))
            still_needed = [owner is not None and need_factors[owner] for owner in term.owners]
            if any(still_needed):
                parts = _gradients(grad, term.factors, options, still_needed)
                for owner, part in zip(term.owners, parts, strict=True):
                    if owner is not None:
                        totals[owner] = _sum(totals[owner], part)
        return total_grad, *totals, *(None for _ in ctx.options)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *numbers, needed, backend = ctx.options
        options = (*numbers, backend)
        totals: list[Tensor | None] = [None, None, None]
        with forward_mode_below(ctx.saved_tensors) as (grad, *factors):
            if tangents[0] is not None:
                totals = _gradients(tangents[0], factors, options, needed)
            for term in _varied(factors, tangents[1:4]):
                still_needed = [owner is not None and needed[owner] for owner in term.owners]
                if any(still_needed):
                    parts = _gradients(grad, term.factors, options, still_needed)
                    for owner, part in zip(term.owners, parts, strict=True):
                        if owner is not None:
                            totals[owner] = _sum(totals[owner], part)
        # Every output needs a tangent, the placeholders too.
        return tuple(
            torch.zeros_like(factor if need else grad.new_empty(0)) if total is None else total
            for factor, need, total in zip(factors, needed, totals, strict=True)
        )


class _Term(NamedTuple):
    """The product with one factor varied.

    Attributes:
        factors: base, search and weight, one of them replaced by its variation.
        owners: for each of the three, which argument of the operator it is; None for the varied one, and for
            search where there is none.
    """

    factors: tuple[Tensor | None, Tensor | None, Tensor | None]
    owners: tuple[int | None, int | None, int | None]


def _varied(factors: Sequence[Tensor | None], variations: Sequence[Tensor | None]) -> Iterator[_Term]:
    """Yield the terms of the product rule for the variations that are given."""
    base, search, weight = factors
    vary_base, vary_search, vary_weight = variations
    if search is None:  # base has both roles
        if vary_base is not None:
            yield _Term((vary_base, base, weight), (None, 0, 2))
            yield _Term((base, vary_base, weight), (0, None, 2))
        if vary_weight is not None:
            yield _Term((base, None, vary_weight), (0, None, None))
        return
    if vary_base is not None:
        yield _Term((vary_base, search, weight), (None, 1, 2))
    if vary_search is not None:
        yield _Term((base, vary_search, weight), (0, None, 2))
    if vary_weight is not None:
        yield _Term((base, search, vary_weight), (0, 1, None))


def _gradients(
    grad: Tensor, factors: Sequence[Tensor | None], options: tuple[Any, ...], needed: Sequence[bool]
) -> list[Tensor | None]:
    """Call the backward operator on (base, search, weight); None stands for what was not needed."""
    *numbers, backend = options
    grads = correlation_backward_op(grad, *factors, *numbers, list(needed), backend)
    return [result if wanted else None for result, wanted in zip(grads, needed, strict=True)]


def _sum(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    if total is None or part is None:
        return part if total is None else total
    return total + part


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype a tensor has inside the operator: its own, or that of an active autocast region.

    As everywhere in PyTorch, autocast leaves float64 alone.
    """
    device = tensor.device.type
    if device in _AUTOCAST_KEYS and torch.is_autocast_enabled(device) and tensor.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def _autocast(base: Tensor, search: Tensor | None, weight: Tensor | None, *options: Any) -> Tensor:
    factors = [
        None if factor is None else factor.to(autocast_dtype(factor)) for factor in (base, search, weight)
    ]
    with torch.autocast(base.device.type, enabled=False):
        out: Tensor = correlation_op(*factors, *options)
    return out


def _fold(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """Fold a mapped dimension into the channels (dimension 1), where it multiplies the groups."""
    if dim is None:
        tensor = tensor.unsqueeze(1).expand(-1, size, *tensor.shape[1:])
    else:
        tensor = tensor.movedim(dim, 1)
    return tensor.flatten(1, 2)


def _fold_all(info: Any, dims: tuple[int | None, ...], *tensors: Tensor | None) -> list[Tensor | None]:
    return [
        None if tensor is None else _fold(tensor, dim, info.batch_size)
        for tensor, dim in zip(tensors, dims, strict=False)
    ]


def _vmap_forward(
    info: Any,
    in_dims: tuple[int | None, ...],
    base: Tensor,
    search: Tensor | None,
    weight: Tensor | None,
    kernel_size: list[int],
    dilation: list[int],
    groups: int,
    lag: int,
    backend: str,
) -> tuple[Tensor, int]:
    factors = _fold_all(info, in_dims, base, search, weight)
    out = correlation_op(*factors, kernel_size, dilation, groups * info.batch_size, lag, backend)
    return out.unflatten(1, (info.batch_size, -1)), 1


def _vmap_backward(
    info: Any,
    in_dims: tuple[int | None, ...],
    grad: Tensor,
    base: Tensor,
    search: Tensor | None,
    weight: Tensor | None,
    kernel_size: list[int],
    dilation: list[int],
    groups: int,
    lag: int,
    needed: list[bool],
    backend: str,
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    folded = _fold_all(info, in_dims, grad, base, search, weight)
    groups *= info.batch_size
    grads = correlation_backward_op(*folded, kernel_size, dilation, groups, lag, needed, backend)
    pairs = list(zip(grads, needed, strict=True))
    unfolded = tuple(g.unflatten(1, (info.batch_size, -1)) if wanted else g for g, wanted in pairs)
    return unfolded, tuple(1 if wanted else None for wanted in needed)


_LIBRARY.impl("correlation", _forward, "CompositeExplicitAutograd")
_LIBRARY.impl("correlation_backward", _backward, "CompositeExplicitAutograd")
_LIBRARY.impl("correlation", autograd_kernel(_Correlation), "Autograd")
_LIBRARY.impl("correlation_backward", autograd_kernel(_CorrelationBackward), "Autograd")
for _key in _AUTOCAST_KEYS.values():
    _LIBRARY.impl("correlation", _autocast, _key)
torch.library.register_fake("corr_ops::correlation", _fake_forward, lib=_LIBRARY)
torch.library.register_fake("corr_ops::correlation_backward", _fake_backward, lib=_LIBRARY)
torch.library.register_vmap("corr_ops::correlation", _vmap_forward, lib=_LIBRARY)
torch.library.register_vmap("corr_ops::correlation_backward", _vmap_backward, lib=_LIBRARY)
register_flop_formulas()
