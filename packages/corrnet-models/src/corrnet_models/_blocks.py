"""The parts a network is put together from: stem, bottleneck and the correlation blocks."""

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corr_ops import VideoCorrelation
from corrnet_models._config import EXPANSION, CorrelationConfig, ModelConfig, Normalization, StageName


class _BatchNorm(nn.BatchNorm3d):
    """Batch norm; on a GPU clips in channels_last_3d are normalized as pictures of L*H rows, over the same memory.

    PyTorch has fast kernels in bfloat16 for pictures alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        if _normalizes_pictures(x):
            y: Tensor = super().forward(x.flatten(2, 3)).unflatten(2, x.shape[2:4])
        else:
            y = super().forward(x)
        return y

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim not in (4, 5):
            super()._check_input_dim(x)


def _normalizes_pictures(x: Tensor) -> bool:
    """Return whether batch norm is to take x [N, C, L, H, W] as pictures; compiled code has kernels of its own."""
    return (
        x.is_cuda
        and x.is_contiguous(memory_format=torch.channels_last_3d)
        and not torch.compiler.is_compiling()
    )


class _ReLU(nn.ReLU):
    """ReLU, in place where no gradient is asked for.

    With gradients, changing the view that batch norm returns would copy all of it several times in the backward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x, inplace=not torch.is_grad_enabled())


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, int, int] = (1, 1, 1),
    stride: tuple[int, int, int] = (1, 1, 1),
) -> nn.Conv3d:
    padding = (kernel_size[0] // 2, kernel_size[1] // 2, kernel_size[2] // 2)
    return nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding, bias=False)


def _conv_bn_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, int, int] = (1, 1, 1),
    stride: tuple[int, int, int] = (1, 1, 1),
) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=_conv(in_channels, out_channels, kernel_size, stride),
            bn=_BatchNorm(out_channels),
            relu=_ReLU(),
        )
    )


