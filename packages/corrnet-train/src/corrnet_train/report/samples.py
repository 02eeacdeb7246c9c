"""Test samples with what each model says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from corrnet_train.report.pictures import data_url

MAX_FRAMES = 8
_MIN_SIDE = 96
_MILLISECONDS, _REST = 150, 900  # of a frame, and of the last one, while frames are shown one after the other


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleView:
    """One test clip and its predictions.

    Attributes:
        key: The sample's key in the dataset.
        frames: RGB frames [L, H, W, 3], uint8.
        true_class: Name of its class.
        predictions: For each model name the most probable classes with their probabilities in 0..1, most
            probable first.

    Raises:
        ValueError: If the frames are not uint8 [L, H, W, 3] or a model has no prediction.
    """

    key: str
    frames: Tensor
    true_class: str
    predictions: Mapping[str, Sequence[tuple[str, float]]]

    def __post_init__(self) -> None:
        """Check the frames and the predictions."""
        shape = list(self.frames.shape)
        if self.frames.dtype != torch.uint8 or len(shape) != 4 or shape[3] != 3 or not self.frames.numel():
            raise ValueError(
                f"frames of {self.key!r} must be uint8 [L, H, W, 3] and not empty, "
                f"got {self.frames.dtype} {shape}"
            )
        for name, ranked in self.predictions.items():
            if not ranked:
                raise ValueError(f"predictions of {name!r} for {self.key!r} must name at least one class")


def frame_images(frames: Tensor) -> list[str]:
    """Frames as PNG data URLs, small ones enlarged without blur.

    Args:
        frames: RGB frames [L, H, W, 3], uint8.

    Returns:
        At most 8 images, evenly spaced in time. A frame whose shorter side is below 96 px is enlarged by a
        whole factor with nearest neighbor.
    """
    num_frames = len(frames)
    wanted = np.linspace(0, num_frames - 1, min(num_frames, MAX_FRAMES)).round().astype(int)
    return [data_url(picture) for picture in _pictures(frames[wanted])]


def moving_image(frames: Tensor) -> str:
    """Frames one after the other as an animated PNG, of the size of those of `frame_images`, as a data URL.

    Args:
        frames: RGB frames [L, H, W, 3], uint8.

    Returns:
        An animation that begins again after a rest on the last frame.
    """
    first, *others = _pictures(frames)
    durations = [_MILLISECONDS] * len(others) + [_REST]
    return data_url(first, save_all=True, append_images=others, duration=durations, loop=0)


def _pictures(frames: Tensor) -> list[Image.Image]:
    _, height, width, _ = frames.shape
    factor = max(1, -(-_MIN_SIDE // min(height, width)))
    return [
        Image.fromarray(frame.repeat(factor, axis=0).repeat(factor, axis=1))
        for frame in frames.detach().cpu().numpy()
    ]
