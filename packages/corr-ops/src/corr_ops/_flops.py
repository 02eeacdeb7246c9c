"""What the operator costs: formulas for PyTorch's FlopCounterMode and handles for fvcore.

The forward pass takes C*Ky*Kx*N*L*H*W multiply-accumulates, as Table 1 of the paper counts them, and each
gradient of the backward pass takes as many. FlopCounterMode counts two FLOPs for each, fvcore counts one.
"""

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

_FLOP_COUNTER = "torch.utils.flop_counter"


def num_macs(frames_shape: Sequence[int], kernel_size: Sequence[int]) -> int:
    """Return the multiply-accumulates of one forward pass (Table 1).

    Args:
        frames_shape: Shape of the input, (N, C, L, H, W) or (N, C, H, W).
        kernel_size: Neighborhood (Ky, Kx), or any sizes with that product.

    Returns:
        C*Ky*Kx*N*L*H*W. Positions outside the frame are counted, as convolutions count their padding.
    """
    return math.prod(frames_shape) * math.prod(kernel_size)


def fvcore_handles() -> dict[str, Callable[[list[Any], list[Any]], int]]:
    """Return handles with which fvcore counts the multiply-accumulates of the operator.

    Returns:
        A mapping to pass on: ``FlopCountAnalysis(model, inputs).set_op_handle(**fvcore_handles())``.
    """
    return {"corr_ops::correlation": _fvcore_forward}


def _fvcore_forward(inputs: list[Any], outputs: list[Any]) -> int:
    # A traced graph holds kernel_size as a list node without a value, so it is read off the output channels.
    frames_shape, out_shape = inputs[0].type().sizes(), outputs[0].type().sizes()
    groups = inputs[5].toIValue()
    return num_macs(frames_shape, (out_shape[1] // groups,))


def _forward_flops(
    base_shape: Sequence[int],
    search_shape: Sequence[int] | None,
    weight_shape: Sequence[int] | None,
    kernel_size: Sequence[int],
    *args: Any,
    **kwargs: Any,
) -> int:
    return 2 * num_macs(base_shape, kernel_size)


def _backward_flops(
    grad_shape: Sequence[int],
    base_shape: Sequence[int],
    search_shape: Sequence[int] | None,
    weight_shape: Sequence[int] | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    lag: int,
    needed: Sequence[bool],
    *args: Any,
    **kwargs: Any,
) -> int:
    # Without search, the gradient of base is that of both roles.
    num_gradients = sum(needed) + (search_shape is None and needed[0])
    return 2 * num_macs(base_shape, kernel_size) * num_gradients


def register_flop_formulas() -> None:
    """Register the formulas with FlopCounterMode, now or as soon as its module is imported.

    Waiting for the import matters: the module of FlopCounterMode imports triton where that is installed.
    """
    if _FLOP_COUNTER in sys.modules:
        _register(sys.modules[_FLOP_COUNTER])
    else:
        sys.meta_path.insert(0, _RegisterOnImport())


def _register(flop_counter: ModuleType) -> None:
    flop_counter.register_flop_formula(torch.ops.corr_ops.correlation)(_forward_flops)
    flop_counter.register_flop_formula(torch.ops.corr_ops.correlation_backward)(_backward_flops)


class _RegisterOnImport(MetaPathFinder):
    """Import hook that registers the formulas once, right after FlopCounterMode's module has run."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != _FLOP_COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None and spec.loader is not None
        run_module = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run_module(module)
            _register(module)

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec
