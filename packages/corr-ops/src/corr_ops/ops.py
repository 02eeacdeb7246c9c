"""Registration of the operator with PyTorch: schema, shapes, derivatives, autocast, vmap.

Two operators carry everything. ``corr_ops::correlation`` is linear in each of base, search and weight;
``corr_ops::correlation_backward`` returns its three gradients. The gradients are again built from products
of that kind, so the derivative of the backward operator is a sum of calls of the same two operators, and
derivatives of any order exist.

Arguments here are canonical, and `corr_ops.api` checks them: frames [N, C, L, H, W], weight
[L or 1, C, Ky, Kx] or None, kernel_size and dilation as (y, x), and a lag between base and searched frame.
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

_OPTIONS = "int[2] kernel_size, int[2] dilation, int groups, int lag"
_LIBRARY = torch.library.Library("corr_ops", "DEF")
_LIBRARY.define(
    f"correlation(Tensor base, Tensor search, Tensor? weight, {_OPTIONS}, str backend) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
_LIBRARY.define(
    "correlation_backward(Tensor grad, Tensor base, Tensor search, Tensor? weight, "
    f"{_OPTIONS}, bool[3] needed, str backend) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
correlation_op = torch.ops.corr_ops.correlation.default
correlation_backward_op = torch.ops.corr_ops.correlation_backward.default


def _forward(base: Tensor, search: Tensor, weight: Tensor | None, *options: Any) -> Tensor:
    *options_, backend = options
    return _IMPLEMENTATIONS[backend].forward(base, search, weight, *options_)


def _backward(
    grad: Tensor, base: Tensor, search: Tensor, weight: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *options_, backend = options
    return _IMPLEMENTATIONS[backend].backward(grad, base, search, weight, *options_)


def _fake_forward(base, search, weight, kernel_size, dilation, groups, lag, backend):
    return empty_output(base, kernel_size, groups)


def _fake_backward(grad, base, search, weight, kernel_size, dilation, groups, lag, needed, backend):
    return tuple(
        empty_gradient(factor, needed=wanted, grad=grad)
        for factor, wanted in zip((base, search, weight), needed, strict=True)
    )


_LIBRARY.impl("correlation", _forward, "CompositeExplicitAutograd")
_LIBRARY.impl("correlation_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("corr_ops::correlation", _fake_forward, lib=_LIBRARY)
torch.library.register_fake("corr_ops::correlation_backward", _fake_backward, lib=_LIBRARY)


def _save_forward(ctx, inputs, output):
    base, search, weight, *ctx.options, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(base, search, weight)


def _differentiate_forward(ctx, grad):
    base, search, weight = ctx.saved_tensors
    needed = ctx.needs_input_grad[:3]
    grads = [None, None, None]
    if grad is not None:
        results = correlation_backward_op(grad, base, search, weight, *ctx.options, needed, ctx.backend)
        grads = [result if wanted else None for result, wanted in zip(results, needed, strict=True)]
    return *grads, *[None] * 5


torch.library.register_autograd("corr_ops::correlation", _differentiate_forward, setup_context=_save_forward, lib=_LIBRARY)
