"""The networks: a backbone of four residual stages, pooling and a linear classifier."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from corr_ops import VideoCorrelation
from corrnet_models._blocks import Bottleneck, make_correlation_block, make_stem
from corrnet_models._config import EXPANSION, STAGES, ModelConfig, PretrainedCfg, StageName
from corrnet_models._errors import ModelError

CLASSIFIER_STD = 0.01
"""Standard deviation of the classifier's initial weights."""


@dataclass(frozen=True)
class FeatureInfo:
    """What one stage puts out.

    Attributes:
        module: Path of the stage in the model, for `get_submodule`.
        channels: Channels of its output.
        temporal_stride: Input frames per output frame.
        spatial_stride: Input pixels per output pixel, along a side.
    """

    module: str
    channels: int
    temporal_stride: int
    spatial_stride: int


class FeatureInfos(tuple[FeatureInfo, ...]):
    """What several stages put out, with the methods of timm's `feature_info`."""

    def channels(self) -> list[int]:
        """Return the channels of each."""
        return [info.channels for info in self]

    def reduction(self) -> list[int]:
        """Return the input pixels per output pixel of each, along a side."""
        return [info.spatial_stride for info in self]

    def module_name(self) -> list[str]:
        """Return the name of each stage."""
        return [info.module for info in self]


