"""A network whose 5-d layers are computed as 4-d ones, over views of the same memory.

Clips [N, C, L, H, W] in channels_last_3d are, without a copy, pictures [N, C, L*H, W] in channels_last, for which
PyTorch has faster normalization and, perhaps, convolutions. Weights and their names stay.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class _NormView(nn.BatchNorm3d):
    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x.flatten(2, 3))
        return y.unflatten(2, x.shape[2:4])


class _ConvView(nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, padding = self.kernel_size, self.stride, self.padding
        if kernel == (1, 1, 1) and stride == (1, 1, 1):
            return F.linear(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1)).permute(0, 4, 1, 2, 3)
        if kernel[0] == 1 and stride[0] == 1:  # each frame is a picture
            pictures = x.transpose(1, 2).flatten(0, 1)
            y = F.conv2d(pictures, self.weight.squeeze(2), None, stride[1:], padding[1:])  # type: ignore[arg-type]
            return y.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
        if kernel[1:] == (1, 1) and stride[1:] == (1, 1):  # rows are frames, columns are positions
            y = F.conv2d(x.flatten(3), self.weight.squeeze(4), None, (stride[0], 1), (padding[0], 0))  # type: ignore[arg-type]
            return y.unflatten(3, x.shape[3:])
        return super().forward(x)


def as_views(model: nn.Module, *, norm: bool = True, conv: bool = True) -> nn.Module:
    """Change a model in place so that its batch norms, its convolutions or both run over views."""
    for module in model.modules():
        if norm and type(module) is nn.BatchNorm3d:
            module.__class__ = _NormView
        if conv and type(module) is nn.Conv3d:
            module.__class__ = _ConvView
    return model
