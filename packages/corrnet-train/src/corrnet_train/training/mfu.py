"""Model FLOP utilization (MFU): the share of a device's arithmetic that goes into training."""

import re
import sys

import torch
from torch import nn

from corrnet_train.networks.cost import clip_gmacs
from corrnet_train.utils.precision import Precision
from video_data import ClipConfig

# Dense peaks of the makers' data sheets in TFLOP/s.
_SHEETS: dict[str, dict[str, float]] = {
    "A100": {"fp32": 19.5, "tf32": 156, "bf16": 312, "fp16": 312},
    "H100 PCIe": {"fp32": 51, "tf32": 378, "bf16": 756, "fp16": 756},
    "H100 NVL": {"fp32": 60, "tf32": 417, "bf16": 835, "fp16": 835},
    "H100": {"fp32": 67, "tf32": 494, "bf16": 989, "fp16": 989},
    "H200 NVL": {"fp32": 60, "tf32": 417, "bf16": 835, "fp16": 835},
    "H200": {"fp32": 67, "tf32": 494, "bf16": 989, "fp16": 989},
}
_BACKWARD = 2  # a backward pass costs twice the forward pass


def training_flops(model: nn.Module, clip: ClipConfig) -> float:
    """Floating-point operations to train on one clip: forward and backward, a multiply-accumulate being two.

    Recomputed blocks are not counted twice, so that MFU shows what they cost.

    Args:
        model: The network.
        clip: The clips that it gets.
    """
    return (1 + _BACKWARD) * 2e9 * clip_gmacs(model, clip)


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """Floating-point operations a second that a device can do by its data sheet; None where none is known here.

    It is the dense figure, with which others compute MFU too. CPUs, parts of a GPU (MIG) and other GPUs have none: a
    peak that is timed instead is that of a machine that may be busy at that moment, and the share of it that training
    reaches later may be more than one. On GPUs fp32 means TF32 where convolutions, nearly all of the arithmetic, use
    it: torch's default.

    Args:
        device: The device of this process.
        precision: That of the products.
    """
    if device.type != "cuda":
        return None
    tf32 = precision == "fp32" and torch.backends.cudnn.allow_tf32
    name = torch.cuda.get_device_name(device)
    for known in sorted(_SHEETS, key=len, reverse=True):
        if re.search(rf"\b{known}\b", name) and "MIG" not in name:  # not of an A1000, nor a GH200
            return 1e12 * _SHEETS[known]["tf32" if tf32 else precision]
    return None


def memory_gib(device: torch.device) -> float:
    """Largest memory of this process so far in GiB, on the GPU or, without one, in RAM; 0 where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform != "darwin" else 2**30)
