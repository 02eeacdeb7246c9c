"""Which of their kernels cuDNN, cuBLAS and PyTorch take: the fastest, or those that repeat results to the bit."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from corrnet_train.utils.errors import InputError

_POOLING = (nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveAvgPool2d)
_CUBLAS, _WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")


@contextmanager
def chosen_kernels(*, deterministic: bool) -> Iterator[None]:
    """Enter a block in which kernels are chosen; afterwards PyTorch's flags are as before.

    Args:
        deterministic: Take kernels that repeat results to the bit. Otherwise cuDNN times its kernels for each size of
            clips and keeps the fastest, which may be another one in the next run.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    mode, filled = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    cudnn.deterministic, cudnn.benchmark = deterministic, not deterministic
    if deterministic:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def prepare_deterministic() -> None:
    """Have cuBLAS repeat its results to the bit; it reads this when a GPU is used for the first time.

    Raises:
        InputError: It is too late, or the environment says otherwise.
    """
    workspace = os.environ.get(_CUBLAS)
    if workspace is None and not torch.cuda.is_initialized():
        os.environ[_CUBLAS] = workspace = _WORKSPACES[0]
    if workspace not in _WORKSPACES:
        found = "a GPU was used before the run was made" if workspace is None else f"it is {workspace!r}"
        raise InputError(
            f"run.deterministic=true needs the environment variable {_CUBLAS} to be {' or '.join(_WORKSPACES)}, "
            f"but {found}: set it before the program starts"
        )


def check_deterministic(model: nn.Module, name: str) -> None:
    """Check that all layers have gradients that repeat themselves on a GPU.

    Raises:
        InputError: A layer has none.
    """
    pooling = next(
        (type(module).__name__ for module in model.modules() if isinstance(module, _POOLING)), None
    )
    if pooling is not None:
        raise InputError(
            f"run.deterministic=true is not for model.name={name} on a GPU: PyTorch's {pooling} has no gradient "
            "there that repeats itself to the bit; give run.deterministic=false, or a model without it"
        )
