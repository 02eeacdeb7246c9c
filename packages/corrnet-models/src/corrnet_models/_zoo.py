"""The named models: those of the paper and tiny ones of the same shape for a CPU."""

from typing import Any

from corrnet_models._config import ModelConfig
from corrnet_models._registry import register_model

_R2D: dict[str, Any] = {"temporal_convs": (False, False, False, False)}
_CORRNET: dict[str, Any] = {
    "stem_width": 32,
    "temporal_convs": (False, True, True, True),
    "corr_after": ("res2", "res3", "res4"),
}
_TWO_STREAM: dict[str, Any] = {"in_channels": 5, "flow_channels": 2}
# The window of 5 pixels and the stem without stride fit the 16x16 map that res2 has for 32x32 frames.
_TINY: dict[str, Any] = {
    "num_frames": 8,
    "num_classes": 8,
    "stem_width": 16,
    "stem_kernel_size": 3,
    "stem_stride": 1,
    "depths": (1, 1, 1, 1),
    "widths": (16, 32, 64, 128),
    "corr_group_size": 8,
    "corr_kernel_size": 5,
    "corr_dilation": 1,
}


@register_model(paper_gmacs={16: 27.5, 32: 55.0})
def r2d26() -> ModelConfig:
    """R2D-26: R(2+1)D-26 without temporal convolutions (Table 3)."""
    return ModelConfig(**_R2D)


@register_model(paper_gmacs={16: 36.0, 32: 71.9})
def r2plus1d26() -> ModelConfig:
    """R(2+1)D-26: the backbone of Table 2."""
    return ModelConfig()


@register_model()
def r2plus1d26_twostream() -> ModelConfig:
    """R(2+1)D-26 on RGB and on optical flow, fused after pooling (Table 5)."""
    return ModelConfig(**_TWO_STREAM)


@register_model(paper_gmacs={16: 37.4, 32: 74.8})
def corrnet26() -> ModelConfig:
    """CorrNet-26: correlation blocks after res2, res3 and res4 (Table 3)."""
    return ModelConfig(**_CORRNET)


@register_model(paper_gmacs={32: 115.0})
def corrnet50() -> ModelConfig:
    """CorrNet-50: 3, 4, 6 and 3 bottlenecks (Table 6)."""
    return ModelConfig(**_CORRNET, depths=(3, 4, 6, 3))


@register_model(paper_gmacs={32: 187.0})
def corrnet101() -> ModelConfig:
    """CorrNet-101: 3, 4, 23 and 3 bottlenecks, one more correlation block amid res4 (Table 6)."""
    return ModelConfig(**_CORRNET, depths=(3, 4, 23, 3), corr_middle=("res4",))


@register_model(resolution=32)
def r2d_tiny() -> ModelConfig:
    """R2D with one narrow bottleneck a stage, for 8 frames of 32x32."""
    return ModelConfig(**_TINY, **_R2D)


@register_model(resolution=32)
def r2plus1d_tiny() -> ModelConfig:
    """R(2+1)D with one narrow bottleneck a stage, for 8 frames of 32x32."""
    return ModelConfig(**_TINY)


@register_model(resolution=32)
def r2plus1d_tiny_twostream() -> ModelConfig:
    """R(2+1)D with one narrow bottleneck a stage on RGB and on optical flow, for 8 frames of 32x32."""
    return ModelConfig(**_TINY, **_TWO_STREAM)


@register_model(resolution=32)
def corrnet_tiny() -> ModelConfig:
    """CorrNet with one narrow bottleneck a stage and a 5x5 window, for 8 frames of 32x32."""
    return ModelConfig(**{**_CORRNET, **_TINY})