class Stage(nn.Sequential):
    """The blocks of one residual stage, by name and in order.

    Attributes:
        grad_checkpointing: Whether training recomputes each block in the backward pass.
    """

    grad_checkpointing: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, L, H, W] through the blocks."""
        recompute = self.grad_checkpointing and self.training and torch.is_grad_enabled()
        for block in self:
            x = _checkpointed(block, x) if recompute else block(x)
        return x


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # the compiler keeps the statistics' update out of the recomputation
        out = checkpoint(block, x, use_reentrant=False)
    else:
        out = checkpoint(
            block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _running_stats_kept(block))
        )
    assert isinstance(out, Tensor)
    return out


class Backbone(nn.Module):
    """Stem and stages of Table 2, with correlation blocks where the configuration has them.

    Submodules are `stem` and `res2` to `res5`; a stage holds `block1`, `block2`, ..., with
    `corr_middle` among them and `corr` at its end.

    Args:
        config: The network's configuration.
        in_channels: Channels of the input.
    """

    def __init__(self, config: ModelConfig, *, in_channels: int) -> None:
        super().__init__()
        self.stem = make_stem(
            in_channels, config.stem_width, kernel_size=config.stem_kernel_size, stride=config.stem_stride
        )
        self.feature_info: list[FeatureInfo] = []
        channels, temporal_stride, spatial_stride = config.stem_width, 1, config.stem_stride
        for index, stage in enumerate(STAGES):
            temporal_stride *= config.temporal_strides[index]
            spatial_stride *= 2
            num_frames = config.num_frames // temporal_stride
            self.add_module(stage, _make_stage(stage, channels, num_frames, config))
            channels = EXPANSION * config.widths[index]
            self.feature_info.append(FeatureInfo(stage, channels, temporal_stride, spatial_stride))
        _initialize(self, zero_init_residual=config.zero_init_residual)

    def forward(self, x: Tensor, last: StageName = "res5") -> Tensor:
        """Map clips to the features of a stage.

        Args:
            x: Clips [N, in_channels, L, H, W].
            last: The stage to stop after.

        Returns:
            Features [N, C, L', H', W'], of res5 of a full-size net [N, C, L/4, H/32, W/32].
        """
        x = self.stem(x)
        for stage in STAGES[: STAGES.index(last) + 1]:
            x = self.get_submodule(stage)(x)
        return x

    def intermediates(self, x: Tensor, last: StageName) -> list[Tensor]:
        """Map clips to the features of each stage up to one, as `forward` does to those of one."""
        x = self.stem(x)
        maps = []
        for stage in STAGES[: STAGES.index(last) + 1]:
            x = self.get_submodule(stage)(x)
            maps.append(x)
        return maps

    def drop_after(self, last: StageName) -> None:
        """Drop the stages behind one."""
        for stage in STAGES[STAGES.index(last) + 1 :]:
            setattr(self, stage, nn.Identity())

    def set_grad_checkpointing(self, enable: bool) -> None:
        """Turn the recomputation of blocks in the backward pass on or off.

        Args:
            enable: Whether to recompute.
        """
        for module in self.children():
            if isinstance(module, Stage):
                module.grad_checkpointing = enable

    def set_num_frames(self, num_frames: int) -> None:
        """Interpolate the correlation filters in time for clips of another length.

        Args:
            num_frames: Frames of the clips, a multiple of the backbone's temporal stride.
        """
        for info in self.feature_info:
            for module in self.get_submodule(info.module).modules():
                if isinstance(module, VideoCorrelation):
                    module.set_num_frames(num_frames // info.temporal_stride)


def _make_stage(stage: StageName, in_channels: int, num_frames: int, config: ModelConfig) -> Stage:
    index = STAGES.index(stage)
    width, depth = config.widths[index], config.depths[index]
    out_channels = EXPANSION * width
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, depth + 1):
        first = number == 1
        blocks[f"block{number}"] = Bottleneck(
            in_channels if first else out_channels,
            width,
            temporal_stride=config.temporal_strides[index] if first else 1,
            spatial_stride=2 if first else 1,
            temporal_conv=config.temporal_convs[index],
        )
        if number == depth // 2 and stage in config.corr_middle:
            blocks["corr_middle"] = make_correlation_block(stage, out_channels, num_frames, config)
    if stage in config.corr_after:
        blocks["corr"] = make_correlation_block(stage, out_channels, num_frames, config)
    return Stage(blocks)


def _initialize(module: nn.Module, *, zero_init_residual: bool) -> None:
    """Initialize convolutions and batch norms; the operator has initialized its filters itself."""
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.BatchNorm3d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
    if zero_init_residual:
        for part in module.modules():
            if isinstance(part, Bottleneck):
                nn.init.zeros_(part.expand_bn.weight)


@contextmanager
def _running_stats_kept(module: nn.Module) -> Iterator[None]:
    """Keep batch norm's running statistics: recomputing a block must not count its batch twice."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, num_batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches


class VideoModel(nn.Module, ABC):
    """What every network of this package offers: features, pooling, dropout and a linear classifier.

    Args:
        config: The network's configuration.
        num_features: Channels of the feature map that the classifier gets.

    Attributes:
        config: The configuration, kept up to date by `reset_classifier` and `set_num_frames`.
        num_features: Channels of the feature map.
        pretrained_cfg: What the weights that were loaded were trained on; None for freshly initialized ones.
    """

    config: ModelConfig
    num_features: int
    pretrained_cfg: PretrainedCfg | None = None
    _num_frozen = 0

    def __init__(self, config: ModelConfig, *, num_features: int) -> None:
        super().__init__()
        self.config = config
        self.num_features = num_features
        self.dropout = nn.Dropout(config.dropout)
        self.fc = _make_classifier(num_features, config.num_classes)

    @abstractmethod
    def backbones(self) -> dict[str, Backbone]:
        """Return the backbones by the name of their submodule."""

    @abstractmethod
    def _features(self, x: Tensor, stage: StageName) -> Tensor:
        """Map a valid clip to the feature map of a stage."""

    @abstractmethod
    def _intermediates(self, x: Tensor, last: StageName) -> list[Tensor]:
        """Map a valid clip to the feature maps of all stages up to one."""

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """Shape of each stage's output, backbone by backbone."""
        return [
            FeatureInfo(f"{name}.{info.module}", info.channels, info.temporal_stride, info.spatial_stride)
            for name, backbone in self.backbones().items()
            for info in backbone.feature_info
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips.

        Args:
            x: Clips [N, in_channels, L, H, W].

        Returns:
            Class scores before the softmax [N, num_classes]; with `num_classes=0` pooled features [N, num_features].

        Raises:
            ValueError: If the clips have another rank, channel number or, for a net with a correlation
                filter per frame, another length than the configuration says.
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor, stage: StageName = "res5") -> Tensor:
        """Compute a stage's feature map.

        Args:
            x: Clips [N, in_channels, L, H, W].
            stage: Which stage; the last one's map is what the classifier pools.

        Returns:
            Features [N, C, L', H', W'] before pooling; C is `num_features` for the last stage, and for two streams
            the channels of both.

        Raises:
            ValueError: As in `forward`, or if there is no such stage.
        """
        if stage not in STAGES:
            raise ModelError(f"stage must be one of {', '.join(STAGES)}; got {stage!r}")
        self._check_input(x)
        return self._features(x, stage)

    def forward_intermediates(
        self, x: Tensor, indices: int | Sequence[int] | None = None, *, intermediates_only: bool = False
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Compute the feature maps of several stages in one pass.

        Args:
            x: Clips [N, in_channels, L, H, W].
            indices: Which of the four stages, counted from 0 or, below 0, from the end; a number n is the last n, and
                None is all.
            intermediates_only: Whether to return the maps alone; stages behind the last of them are not computed then.

        Returns:
            The last stage's map, as of `forward_features`, and the list of those asked for, in the order of the stages.

        Raises:
            ValueError: As in `forward`, or if there is no such stage.
        """
        wanted = stage_indices(indices)
        self._check_input(x)
        maps = self._intermediates(x, STAGES[max(wanted)] if intermediates_only else STAGES[-1])
        chosen = [maps[index] for index in wanted]
        return chosen if intermediates_only else (maps[-1], chosen)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool over time and space, then classify.

        Args:
            features: Feature map [N, num_features, L', H', W'].
            pre_logits: Whether to leave the classifier out.

        Returns:
            Class scores before the softmax [N, num_classes]; with `pre_logits` or `num_classes=0` pooled features
            [N, num_features].
        """
        pooled: Tensor = self.dropout(features.mean(dim=(2, 3, 4)))
        return pooled if pre_logits else self.fc(pooled)

    def get_classifier(self) -> nn.Module:
        """Return the classifier, `fc`; an `nn.Identity` with `num_classes=0`."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Put a freshly initialized classifier in place of the present one, on the model's device and in its dtype.

        Args:
            num_classes: Outputs of the new classifier; 0 leaves it out.

        Raises:
            ValueError: If `num_classes` is below 0.
        """
        config = self.config.replace(num_classes=num_classes)
        weight = next(parameter for parameter in self.parameters())
        self.fc = _make_classifier(self.num_features, num_classes).to(weight.device, weight.dtype)
        self.config = config

    def set_num_frames(self, num_frames: int) -> None:
        """Adapt the net to clips of another length; correlation filters are interpolated in time.

        Args:
            num_frames: Frames of a clip from now on.

        Raises:
            ValueError: If `num_frames` is no positive multiple of the net's temporal stride.
        """
        config = self.config.replace(num_frames=num_frames)
        for backbone in self.backbones().values():
            backbone.set_num_frames(num_frames)
        self.config = config

    def freeze_stages(self, num_stages: int) -> None:
        """Freeze the first stages: no gradients, and batch norm as in evaluation, also after `train()`.

        Args:
            num_stages: 0 freezes nothing, 1 the stem, 2 the stem and res2, and so on to 5, all but the classifier; of
                two streams those of both. The stages behind learn.

        Raises:
            ValueError: If there are not so many stages.
        """
        if not 0 <= num_stages <= 1 + len(STAGES):
            raise ModelError(
                f"num_stages must be from 0 to {1 + len(STAGES)}: the stem, {', '.join(STAGES)}; got {num_stages}"
            )
        self._num_frozen = num_stages
        for backbone in self.backbones().values():
            for number, stage in enumerate(backbone.children()):
                stage.requires_grad_(number >= num_stages)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all stages but frozen ones, which stay as in evaluation."""
        super().train(mode)
        for backbone in self.backbones().values():
            for stage in list(backbone.children())[: self._num_frozen]:
                stage.eval()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass, in training, instead of storing its activations.

        Gradients and batch norm's running statistics stay what they are without it.

        Args:
            enable: Whether to recompute.
        """
        for backbone in self.backbones().values():
            backbone.set_grad_checkpointing(enable)

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 5:
            raise ValueError(f"expected clips [N, C, L, H, W]; got {x.dim()} dimensions, {list(x.shape)}")
        if x.shape[1] != self.config.in_channels:
            raise ValueError(
                f"expected {self.config.in_channels} channels in clips [N, C, L, H, W]; got {x.shape[1]}"
            )
        if self.config.fixed_length and x.shape[2] != self.config.num_frames:
            raise ValueError(
                f"this net has a correlation filter for each of {self.config.num_frames} frames; "
                f"got {x.shape[2]}. Call set_num_frames({x.shape[2]}) to interpolate the filters, "
                f"or build the net with num_frames={x.shape[2]}"
            )


def _make_classifier(num_features: int, num_classes: int) -> nn.Module:
    if num_classes == 0:
        return nn.Identity()
    classifier = nn.Linear(num_features, num_classes)
    nn.init.normal_(classifier.weight, std=CLASSIFIER_STD)
    nn.init.zeros_(classifier.bias)
    return classifier


def stage_indices(indices: int | Sequence[int] | None) -> list[int]:
    """Return the numbers of the stages that are asked for, ascending.

    Args:
        indices: As in `VideoModel.forward_intermediates`.

    Raises:
        ValueError: If there is no such stage, or none is asked for.
    """
    number = len(STAGES)
    asked = range(-indices, 0) if isinstance(indices, int) else range(number) if indices is None else indices
    if not asked or min(asked) < -number or max(asked) >= number:
        raise ModelError(
            f"stages are {', '.join(f'{index} {stage}' for index, stage in enumerate(STAGES))}, or from the end -1 to "
            f"-{number}, or a number of them; got {indices!r}"
        )
    return sorted({index % number for index in asked})


class VideoFeatures(nn.Module):
    """A model without its classifier that puts out the feature maps of several stages.

    Args:
        model: The model; its classifier and the stages behind the last one asked for are dropped.
        out_indices: Which stages, as in `VideoModel.forward_intermediates`.

    Attributes:
        model: What is left of the model.
        out_indices: The stages' numbers, ascending.
        feature_info: What each of them puts out.

    Raises:
        ValueError: If there is no such stage.
    """

    def __init__(self, model: VideoModel, out_indices: int | Sequence[int] | None = None) -> None:
        super().__init__()
        self.out_indices = stage_indices(out_indices)
        infos = [backbone.feature_info for backbone in model.backbones().values()]
        self.feature_info = FeatureInfos(
            replace(infos[0][index], channels=sum(info[index].channels for info in infos))
            for index in self.out_indices
        )
        model.reset_classifier(0)
        for backbone in model.backbones().values():
            backbone.drop_after(STAGES[self.out_indices[-1]])
        self.model = model

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute feature maps.

        Args:
            x: Clips [N, in_channels, L, H, W].

        Returns:
            A map [N, C, L', H', W'] of each stage that is asked for; of two streams the channels of both.
        """
        maps = self.model.forward_intermediates(x, self.out_indices, intermediates_only=True)
        assert isinstance(maps, list)
        return maps


class VideoResNet(VideoModel):
    """R2D, R(2+1)D or CorrNet: one backbone on one kind of frames.

    Args:
        config: The configuration, with `flow_channels=0`.

    Raises:
        ValueError: If the configuration is for two streams.
    """

    def __init__(self, config: ModelConfig) -> None:
        if config.flow_channels != 0:
            raise ModelError(
                f"VideoResNet has one stream; got flow_channels={config.flow_channels}, allowed 0"
            )
        super().__init__(config, num_features=EXPANSION * config.widths[-1])
        self.backbone = Backbone(config, in_channels=config.in_channels)

    def backbones(self) -> dict[str, Backbone]:
        """Return the one backbone."""
        return {"backbone": self.backbone}

    def _features(self, x: Tensor, stage: StageName) -> Tensor:
        features: Tensor = self.backbone(x, stage)
        return features

    def _intermediates(self, x: Tensor, last: StageName) -> list[Tensor]:
        return self.backbone.intermediates(x, last)
