"""Model FLOP utilization (MFU): the share of a device's arithmetic that goes into training."""

import sys
import time

import torch

from corrnet_models import VideoModel, count_gmacs
from corrnet_train.utils.precision import Precision, autocast

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


def training_flops(model: VideoModel, *, resolution: int) -> float:
    """Floating-point operations to train on one clip: forward and backward, a multiply-accumulate being two.

    Recomputed blocks are not counted twice, so that MFU shows what they cost.

    Args:
        model: The network.
        resolution: Height and width of the clips in pixels.
    """
    return (1 + _BACKWARD) * 2e9 * count_gmacs(model.config, resolution=resolution)


def peak_flops(device: torch.device, precision: Precision) -> float:
    """Floating-point operations a second that a device is taken to be able to do.

    For the GPUs that are known here it is the dense figure of the data sheet, so that MFU compares with what others
    publish. For other devices, CPUs and parts of a GPU among them, it is measured: the fastest of a few products of
    matrices. On GPUs fp32 means TF32 where convolutions, nearly all of the arithmetic, use it: torch's default.

    Args:
        device: The device of this process.
        precision: That of the products.
    """
    if device.type != "cuda":
        return _measured(device, precision)
    tf32 = precision == "fp32" and torch.backends.cudnn.allow_tf32
    name = torch.cuda.get_device_name(device)
    for known in sorted(_SHEETS, key=len, reverse=True):
        if known in name and "MIG" not in name:
            return 1e12 * _SHEETS[known]["tf32" if tf32 else precision]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        return _measured(device, precision)
    finally:
        torch.set_float32_matmul_precision(before)


def _measured(device: torch.device, precision: Precision) -> float:
    size = 4096 if device.type == "cuda" else 768
    generator = torch.Generator(device)  # not the one that training draws from
    matrix = torch.randn(size, size, device=device, generator=generator)
    seconds = []
    with torch.no_grad(), autocast(device, precision):
        for _ in range(6):
            start = time.perf_counter()
            float((matrix @ matrix)[0, 0])  # waits for the result
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


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
