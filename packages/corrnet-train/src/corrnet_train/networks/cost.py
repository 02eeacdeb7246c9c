"""What a clip costs in a network."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from corrnet_models import VideoModel, count_gmacs
from corrnet_train.utils.precision import Precision, autocast
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


def activation_bytes(model: nn.Module, shape: Sequence[int], precision: Precision = "fp32") -> int:
    """Count the bytes that a forward pass in training keeps for the backward pass.

    It runs on tensors without memory. Clips themselves, which the first convolution keeps, are counted.

    Args:
        model: Any network; it stays as it is.
        shape: Of the clips, [N, C, L, H, W].
        precision: Of the pass.
    """
    kept: dict[int, torch.UntypedStorage] = {}
    network, mode = fake_copy(model)
    network.train()
    with mode:
        own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage  # held, so that its number is not given to another
            return tensor

        device = next(network.parameters()).device
        clips = torch.empty(*shape, device=device).contiguous(memory_format=torch.channels_last_3d)
        with saved_tensors_hooks(keep, lambda tensor: tensor), autocast(clips.device, precision):
            network(clips)
        return sum(storage.nbytes() for storage in kept.values())


def fake_copy(model: nn.Module) -> tuple[nn.Module, FakeTensorMode]:
    """Return a copy of a model whose tensors have no memory, and the mode in which it is run."""
    mode = FakeTensorMode()
    with FakeCopyMode(mode):
        return copy.deepcopy(model), mode
