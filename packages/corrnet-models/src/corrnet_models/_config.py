"""`ModelConfig`, the frozen record of everything that defines a network."""

from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from corrnet_models._errors import ModelError

StageName = Literal["res2", "res3", "res4", "res5"]
"""The four residual stages of Table 2."""

STAGES: tuple[StageName, ...] = ("res2", "res3", "res4", "res5")

EXPANSION = 4
"""Channels a stage puts out per channel of its inner width (Table 2)."""

Normalization = Literal["none", "bn", "bn_relu"]


class CorrelationConfig(BaseModel):
    """What a correlation block is, and how the map that it gets is laid out (see `add_correlation`).

    The defaults are CorrNet's, and the fields are those of `ModelConfig` without `corr_`. A value that cannot work
    raises pydantic's `ValidationError`, a `ValueError`, when the record is made.

    Attributes:
        kernel_size: Side K of the window that is searched, odd.
        dilation: Step between two positions of the window, in pixels of the map. The default window spans 13 pixels,
            which suits maps of about 56x56; a map of 14x14 wants less.
        group_size: Channels per correlation group; None is one group of all channels.
        filters: "per_frame", one "shared" filter for all frames, or "none". Filters per frame hold the network to the
            clip length of the example.
        searched: The frame whose neighborhood is searched.
        norm_before: What stands between the reducing 1x1x1 convolution and the operator.
        norm_after: What stands straight after the operator.
        relu: Whether ReLU follows the sum, as in CorrNet. Only for maps without negative values, as those of a ResNet's
            layers are; others would change.
        grid: For maps of tokens: their numbers in time, height and width (T, H, W); within a `FrameByFrame` (H, W).
        token_order: "THW" for tokens that run along the width first, as VideoMAE's do; "HWT" for time first, as
            TimeSformer's.
        prefix_tokens: Tokens before those of the grid, as a class token; they go around the block.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernel_size: int = Field(default=7, ge=1)
    dilation: int = Field(default=2, ge=1)
    group_size: int | None = Field(default=32, ge=1)
    filters: Literal["per_frame", "shared", "none"] = "per_frame"
    searched: Literal["previous", "current"] = "previous"
    norm_before: Normalization = "bn"
    norm_after: Normalization = "none"
    relu: bool = False
    grid: tuple[PositiveInt, PositiveInt] | tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    token_order: Literal["THW", "HWT"] = "THW"
    prefix_tokens: int = Field(default=0, ge=0)

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        return _check_odd(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.grid is None and (self.prefix_tokens or self.token_order != "THW"):
            raise ModelError(
                "prefix_tokens and token_order are about maps of tokens: state their grid as well"
            )
        if self.grid is not None and len(self.grid) == 2 and self.token_order != "THW":
            raise ModelError(
                "token_order='HWT' is about tokens of whole clips: state their grid as (T, H, W)"
            )
        return self


def _check_odd(value: int) -> int:
    if value % 2 == 0:
        raise ModelError(f"must be odd, so that the window has a center; got {value}")
    return value


class PretrainedCfg(BaseModel):
    """What the weights of a model were trained on and how clips are made for them; None is not known.

    Attributes:
        input_size: Channels, height and width of the frames, in pixels.
        num_frames: Frames of a clip.
        fps: Frames per second at which clips are cut.
        frame_stride: Frames of the video from one of a clip to the next.
        short_side: Pixels of the shorter side of the frames, of which `input_size` is cut out.
        mean: By channel, what is subtracted from pixels between 0 and 1.
        std: By channel, what they are divided by afterwards.
        num_classes: Outputs of the classifier.
        classes: Class names in the order of the outputs; empty where they are not known.
        license: License of the weights, as the Hugging Face Hub names it: "apache-2.0".
        fingerprint: SHA-256 of the file of weights, in hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_size: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    num_frames: PositiveInt | None = None
    fps: PositiveFloat | None = None
    frame_stride: PositiveInt | None = None
    short_side: PositiveInt | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[PositiveFloat, ...] | None = None
    num_classes: NonNegativeInt | None = None
    classes: tuple[str, ...] = ()
    license: str | None = None
    fingerprint: str | None = None


