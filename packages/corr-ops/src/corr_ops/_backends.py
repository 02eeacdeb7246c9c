"""The table of implementations, and the answer to which of them serves a call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from corr_ops.impl import cpu, reference, triton

Backend = Literal["auto", "triton", "cpu", "reference"]


class Kernels(Protocol):
    """What the module of an implementation offers; `corr_ops.impl.reference` describes it."""

    def forward(
        self,
        base: Tensor,
        search: Tensor | None,
        weight: Tensor | None,
        kernel_size: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        lag: int,
    ) -> Tensor:
        """Correlate."""

    def backward(
        self,
        grad: Tensor,
        base: Tensor,
        search: Tensor | None,
        weight: Tensor | None,
        kernel_size: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        lag: int,
        needed: Sequence[bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of base, search and weight."""

    def unavailable(self, device: torch.device) -> str | None:
        """Return why the implementation cannot serve a device, or None when it can."""


class Implementation(NamedTuple):
    """One implementation of the operator.

    Attributes:
        name: What the argument `backend` calls it.
        summary: What it is.
        kernels: Its module.
        device: The kind of device that it has compiled kernels for, as PyTorch names it; None for plain tensor
            operations.
        hardware: What users call such a device.
    """

    name: str
    summary: str
    kernels: Kernels
    device: str | None = None
    hardware: str = ""


_IN_ORDER = (
    Implementation("triton", "kernels for GPUs, compiled by Triton at the first call", triton, "cuda", "GPU"),
    Implementation("cpu", "compiled kernels for CPUs", cpu, "cpu", "CPU"),
    Implementation(
        "reference", "plain tensor operations for every device and floating-point dtype", reference
    ),
)
IMPLEMENTATIONS = {implementation.name: implementation for implementation in _IN_ORDER}
"""All implementations by name, in the order in which "auto" tries them; the last one serves every device."""


@dataclass(frozen=True)
class Explanation:
    """Which implementation serves a call, and why; what `corr_ops.explain` returns.

    As a truth value it says whether compiled kernels serve the call. It is false where the reference does,
    the plain tensor operations, also where they were asked for or no kernels exist, as on the meta device.
    As a string it is one sentence that begins with the name of the implementation.

    Attributes:
        backend: The implementation that serves the call: "triton", "cpu" or "reference".
        reasons: Every implementation that cannot serve the call, with why not; it does not matter which one
            was asked for.
        sentence: The answer in words.
    """

    backend: str
    reasons: Mapping[str, str]
    sentence: str

    def __bool__(self) -> bool:
        """Return whether compiled kernels serve the call."""
        return IMPLEMENTATIONS[self.backend].device is not None

    def __str__(self) -> str:
        """Return the answer in one sentence."""
        return self.sentence
