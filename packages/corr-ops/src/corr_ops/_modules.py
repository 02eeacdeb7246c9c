"""The modules `Correlation` and `VideoCorrelation`, which own their filters."""

from typing import Literal

import torch
from torch import Tensor, nn

from corr_ops._api import (
    Padding,
    Searched,
    check_channels,
    check_options,
    check_padding,
    check_searched,
    check_stride,
    correlation,
    video_correlation,
)

Filters = Literal["per_frame", "shared", "none"]
_FILTERS = ("per_frame", "shared", "none")


class _CorrelationBase(nn.Module):
    """Options and filters that both modules have."""

    weight: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int | tuple[int, int],
        dilation: int | tuple[int, int],
        groups: int,
    ) -> None:
        super().__init__()
        self.kernel_size, self.dilation, self.groups = check_options(
            kernel_size=kernel_size, dilation=dilation, groups=groups
        )
        check_channels(channels, groups)
        self.channels = channels

    def _make_weight(self, *frames: int, learned: bool) -> None:
        shape = (*frames, self.channels, *self.kernel_size)
        self.register_parameter("weight", nn.Parameter(torch.empty(shape)) if learned else None)
        self.reset_parameters()

    @property
    def out_channels(self) -> int:
        """Number of output channels, G*Ky*Kx."""
        return self.groups * self.kernel_size[0] * self.kernel_size[1]

    def reset_parameters(self) -> None:
        """Set the filters to ones, the plain correlation without filters.

        Networks with the operator learn from there; with Kaiming's fan-out rule they stayed at chance level.
        """
        if self.weight is not None:
            nn.init.ones_(self.weight)

    def _options(self) -> str:
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, groups={self.groups}"