def _normalization(kind: Normalization, channels: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "bn":
        return _BatchNorm(channels)
    return nn.Sequential(OrderedDict(bn=_BatchNorm(channels), relu=_ReLU()))


def make_stem(in_channels: int, width: int, *, kernel_size: int, stride: int) -> nn.Sequential:
    """Make conv1 of Table 2: a 1xkxk convolution with a spatial stride, batch norm and ReLU.

    Args:
        in_channels: Channels of the input.
        width: Filters.
        kernel_size: Spatial size k, odd.
        stride: Spatial stride.

    Returns:
        A module that maps [N, in_channels, L, H, W] to [N, width, L, H/stride, W/stride].
    """
    return _conv_bn_relu(in_channels, width, (1, kernel_size, kernel_size), (1, stride, stride))


class Bottleneck(nn.Module):
    """The residual block of Table 2: 1x1x1, 3x1x1, 1x3x3 and 1x1x1 convolutions beside a shortcut.

    The 3x1x1 convolution has the temporal stride, the 1x3x3 convolution the spatial one. Without
    the 3x1x1 convolution (R2D) a 3x1x1 max pooling has the temporal stride where there is one.
    The shortcut is a strided 1x1x1 convolution where the shape changes.

    Args:
        in_channels: Channels of the input.
        width: Inner channels; the block puts out 4 times as many.
        temporal_stride: Stride in time.
        spatial_stride: Stride in space.
        temporal_conv: Whether there is a 3x1x1 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        temporal_stride: int = 1,
        spatial_stride: int = 1,
        temporal_conv: bool = True,
    ) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.reduce = _conv_bn_relu(in_channels, width)
        self.temporal: nn.Module
        if temporal_conv:
            self.temporal = _conv_bn_relu(width, width, (3, 1, 1), (temporal_stride, 1, 1))
        elif temporal_stride > 1:
            self.temporal = nn.MaxPool3d((3, 1, 1), (temporal_stride, 1, 1), (1, 0, 0))
        else:
            self.temporal = nn.Identity()
        self.spatial = _conv_bn_relu(width, width, (1, 3, 3), (1, spatial_stride, spatial_stride))
        self.expand = _conv(width, out_channels)
        self.expand_bn = _BatchNorm(out_channels)
        self.shortcut: nn.Module
        if in_channels == out_channels and temporal_stride == spatial_stride == 1:
            self.shortcut = nn.Identity()
        else:
            stride = (temporal_stride, spatial_stride, spatial_stride)
            self.shortcut = nn.Sequential(
                OrderedDict(conv=_conv(in_channels, out_channels, stride=stride), bn=_BatchNorm(out_channels))
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, L, H, W] to [N, 4*width, L/temporal_stride, H/stride, W/stride]."""
        y = self.spatial(self.temporal(self.reduce(x)))
        y = self.expand_bn(self.expand(y))
        return torch.relu(y + self.shortcut(x))


class _Matching(nn.Module):
    """What all correlation blocks share: a 1x1x1 convolution from `channels` to `width` and the operator behind it."""

    def __init__(
        self, channels: int, width: int, num_frames: int, *, groups: int, config: CorrelationConfig
    ) -> None:
        super().__init__()
        self.out_channels = groups * config.kernel_size**2
        self.reduce = _conv(channels, width)
        self.norm_before = _normalization(config.norm_before, width)
        self.correlation = VideoCorrelation(
            width,
            num_frames,
            kernel_size=config.kernel_size,
            dilation=config.dilation,
            groups=groups,
            searched=config.searched,
            filters=config.filters,
        )
        self.norm_after = _normalization(config.norm_after, self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        matches: Tensor = self.norm_after(self.correlation(self.norm_before(self.reduce(x))))
        return matches


def _make_matching(channels: int, num_frames: int, *, groups: int, config: ModelConfig) -> _Matching:
    """Make the matching of CorrNet's blocks, at a quarter of the channels."""
    own = CorrelationConfig(
        kernel_size=config.corr_kernel_size,
        dilation=config.corr_dilation,
        filters=config.corr_filters,
        searched=config.corr_searched,
        norm_before=config.corr_norm_before,
        norm_after=config.corr_norm_after,
    )
    return _Matching(channels, channels // EXPANSION, num_frames, groups=groups, config=own)


class CorrelationSum(nn.Module):
    """The correlation-sum block (Figure 2 a): matching as a residual branch beside an identity shortcut.

    The branch is a 1x1x1 convolution C -> C/4, the operator, a 1x1x1 convolution G*K*K -> C and
    batch norm; ReLU follows the sum.

    Args:
        channels: Channels C of the input and the output.
        num_frames: Frames of the input.
        groups: Groups G of the operator.
        config: Gives the operator's window, filters and normalization.
    """

    def __init__(self, channels: int, num_frames: int, *, groups: int, config: ModelConfig) -> None:
        super().__init__()
        self.matching = _make_matching(channels, num_frames, groups=groups, config=config)
        self.expand = _conv(self.matching.out_channels, channels)
        self.expand_bn = _BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, L, H, W] to the same shape."""
        return torch.relu(x + self.expand_bn(self.expand(self.matching(x))))


class CorrelationConcat(nn.Module):
    """The correlation-concat block (Figure 2 b): matching and appearance side by side, no shortcut.

    One branch is a 1x1x1 convolution C -> C/4 and the operator, the other a 1x1x1 convolution to
    C - G*K*K channels with batch norm. They are concatenated, matching first; ReLU follows.

    Args:
        channels: Channels C of the input and the output.
        num_frames: Frames of the input.
        groups: Groups G of the operator.
        config: Gives the operator's window, filters and normalization.
    """

    def __init__(self, channels: int, num_frames: int, *, groups: int, config: ModelConfig) -> None:
        super().__init__()
        self.matching = _make_matching(channels, num_frames, groups=groups, config=config)
        passed = channels - self.matching.out_channels
        self.appearance = nn.Sequential(OrderedDict(conv=_conv(channels, passed), bn=_BatchNorm(passed)))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, L, H, W] to the same shape."""
        return torch.relu(torch.cat([self.matching(x), self.appearance(x)], dim=1))


class CorrelationBlock(nn.Module):
    """Matching as a residual branch that starts at zero: a block for networks that are trained already.

    The branch is that of CorrNet's correlation-sum block (Figure 2 a): a 1x1x1 convolution to a quarter of the
    channels, the operator, a 1x1x1 convolution back and batch norm. The scale of the batch norm starts at zero, so
    that the block puts out what it gets until it is trained.

    The quarter is rounded down to a multiple of `config.group_size` where it is more; where it is less there is one
    group.

    Args:
        channels: Channels C of the input and the output.
        num_frames: Frames of the input.
        config: The operator, the norms around it, and whether ReLU follows the sum.
    """

    def __init__(self, channels: int, num_frames: int, config: CorrelationConfig) -> None:
        super().__init__()
        width, groups = max(channels // EXPANSION, 1), 1
        if config.group_size is not None and width > config.group_size:
            groups = width // config.group_size
            width = groups * config.group_size
        self.config = config
        self.matching = _Matching(channels, width, num_frames, groups=groups, config=config)
        self.expand = _conv(self.matching.out_channels, channels)
        self.expand_bn = _BatchNorm(channels)
        for conv in (self.matching.reduce, self.expand):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.expand_bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, L, H, W] to the same shape and dtype."""
        return self._add(x, self._branch(x))

    def _branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.expand_bn(self.expand(self.matching(x)))
        return y

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        x = x + y.to(x.dtype)  # under autocast the branch may have another one than the network
        return torch.relu(x) if self.config.relu else x


_CorrelationBlock = CorrelationSum | CorrelationConcat

_CORRELATION_BLOCKS: dict[str, Callable[..., _CorrelationBlock]] = {
    "sum": CorrelationSum,
    "concat": CorrelationConcat,
}


def make_correlation_block(
    stage: StageName, channels: int, num_frames: int, config: ModelConfig
) -> _CorrelationBlock:
    """Make the correlation block of a stage, of the kind the configuration asks for.

    Args:
        stage: The stage that the block stands in.
        channels: Channels of that stage's output.
        num_frames: Frames at that stage.
        config: The network's configuration.

    Returns:
        A module that keeps the shape [N, C, L, H, W].
    """
    groups = config.correlation_groups(stage)
    return _CORRELATION_BLOCKS[config.corr_block](channels, num_frames, groups=groups, config=config)
