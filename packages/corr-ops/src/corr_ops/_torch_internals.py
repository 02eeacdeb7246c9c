"""All private names of PyTorch that the package uses; they let derivatives nest under torch.func's transforms.

A name that some PyTorch does not have is replaced by a function that says so when it is called. The package can be
imported there, and what does not need the name works. `TESTED_WITH` has the versions that the names were tested with.
"""

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

TESTED_WITH = ("2.13",)

_WITHOUT_ANY = "calls under torch.inference_mode() work"
_WITHOUT_TRANSFORMS = "calls, gradients and torch.compile work, the transforms of torch.func do not"


def _private(module: str, name: str, alternative: str) -> Callable[..., Any]:
    """Return a private object of PyTorch, or a function that raises where there is none."""
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return _missing(f"{module}.{name}", alternative)
    return found


def _missing(name: str, alternative: str) -> Callable[..., Any]:
    """Return a function that raises: this PyTorch lacks `name`."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"PyTorch {torch.__version__} has no {name}, which the derivatives of corr-ops need: {alternative}. "
            f"corr-ops is tested with PyTorch {', '.join(TESTED_WITH)}."
        )

    return refuse


# Without these two no derivative can be recorded at all.
_AutoDispatchBelowAutograd = _private("torch._C", "_AutoDispatchBelowAutograd", _WITHOUT_ANY)
_transforms_active = _private("torch._C", "_are_functorch_transforms_active", _WITHOUT_ANY)
# These are called under torch.func's transforms alone.
_is_forward_enabled = _private("torch._C", "_is_fwd_grad_enabled", _WITHOUT_TRANSFORMS)
_set_forward_enabled = _private("torch.autograd.forward_ad", "_set_fwd_grad_enabled", _WITHOUT_TRANSFORMS)
_unpack_dual = _private("torch._VF", "_unpack_dual", _WITHOUT_TRANSFORMS)
_allow_single_level = _private(
    "torch._functorch.utils", "enable_single_level_autograd_function", _WITHOUT_TRANSFORMS
)


class _Modes(threading.local):
    """Which derivatives the caller of an operator wants, for `below_autograd`."""

    reverse = True
    forward = True


_modes = _Modes()


@contextlib.contextmanager
def below_autograd() -> Iterator[None]:
    """Run the operators inside without derivatives, or under torch.func with those of the levels below.

    PyTorch runs a `torch.autograd.Function` with both modes off. Each level of torch.func's transforms is one
    such run, and the next level would find the modes off too.
    """
    with _AutoDispatchBelowAutograd():
        if not _transforms_active():
            yield
            return
        with torch.set_grad_enabled(_modes.reverse), _set_forward_enabled(_modes.forward):
            yield


@contextlib.contextmanager
def forward_mode_below(saved: Sequence[Tensor | None]) -> Iterator[list[Any]]:
    """Yield tensors without their tangents, under torch.func with those of the levels below alone.

    PyTorch runs a `jvp` with forward mode off, for all levels. Here it is on again, so that the outer of two
    nested forward modes is not lost.

    Args:
        saved: What the function saved for its `jvp`.
    """
    if not _transforms_active():
        yield list(saved)
        return
    primals = [None if tensor is None else _unpack_dual(tensor, level=0)[0] for tensor in saved]
    with _set_forward_enabled(True):
        yield primals


def autograd_kernel(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Return a kernel for the Autograd key that applies a function.

    Under torch.func the dispatcher calls such a kernel once for every level of transforms, so it has to act
    on one level alone; `Function.apply` itself would refuse.

    Args:
        function: Has the derivatives.
    """
    single_level: Callable[..., Any] = getattr(
        super(torch.autograd.Function, function),
        "apply",
        _missing("torch.autograd.function._SingleLevelFunction.apply", _WITHOUT_TRANSFORMS),
    )

    def apply(*args: Any) -> Any:
        if not _transforms_active():
            return function.apply(*args)
        _modes.reverse, _modes.forward = torch.is_grad_enabled(), _is_forward_enabled()
        with _allow_single_level():
            return single_level(*args)

    return apply
