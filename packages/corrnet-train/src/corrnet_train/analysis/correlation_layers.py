"""The correlation layers of a model by name, and the steps of their windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from corr_ops import VideoCorrelation
from corrnet_models import STAGES, StageName, VideoModel
from corrnet_train.utils.errors import InputError


@dataclass(frozen=True)
class CorrelationLayer:
    """One correlation operator of a model.

    Attributes:
        name: stage and block, `res2.corr`; with two streams the stream before it.
        module: the operator.
        stage: the stage that it is a part of.
        temporal_stride: frames of the clip for each frame of its input.
        spatial_stride: pixels of the clip for each position of its input, along a side.
    """

    name: str
    module: VideoCorrelation
    stage: StageName
    temporal_stride: int
    spatial_stride: int

    @property
    def reach(self) -> int:
        """Positions from the center of its window to its sides."""
        return self.module.kernel_size[0] // 2 * self.module.dilation[0]

    @property
    def filters(self) -> Tensor | None:
        """Filters [L, C, K, K], on the CPU; L is 1 where all frames share one. None without filters."""
        weight = self.module.weight
        if weight is None:
            return None
        return weight.detach().cpu().reshape(-1, *weight.shape[-3:])


def correlation_layers(model: VideoModel) -> list[CorrelationLayer]:
    """All correlation layers in the order of the model; none for R2D and R(2+1)D."""
    layers = []
    for info in model.feature_info:
        stream, _, stage = info.module.rpartition(".")
        prefix = "" if stream == "backbone" else f"{stream}."
        for path, module in model.get_submodule(info.module).named_modules():
            if isinstance(module, VideoCorrelation):
                layers.append(
                    CorrelationLayer(
                        f"{prefix}{stage}.{path.split('.')[0]}",
                        module,
                        next(name for name in STAGES if name == stage),
                        info.temporal_stride,
                        info.spatial_stride,
                    )
                )
    return layers


def chosen_layers(model: VideoModel, names: Sequence[str] = ()) -> list[CorrelationLayer]:
    """Correlation layers by name.

    Args:
        model: the network.
        names: which; all when there are none.

    Raises:
        ValueError: the model has no such layer, or none at all.
    """
    layers = {layer.name: layer for layer in correlation_layers(model)}
    if not layers:
        raise InputError("this model has no correlation layers; CorrNet has")
    unknown = [name for name in names if name not in layers]
    if unknown:
        raise InputError(f"no correlation layer {unknown[0]!r}; this model has {', '.join(layers)}")
    return [layers[name] for name in names] if names else list(layers.values())


def nearest_first(radius: int) -> NDArray[np.int64]:
    """The steps down and to the right of a window, int64 [(2*radius + 1)**2, 2]: the nearest to its center first.

    Args:
        radius: Steps from the center to a side.
    """
    steps = np.stack(np.meshgrid(*[np.arange(-radius, radius + 1)] * 2, indexing="ij"), axis=-1)
    steps = steps.reshape(-1, 2)
    ordered: NDArray[np.int64] = steps[np.argsort((steps**2).sum(axis=1), kind="stable")].astype(np.int64)
    return ordered
