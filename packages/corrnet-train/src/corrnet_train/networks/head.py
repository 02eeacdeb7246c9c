"""The classifier of a network, under whatever name."""

from torch import nn

from corrnet_models import CorrelationBlock, VideoModel


def find_head(model: nn.Module, num_classes: int) -> str | None:
    """Return the path of the module that puts out the scores of the classes; None where there is none.

    Of a network of another package it is the last linear layer or convolution of 1x1x1 with as many outputs.
    """
    if isinstance(model, VideoModel):
        return "fc"
    blocks = [path for path, module in model.named_modules() if isinstance(module, CorrelationBlock)]
    heads = [
        path
        for path, module in model.named_modules()
        if _num_outputs(module) == num_classes and not any(path.startswith(f"{block}.") for block in blocks)
    ]
    return heads[-1] if heads else None


def _num_outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and set(module.kernel_size) == {1}:
        return module.out_channels
    return None
