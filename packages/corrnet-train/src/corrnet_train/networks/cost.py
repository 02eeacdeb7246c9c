"""What a clip costs in a network."""

import copy

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from corrnet_models import VideoModel, count_gmacs
from video_data import ClipConfig


def clip_gmacs(model: nn.Module, clip: ClipConfig) -> float:
    """Count the billions of multiply-accumulates of the forward pass of a clip, without its memory or arithmetic."""
    if isinstance(model, VideoModel):
        return count_gmacs(model.config, resolution=clip.crop_size)
    from torch.utils.flop_counter import FlopCounterMode  # it imports Triton

    network, mode = fake_copy(model)
    device = next(model.parameters()).device
    shape = (1, clip.num_channels, clip.num_frames, clip.crop_size, clip.crop_size)
    with mode, torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(shape, device=device))
    flops: int = counter.get_total_flops()
    return flops / 2e9  # it counts a multiply-accumulate as two


def fake_copy(model: nn.Module) -> tuple[nn.Module, FakeTensorMode]:
    """Return a copy of a model whose tensors have no memory, and the mode in which it is run."""
    mode = FakeTensorMode()
    with FakeCopyMode(mode):
        return copy.deepcopy(model), mode
