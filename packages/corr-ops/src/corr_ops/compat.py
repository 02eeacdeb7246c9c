"""Cost volumes with the call signatures and results of two widely used packages, without their compilers.

`spatial_correlation_sample` and `SpatialCorrelationSampler` stand in for those of
spatial-correlation-sampler (ClementPinard/Pytorch-Correlation-extension), `Correlation` for that of mmcv
(open-mmlab/mmcv, mmcv/ops/correlation.py). With a window of one position, the kernel_size of FlowNetC and its
successors, both compute

    out[n, i, j, h, w] = sum over the channels c of
        input1[n, c, y, x] * input2[n, c, y + (i - (Ph-1)//2)*Dy, x + (j - (Pw-1)//2)*Dx]

at (y, x) = (h*Sy - By, w*Sx - Bx), with a patch of Ph x Pw displacements, its dilation (Dy, Dx), stride
(Sy, Sx) and padding (By, Bx). Positions outside the frame count as zeros. This is the sum over the channels;
`corr_ops.correlation` returns their mean.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from corr_ops._api import check_pair, correlation
from corr_ops.ops import autocast_dtype

__all__ = ["Correlation", "SpatialCorrelationSampler", "spatial_correlation_sample"]

_Size = int | tuple[int, int]


def spatial_correlation_sample(
    input1: Tensor,
    input2: Tensor,
    kernel_size: _Size = 1,
    patch_size: _Size = 1,
    stride: _Size = 1,
    padding: _Size = 0,
    dilation: _Size = 1,
    dilation_patch: _Size = 1,
) -> Tensor:
    """Correlate frames as spatial-correlation-sampler does, for a window of one position.

    Args:
        input1: Base frames [N, C, H, W].
        input2: Searched frames, of the shape, dtype and device of `input1`.
        kernel_size: Window of positions that are summed; only 1 is supported.
        patch_size: Number of displacements P or (Ph, Pw). An even number reaches one displacement further
            down and right than up and left. That is what their CPU code does; with a dilation_patch above 1
            their CUDA code displaces even patches differently in its forward pass.
        stride: Distance between output positions, in pixels.
        padding: Distance from the frame at which output positions begin and end, in pixels.
        dilation: Distance between the positions of a window; without effect on a window of one.
        dilation_patch: Distance between displacements, in pixels.

    Returns:
        [N, Ph, Pw, H', W'] in the dtype of the inputs, contiguous, where H' is (H + 2*By - 1)//Sy + 1 and W'
        alike.

    Raises:
        ValueError: If kernel_size is not 1, another option is out of range, or the frames do not fit.
    """
    options = _check_options(kernel_size, patch_size, stride, padding, dilation, dilation_patch)
    if input1.dim() != 4:
        raise ValueError(f"input1 must be [N, C, H, W], got shape {list(input1.shape)}")
    if input2.shape != input1.shape:
        raise ValueError(
            f"input2 must have the shape of input1 {list(input1.shape)}, got {list(input2.shape)}"
        )
    channels, *sizes = input1.shape[1:]

    # Positions in the border have zeros, so the border is added to the output. Only what it has beyond
    # multiples of the stride, which moves the positions inside the frame, is added to the frames.
    shift = [border % step for border, step in zip(options.padding, options.stride, strict=True)]
    if max(shift) > 0:
        input1, input2 = (F.pad(frames, (shift[1], 0, shift[0], 0)) for frames in (input1, input2))
    # In 16 bits a mean may be too small to keep its digits; there, filters turn it into the sum first.
    kernel = options.patch[0] // 2 * 2 + 1, options.patch[1] // 2 * 2 + 1
    narrow = autocast_dtype(input1).itemsize == 2
    filters = input1.new_full((), channels).expand(channels, *kernel) if narrow else None
    out = correlation(
        input1, input2, filters, kernel_size=kernel, dilation=options.dilation, stride=options.stride
    )
    patches: Tensor = out.unflatten(1, kernel)
    patches = patches[:, kernel[0] - options.patch[0] :, kernel[1] - options.patch[1] :]
    sums = (patches if narrow else patches * channels).contiguous()
    if max(options.padding) == 0:
        return sums
    margins: list[int] = []
    for axis in (1, 0):  # columns first, as F.pad wants them
        border, step = options.padding[axis], options.stride[axis]
        total = (sizes[axis] + 2 * border - 1) // step + 1
        margins += [border // step, total - border // step - sums.shape[3 + axis]]
    return F.pad(sums, margins)


class SpatialCorrelationSampler(nn.Module):
    """`spatial_correlation_sample` as a module; it has no parameters."""

    def __init__(
        self,
        kernel_size: _Size = 1,
        patch_size: _Size = 1,
        stride: _Size = 1,
        padding: _Size = 0,
        dilation: _Size = 1,
        dilation_patch: _Size = 1,
    ) -> None:
        """Make the module.

        Args:
            kernel_size: As in `spatial_correlation_sample`.
            patch_size: As there.
            stride: As there.
            padding: As there.
            dilation: As there.
            dilation_patch: As there.

        Raises:
            ValueError: If kernel_size is not 1 or another option is out of range.
        """
        super().__init__()
        _check_options(kernel_size, patch_size, stride, padding, dilation, dilation_patch)
        self.kernel_size = kernel_size
        self.patch_size = patch_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.dilation_patch = dilation_patch

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """Correlate `input1` with the displaced `input2`.

        Args:
            input1: Base frames [N, C, H, W].
            input2: Searched frames, shaped like `input1`.

        Returns:
            [N, Ph, Pw, H', W'], as `spatial_correlation_sample` does.

        Raises:
            ValueError: If the frames do not fit together.
        """
        return spatial_correlation_sample(
            input1,
            input2,
            self.kernel_size,
            self.patch_size,
            self.stride,
            self.padding,
            self.dilation,
            self.dilation_patch,
        )

    def extra_repr(self) -> str:
        """Return the options shown by ``repr``."""
        return (
            f"kernel_size={self.kernel_size}, patch_size={self.patch_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, dilation_patch={self.dilation_patch}"
        )


class Correlation(nn.Module):
    """The module of mmcv: displacements up to a largest one; it has no parameters.

    Not to be confused with `corr_ops.Correlation`, which learns filters and takes the mean over channels.
    """

    def __init__(
        self,
        kernel_size: _Size = 1,
        max_displacement: int = 1,
        stride: _Size = 1,
        padding: _Size = 0,
        dilation: _Size = 1,
        dilation_patch: _Size = 1,
    ) -> None:
        """Make the module.

        Args:
            kernel_size: Window of positions that are summed; only 1 is supported.
            max_displacement: Displacements to each side, R; the patch has (2R+1) x (2R+1) of them.
            stride: Distance between output positions, in pixels.
            padding: Distance from the frame at which output positions begin and end, in pixels.
            dilation: Distance between the positions of a window; without effect on a window of one.
            dilation_patch: Distance between displacements, in pixels.

        Raises:
            ValueError: If kernel_size is not 1 or another option is out of range.
        """
        super().__init__()
        if not isinstance(max_displacement, int) or max_displacement < 0:
            raise ValueError(f"max_displacement must be an integer of at least 0, got {max_displacement!r}")
        _check_options(kernel_size, 1, stride, padding, dilation, dilation_patch)
        self.kernel_size = kernel_size
        self.max_displacement = max_displacement
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.dilation_patch = dilation_patch

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """Correlate `input1` with the displaced `input2`.

        Args:
            input1: Base frames [N, C, H, W].
            input2: Searched frames, shaped like `input1`.

        Returns:
            [N, 2R+1, 2R+1, H', W'], rows of displacements first; sizes as in `spatial_correlation_sample`.

        Raises:
            ValueError: If the frames do not fit together.
        """
        return spatial_correlation_sample(
            input1,
            input2,
            self.kernel_size,
            2 * self.max_displacement + 1,
            self.stride,
            self.padding,
            self.dilation,
            self.dilation_patch,
        )

    def extra_repr(self) -> str:
        """Return the options shown by ``repr``."""
        return (
            f"kernel_size={self.kernel_size}, max_displacement={self.max_displacement}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"dilation_patch={self.dilation_patch}"
        )


class _Options(NamedTuple):
    """Options as (y, x) pairs; those of a window of one are left out."""

    patch: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def _check_options(
    kernel_size: _Size,
    patch_size: _Size,
    stride: _Size,
    padding: _Size,
    dilation: _Size,
    dilation_patch: _Size,
) -> _Options:
    """Check the options both packages share and spell them out."""
    if check_pair("kernel_size", kernel_size) != (1, 1):
        raise ValueError(f"kernel_size must be 1, the only one supported here, got {kernel_size}")
    _at_least(1, "dilation", dilation)
    return _Options(
        patch=_at_least(1, "patch_size", patch_size),
        stride=_at_least(1, "stride", stride),
        padding=_at_least(0, "padding", padding),
        dilation=_at_least(1, "dilation_patch", dilation_patch),
    )


def _at_least(minimum: int, name: str, value: _Size) -> tuple[int, int]:
    pair = check_pair(name, value)
    if min(pair) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return pair
