"""Registration of the operator with PyTorch: schema, shapes, derivatives, autocast and vmap.

Two operators carry everything. ``corr_ops::correlation`` is linear in each of base, search and weight;
``corr_ops::correlation_backward`` returns its three gradients. Each gradient is linear in each of its own
factors again, so the derivative of the backward operator is a sum of calls of the same two operators, and
derivatives of any order exist.

Arguments here are canonical and checked by `corr_ops.api`: frames [N, C, L, H, W], weight [L or 1, C, Ky, Kx]
or None, kernel_size and dilation as (y, x), a lag between base and searched frame, the implementation's name.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from corr_ops.flops import register_flop_formulas
from corr_ops.impl import reference
from corr_ops.impl.buffers import empty_gradient, empty_output

_IMPLEMENTATIONS: dict[str, ModuleType] = {"reference": reference}
_AUTOCAST_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}

_OPTIONS = "int[2] kernel_size, int[2] dilation, int groups, int lag"
_LIBRARY = torch.library.Library("corr_ops", "DEF")
_LIBRARY.define(
    f"correlation(Tensor base, Tensor search, Tensor? weight, {_OPTIONS}, str backend) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
_LIBRARY.define(
    f"correlation_backward(Tensor grad, Tensor base, Tensor search, Tensor? weight, {_OPTIONS}, "
    "bool[3] needed, str backend) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
correlation_op: Callable[..., Tensor] = torch.ops.corr_ops.correlation.default
correlation_backward_op: Callable[..., tuple[Tensor, Tensor, Tensor]] = (
    torch.ops.corr_ops.correlation_backward.default
)


def _forward(base: Tensor, search: Tensor, weight: Tensor | None, *options: Any) -> Tensor:
    *numbers, backend = options
    out: Tensor = _IMPLEMENTATIONS[backend].forward(base, search, weight, *numbers)
    return out


def _backward(
    grad: Tensor, base: Tensor, search: Tensor, weight: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *numbers, backend = options
    grads: tuple[Tensor, Tensor, Tensor] = _IMPLEMENTATIONS[backend].backward(
        grad, base, search, weight, *numbers
    )
    return grads


def _fake_forward(
    base: Tensor,
    search: Tensor,
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
    search: Tensor,
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
    """Derivative of the forward operator: the backward operator, which saves the inputs alone."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, search: Tensor, weight: Tensor | None, *options: Any) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(base, search, weight)
        ctx.options = options
        with torch._C._AutoDispatchBelowAutograd():
            out: Tensor = correlation_op(base, search, weight, *options)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * (3 + len(ctx.options))
        grads = _gradients(grad, ctx.saved_tensors, ctx.options, ctx.needs_input_grad[:3])
        return *grads, *(None for _ in ctx.options)


class _CorrelationBackward(torch.autograd.Function):
    """Derivative of the backward operator.

    Let T(go, b, s, w) be the sum of ``go * correlation(b, s, w)``: linear in each of its four arguments. The
    operator returns the derivatives of T with respect to b, s and w. With cotangents vb, vs and vw, what is
    differentiated here is T(go, vb, s, w) + T(go, b, vs, w) + T(go, b, s, vw), term by term.
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, base: Tensor, search: Tensor, weight: Tensor | None, *options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, base, search, weight)
        ctx.options = options
        with torch._C._AutoDispatchBelowAutograd():
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
        total_grad: Tensor | None = None
        totals: list[Tensor | None] = [None, None, None]
        for place, cotangent in enumerate(cotangents):
            # The outputs that were not needed are placeholders, whatever flows into them.
            if cotangent is None or not needed[place]:
                continue
            term = [*factors[:place], cotangent, *factors[place + 1 :]]
            if need_grad:
                total_grad = _sum(total_grad, correlation_op(*term, *options))
            still_needed = [wanted and other != place for other, wanted in enumerate(need_factors)]
            if any(still_needed):
                terms = _gradients(grad, term, options, still_needed)
                totals = [_sum(total, part) for total, part in zip(totals, terms, strict=True)]
        return total_grad, *totals, *(None for _ in ctx.options)


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


def _autocast(base: Tensor, search: Tensor, weight: Tensor | None, *options: Any) -> Tensor:
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
    search: Tensor,
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
    search: Tensor,
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
_LIBRARY.impl("correlation", _Correlation.apply, "Autograd")
_LIBRARY.impl("correlation_backward", _CorrelationBackward.apply, "Autograd")
for _key in _AUTOCAST_KEYS.values():
    _LIBRARY.impl("correlation", _autocast, _key)
torch.library.register_fake("corr_ops::correlation", _fake_forward, lib=_LIBRARY)
torch.library.register_fake("corr_ops::correlation_backward", _fake_backward, lib=_LIBRARY)
torch.library.register_vmap("corr_ops::correlation", _vmap_forward, lib=_LIBRARY)
torch.library.register_vmap("corr_ops::correlation_backward", _vmap_backward, lib=_LIBRARY)
register_flop_formulas()
