"""Checks which implementation of the correlation operator will serve, and that it is right."""

from typing import Literal

import torch
from torch import Tensor

import corr_ops
from corr_ops.testing import Case, assert_within_budget, make_frames, make_grad, make_weight
from corrnet_train.doctor.checkup import Context
from corrnet_train.doctor.finding import Finding, failed

# Small, with the neighborhood and groups of the paper's layers.
_CASE = Case(
    name="doctor", num_clips=1, channels=64, num_frames=4, height=14, width=14, kernel_size=(7, 7), groups=4
)
_DTYPES = (torch.float32, torch.bfloat16)
_INSTALL = {
    "cuda": "pip install triton",
    "cpu": "install the wheel of corr-ops, or a C compiler and build it",
}


def operator(context: Context) -> Finding:
    """Runs forward and backward pass on each kind of device in float32 and bfloat16 against the reference."""
    devices = [torch.device("cpu")]
    if context.device.type == "cuda":
        devices.insert(0, context.device)
    figures: dict[str, str] = {}
    served: dict[str, corr_ops.Explanation] = {}
    for device in devices:
        for dtype in _DTYPES:
            short = str(dtype).removeprefix("torch.")
            explanation = corr_ops.explain(torch.zeros(1, 1, 1, 1, 1, dtype=dtype, device=device))
            figures[f"{device.type} {short}"] = str(explanation)
            served.setdefault(device.type, explanation)
            try:
                _compare(device, dtype)
            except AssertionError as error:
                return failed(f"{device.type} {short} is not what the reference gives: {error}", **figures)
    lines = [f"on {kind} serves {explanation}" for kind, explanation in served.items()]
    text = "\n".join(["float32 and bfloat16 agree with the reference, forward and backward", *lines])
    slow = [kind for kind, explanation in served.items() if not explanation]
    if slow:
        advice = "\n".join(_INSTALL[kind] for kind in slow)
        return Finding(status="warning", result=text, advice=advice, figures=figures)
    return Finding(result=text, figures=figures)


def _compare(device: torch.device, dtype: torch.dtype) -> None:
    """Raises AssertionError when a result is further from the exact one than plain operations in that dtype."""
    x, weight = make_frames(_CASE, dtype=dtype), make_weight(_CASE, num_frames=4, dtype=dtype)
    grad = make_grad(_CASE, dtype=dtype)
    results = _results(x.to(device), weight.to(device), grad.to(device), "auto")
    exact = _results(x.double(), weight.double(), grad.double(), "reference")
    rounded = _results(x, weight, grad, "reference")
    for got, right, low in zip(results, exact, rounded, strict=True):
        assert_within_budget(got.cpu(), exact=right, low_precision=low)


def _results(x: Tensor, weight: Tensor, grad: Tensor, backend: Literal["auto", "reference"]) -> list[Tensor]:
    """The output and the gradients of frames and filters."""
    leaves = x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    out = corr_ops.video_correlation(
        x, weight, kernel_size=_CASE.kernel_size, groups=_CASE.groups, backend=backend
    )
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]