class Correlation(_CorrelationBase):
    """Learnable correlation of image pairs (section 3, eq. 1).

    Attributes:
        weight: Filters [C, Ky, Kx], or None.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int | tuple[int, int],
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        stride: int | tuple[int, int] = 1,
        padding: Padding = "same",
        weight: bool = True,
    ) -> None:
        """Make the module.

        Args:
            channels: Number of input channels C.
            kernel_size: Neighborhood K or (Ky, Kx), odd.
            dilation: Distance between neighbors D or (Dy, Dx), in pixels.
            groups: Number of channel groups G; C must be a multiple of it.
            stride: Distance between output positions S or (Sy, Sx), in pixels.
            padding: "same" gives an output for every position, "valid" only for those whose whole
                neighborhood lies inside the frame.
            weight: Whether to learn filters; without them the module is a plain cost volume.

        Raises:
            ValueError: If an option is out of range.
        """
        super().__init__(channels, kernel_size=kernel_size, dilation=dilation, groups=groups)
        self.stride = check_stride(stride)
        self.padding: Padding = check_padding(padding)
        self._make_weight(learned=weight)

    def forward(self, base: Tensor, search: Tensor) -> Tensor:
        """Correlate `base` with `search`.

        Args:
            base: Frames [N, C, H, W] or clips [N, C, L, H, W].
            search: Searched frames, shaped like `base`.

        Returns:
            [N, G*Ky*Kx, H', W'], or [N, G*Ky*Kx, L, H', W'] for clips; sizes as in `correlation`.

        Raises:
            ValueError: If the tensors do not fit together or with the module.
        """
        _check_input_channels(base, self.channels)
        return correlation(
            base,
            search,
            self.weight,
            kernel_size=self.kernel_size,
            dilation=self.dilation,
            groups=self.groups,
            stride=self.stride,
            padding=self.padding,
        )

    def extra_repr(self) -> str:
        """Return the options shown by ``repr``."""
        return (
            f"{self.channels}, {self._options()}, stride={self.stride}, padding={self.padding!r}, "
            f"weight={self.weight is not None}"
        )


class VideoCorrelation(_CorrelationBase):
    """Learnable correlation of the adjacent frames of clips (section 3; Table 1, right column).

    Attributes:
        weight: Filters [L, C, Ky, Kx] with "per_frame", [C, Ky, Kx] with "shared", None with "none".
        num_frames: Clip length L.
    """

    def __init__(
        self,
        channels: int,
        num_frames: int,
        *,
        kernel_size: int | tuple[int, int] = 7,
        dilation: int | tuple[int, int] = 2,
        groups: int = 1,
        searched: Searched = "previous",
        filters: Filters = "per_frame",
    ) -> None:
        """Make the module; the defaults are those of section 3.

        Args:
            channels: Number of input channels C.
            num_frames: Clip length L, in frames. Only "per_frame" filters hold a clip to it.
            kernel_size: Neighborhood K or (Ky, Kx), odd.
            dilation: Distance between neighbors D or (Dy, Dx), in pixels.
            groups: Number of channel groups G; C must be a multiple of it.
            searched: Whether neighborhoods are searched in the "previous" or the "current" frame.
            filters: "per_frame" learns L*C*Ky*Kx values, "shared" the C*Ky*Kx of one frame for all, "none"
                learns nothing.

        Raises:
            ValueError: If an option is out of range or unknown.
        """
        super().__init__(channels, kernel_size=kernel_size, dilation=dilation, groups=groups)
        if filters not in _FILTERS:
            raise ValueError(f"filters must be one of {list(_FILTERS)}, got {filters!r}")
        self.num_frames = _check_num_frames(num_frames)
        self.searched: Searched = check_searched(searched)
        self.filters: Filters = filters
        frames = (num_frames,) if filters == "per_frame" else ()
        self._make_weight(*frames, learned=filters != "none")

    def forward(self, x: Tensor) -> Tensor:
        """Correlate every frame with the one before it, and the first with itself.

        Args:
            x: Clips [N, C, L, H, W].

        Returns:
            [N, G*Ky*Kx, L, H, W].

        Raises:
            ValueError: If the clips do not fit the module.
        """
        _check_input_channels(x, self.channels)
        return video_correlation(
            x,
            self.weight,
            kernel_size=self.kernel_size,
            dilation=self.dilation,
            groups=self.groups,
            searched=self.searched,
        )

    @torch.no_grad()
    def set_num_frames(self, num_frames: int) -> None:
        """Change the clip length, interpolating trained filters linearly in time.

        The first and the last frame keep their filters, the frames between are spaced evenly; with one frame
        left it is the first, and filters of one frame are repeated. The parameter stays the same object and
        keeps dtype, device and requires_grad, but an optimizer's state of the old shape no longer fits.

        Args:
            num_frames: New clip length L.

        Raises:
            ValueError: If it is less than 1.
        """
        _check_num_frames(num_frames)
        if self.weight is not None and self.filters == "per_frame" and num_frames != self.num_frames:
            self.weight.grad = None
            self.weight.data = _interpolate_frames(self.weight, num_frames)
        self.num_frames = num_frames

    def extra_repr(self) -> str:
        """Return the options shown by ``repr``."""
        return (
            f"{self.channels}, num_frames={self.num_frames}, {self._options()}, "
            f"searched={self.searched!r}, filters={self.filters!r}"
        )


def _check_input_channels(x: Tensor, channels: int) -> None:
    if x.dim() > 1 and x.shape[1] != channels:
        raise ValueError(f"input must have {channels} channels, got shape {list(x.shape)}")


def _check_num_frames(num_frames: int) -> int:
    if not isinstance(num_frames, int) or num_frames < 1:
        raise ValueError(f"num_frames must be an integer of at least 1, got {num_frames!r}")
    return num_frames


def _interpolate_frames(weight: Tensor, num_frames: int) -> Tensor:
    """Interpolate [L, C, Ky, Kx] to another L in float32 or wider; the end points are kept exactly."""
    last = weight.shape[0] - 1
    numerators = torch.arange(num_frames, device=weight.device) * last
    steps = max(num_frames - 1, 1)
    before = torch.div(numerators, steps, rounding_mode="floor")
    after = (before + 1).clamp(max=last)
    wide = torch.promote_types(weight.dtype, torch.float32)
    fraction = ((numerators % steps).to(wide) / steps).reshape(-1, 1, 1, 1)
    return torch.lerp(weight[before].to(wide), weight[after].to(wide), fraction).to(weight.dtype)
