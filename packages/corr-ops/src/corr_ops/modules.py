"""The operator as modules that own their filters."""

from typing import Literal

import torch
from torch import Tensor, nn

from corr_ops.api import Searched, check_channels, check_options, check_searched, correlation, video_correlation

Filters = Literal["per_frame", "shared", "none"]


class _Filtered(nn.Module):
    """Options and filters common to both modules."""

    weight: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int | tuple[int, int],
        dilation: int | tuple[int, int],
        groups: int,
        weight_shape: tuple[int, ...] | None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.dilation, self.groups = check_options(
            kernel_size=kernel_size, dilation=dilation, groups=groups
        )
        check_channels(channels, groups)
        self.channels = channels
        if leading is None:
            self.register_parameter("weight", None)
        else:
            self.weight = nn.Parameter(torch.empty(*leading, channels, *self.kernel_size))
        self.reset_parameters()
