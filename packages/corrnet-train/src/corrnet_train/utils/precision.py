"""The precisions that a model computes in, and the context of torch for each."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def clip_dtype(precision: Precision) -> torch.dtype:
    """Return the type of clips that autocast need not convert."""
    return AUTOCAST[precision] or torch.float32


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Context in which a model computes with a precision."""
    dtype = AUTOCAST[precision]
    context: AbstractContextManager[None] = torch.autocast(device.type, dtype, enabled=dtype is not None)
    return context