class ModelConfig(BaseModel):
    """Architecture of R2D, R(2+1)D and CorrNet (paper, sections 4 and 6, Tables 2 to 5).

    The defaults are R(2+1)D-26 of Table 2. Every field can be overridden by name in
    `create_model` and `model_config`. A value that cannot work raises pydantic's `ValidationError`,
    a `ValueError`, when the record is made.

    Attributes:
        num_frames: Frames of an input clip, L. Correlation filters per frame are made for this length.
        num_classes: Outputs of the classifier; 0 is none, the model then puts out pooled features.
        in_channels: Channels of the input: 3 for RGB, 2 for optical flow, 5 for both.
        flow_channels: How many of the input's last channels are optical flow and go through a
            backbone of their own (Table 5, two-stream); 0 for a single stream.
        stem_width: Filters of conv1. CorrNet has 32 (section 6.1).
        stem_kernel_size: Spatial size of conv1's filters, odd.
        stem_stride: Spatial stride of conv1.
        depths: Bottlenecks in res2 to res5.
        widths: Inner channels of the bottlenecks in res2 to res5; a stage puts out 4 times as many.
        temporal_convs: Whether the bottlenecks of res2 to res5 have their 3x1x1 convolution. Where a
            missing one would have had a temporal stride, a 3x1x1 max pooling has it (R2D, section 6.1).
        temporal_strides: Temporal stride of the first bottleneck of res2 to res5.
        corr_after: Stages that end with a correlation block; empty for a net without correlation.
        corr_middle: Stages with a correlation block after half of their bottlenecks, rounded down
            (CorrNet-101: res4, section 6.3).
        corr_block: "sum" or "concat" (Figure 2).
        corr_filters: "per_frame", one "shared" filter for all frames, or "none" (Table 4, "w/o filter").
        corr_group_size: Channels per correlation group, g; None is one group of all channels
            (Table 4, "w/o grouping").
        corr_kernel_size: Side K of the window that is searched, odd (Figure 3).
        corr_dilation: Step D between two positions of the window, in feature map pixels.
        corr_searched: The frame whose neighborhood is searched; the paper leaves it open.
        corr_norm_before: What stands between the reducing 1x1x1 convolution and the operator; the
            paper leaves it open.
        corr_norm_after: What stands straight after the operator; the paper leaves it open.
        zero_init_residual: Whether the last batch norm of each bottleneck starts at zero, so that the
            bottleneck starts as its shortcut. Correlation blocks never start so.
        dropout: Probability of dropping a feature before the classifier.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_frames: int = Field(default=32, ge=1)
    num_classes: int = Field(default=400, ge=0)
    in_channels: int = Field(default=3, ge=1)
    flow_channels: int = Field(default=0, ge=0)
    stem_width: int = Field(default=64, ge=1)
    stem_kernel_size: int = Field(default=7, ge=1)
    stem_stride: int = Field(default=2, ge=1)
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    temporal_convs: tuple[bool, bool, bool, bool] = (True, True, True, True)
    temporal_strides: tuple[int, int, int, int] = (1, 1, 2, 2)
    corr_after: tuple[StageName, ...] = ()
    corr_middle: tuple[StageName, ...] = ()
    corr_block: Literal["sum", "concat"] = "sum"
    corr_filters: Literal["per_frame", "shared", "none"] = "per_frame"
    corr_group_size: int | None = Field(default=32, ge=1)
    corr_kernel_size: int = Field(default=7, ge=1)
    corr_dilation: int = Field(default=2, ge=1)
    corr_searched: Literal["previous", "current"] = "previous"
    corr_norm_before: Normalization = "bn"
    corr_norm_after: Normalization = "none"
    zero_init_residual: bool = False
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what Python, or pydantic, would take for a number, or for true or false."""
        default = cls.model_fields[str(info.field_name)].default
        wanted = default[0] if isinstance(default, tuple) and default else default
        for item in value if isinstance(value, list | tuple) else [value]:
            if (
                isinstance(wanted, bool)
                and isinstance(item, int | float | str)
                and not isinstance(item, bool)
            ):
                raise ModelError(f"must be true or false; got {item!r}")
            if not isinstance(wanted, bool | str) and isinstance(item, bool | str) and wanted != ():
                raise ModelError(f"must be a number; got {item!r}")
        return value

    @field_validator("stem_kernel_size", "corr_kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        return _check_odd(value)

    @field_validator("depths", "widths", "temporal_strides")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ModelError(f"every stage needs at least 1; got {value}")
        return value

    @field_validator("corr_after", "corr_middle")
    @classmethod
    def _distinct(cls, value: tuple[StageName, ...]) -> tuple[StageName, ...]:
        if len(set(value)) != len(value):
            raise ModelError(f"names a stage twice: {value}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.flow_channels >= self.in_channels:
            raise ModelError(
                f"flow_channels are the last of in_channels and leave at least one for RGB; "
                f"got flow_channels={self.flow_channels} of in_channels={self.in_channels}"
            )
        if self.num_frames % self.temporal_stride != 0:
            raise ModelError(
                f"num_frames must be a multiple of {self.temporal_stride}, the product of "
                f"temporal_strides {self.temporal_strides}; got {self.num_frames}"
            )
        for stage in self.corr_middle:
            if self.depths[STAGES.index(stage)] < 2:
                raise ModelError(f"corr_middle={stage!r} needs at least 2 bottlenecks in that stage; got 1")
        for stage in self.corr_stages:
            self._check_correlation(stage)
        return self

    def _check_correlation(self, stage: StageName) -> None:
        width = self.widths[STAGES.index(stage)]
        if self.corr_group_size is not None and width % self.corr_group_size != 0:
            raise ModelError(
                f"corr_group_size must divide the {width} channels that {stage} correlates, "
                f"or be None for one group; got {self.corr_group_size}"
            )
        if self.corr_block == "concat":
            out = self.correlation_channels(stage)
            if out >= EXPANSION * width:
                raise ModelError(
                    f"corr_block='concat' leaves no channel to its second branch in {stage}: the operator "
                    f"puts out {out} of {EXPANSION * width}; use a larger corr_group_size or a smaller "
                    f"corr_kernel_size"
                )

    @property
    def temporal_stride(self) -> int:
        """Temporal stride of the whole backbone."""
        first, second, third, fourth = self.temporal_strides
        return first * second * third * fourth

    @property
    def corr_stages(self) -> tuple[StageName, ...]:
        """Stages with at least one correlation block, in the order of the net."""
        return tuple(stage for stage in STAGES if stage in self.corr_after or stage in self.corr_middle)

    @property
    def fixed_length(self) -> bool:
        """Whether the net takes clips of `num_frames` only, since it has a filter for each frame."""
        return bool(self.corr_stages) and self.corr_filters == "per_frame"

    def correlation_groups(self, stage: StageName) -> int:
        """Return the groups G of the correlation in a stage (section 3, groupwise correlation).

        Args:
            stage: The stage.

        Returns:
            1 where `corr_group_size` is None.
        """
        width = self.widths[STAGES.index(stage)]
        return 1 if self.corr_group_size is None else width // self.corr_group_size

    def correlation_channels(self, stage: StageName) -> int:
        """Return the channels that the operator puts out in a stage (Table 1).

        Args:
            stage: The stage.

        Returns:
            G*K*K.
        """
        return self.correlation_groups(stage) * self.corr_kernel_size**2

    def replace(self, **changes: Any) -> Self:
        """Make a validated copy with some fields changed.

        Args:
            **changes: New values by field name.

        Returns:
            The copy; this record stays as it is.

        Raises:
            ValueError: If a name is no field, or a value cannot work.
        """
        return type(self)(**{**self.model_dump(), **changes})
