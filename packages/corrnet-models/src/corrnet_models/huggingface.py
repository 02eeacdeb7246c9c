"""Folders of `save_pretrained` in the auto classes of `transformers`, which is to be installed.

The file `modeling_corrnet.py` in such a folder imports these classes: `trust_remote_code=True` runs no other code.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import BatchFeature, PretrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.modeling_outputs import ImageClassifierOutput

from corrnet_models._config import ModelConfig
from corrnet_models._errors import ModelError
from corrnet_models._registry import build_model

__all__ = ["CorrNetConfig", "CorrNetForVideoClassification", "CorrNetProcessor"]


_LOSSES: dict[str | None, Callable[[Tensor, Tensor], Tensor]] = {
    "multi_label_classification": functional.binary_cross_entropy_with_logits,
    "regression": functional.mse_loss,
}


class CorrNetConfig(PretrainedConfig):
    """What `config.json` holds; `model` has the fields of `ModelConfig`.

    With `problem_type="regression"` the values that are predicted are outputs of the network times `value_std` plus
    `value_mean`.
    """

    model_type = "corrnet"

    def __init__(
        self,
        model: dict[str, Any] | None = None,
        value_mean: float = 0.0,
        value_std: float = 1.0,
        **others: Any,
    ) -> None:
        self.model = {} if model is None else model
        self.value_mean = value_mean
        self.value_std = value_std
        super().__init__(**others)


class CorrNetForVideoClassification(PreTrainedModel):
    """The network, with the inputs and outputs that `transformers` gives classifiers of videos."""

    config_class = CorrNetConfig
    base_model_prefix = "network"
    main_input_name = "pixel_values"

    def __init__(self, config: CorrNetConfig) -> None:
        super().__init__(config)
        self.network = build_model(ModelConfig(**config.model))
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Leave the weights as `build_model` makes them."""

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **others: Any
    ) -> ImageClassifierOutput:
        """Classify clips.

        Args:
            pixel_values: Normalized frames [N, frames, channels, H, W].
            labels: With them there is a loss. Class numbers [N]: their cross-entropy; with the `problem_type` of
                several labels 0 or 1 for each class [N, classes]: the binary cross-entropy; of regression values
                [N, 1]: the mean squared error.
            **others: Is ignored.

        Returns:
            `logits` [N, classes], or the predicted values [N, 1], and `loss`.
        """
        logits = self.network(pixel_values.transpose(1, 2))
        kind = self.config.problem_type
        loss_function = _LOSSES.get(kind, functional.cross_entropy)
        if kind == "regression":
            logits = logits * self.config.value_std + self.config.value_mean
        loss = None if labels is None else loss_function(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


class CorrNetProcessor(ImageProcessingMixin):
    """Makes clips of videos: the frames in the middle, resized, cropped in the center, normalized.

    Args:
        num_frames: Frames of a clip.
        frame_stride: Frames from one of them to the next, without `fps`.
        fps: Frames a second of a clip: it shows the frames that are nearest to times 1/fps apart.
        short_side: Pixels of the shorter side after resizing.
        crop_size: Pixels of each side of the crop.
        image_mean: By channel, what is subtracted from pixels between 0 and 1.
        image_std: By channel, what they are divided by afterwards.
        **others: What else the file holds.
    """

    model_input_names = ("pixel_values",)

    def __init__(
        self,
        *,
        num_frames: int,
        frame_stride: int,
        short_side: int,
        crop_size: int,
        image_mean: list[float],
        image_std: list[float],
        fps: float | None = None,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self.num_frames = num_frames
        self.frame_stride = frame_stride
        self.fps = fps
        self.short_side = short_side
        self.crop_size = crop_size
        self.image_mean = image_mean
        self.image_std = image_std

    def __call__(
        self,
        videos: Any,
        return_tensors: str | None = "pt",
        *,
        video_fps: float | None = None,
        **others: Any,
    ) -> BatchFeature:
        """Make one clip of each video.

        Args:
            videos: The frames of a video, each uint8 [H, W, 3], or a list of several videos.
            return_tensors: As in `transformers`: "pt" or "np".
            video_fps: Frames a second of the videos; where clips have `fps` it must be given.
            **others: Is ignored.

        Returns:
            `pixel_values` float32 [N, frames, 3, crop size, crop size].

        Raises:
            ValueError: Clips have `fps`, and that of the videos is not given.
        """
        if self.fps is not None and not (video_fps and video_fps > 0):
            raise ModelError(
                f"clips show {self.fps:g} frames a second: give the rate of the videos, video_fps=..., "
                f"got {video_fps}"
            )
        several = [videos] if np.ndim(videos[0]) == 3 else videos
        clips = torch.stack([self._clip(video, video_fps) for video in several])
        data = clips if return_tensors == "pt" else clips.numpy()
        return BatchFeature({"pixel_values": data}, tensor_type=return_tensors)

    def _places(self, num_frames: int, video_fps: float | None) -> list[int]:
        """Which frames of a video make its clip."""
        step: float = self.frame_stride
        if self.fps is not None:
            assert video_fps is not None
            step = video_fps / self.fps
        room = num_frames - 1 - (self.num_frames - 1) * step
        first = max(0, room // 2 if self.fps is None else math.ceil(room / 2 - 0.5))
        return [
            min(math.ceil(first + step * number - 0.5), num_frames - 1) for number in range(self.num_frames)
        ]

    def _clip(self, frames: Any, video_fps: float | None) -> Tensor:
        places = self._places(len(frames), video_fps)
        clip = torch.from_numpy(np.stack([np.asarray(frames[place]) for place in places]))
        clip = clip.permute(0, 3, 1, 2).float() / 255
        height, width = clip.shape[2:]
        scale = self.short_side / min(height, width)
        size = (round(height * scale), round(width * scale))
        if size != (height, width):
            clip = functional.interpolate(clip, size=size, mode="bilinear", antialias=True)
        top, left = ((side - self.crop_size) // 2 for side in size)
        clip = clip[:, :, top : top + self.crop_size, left : left + self.crop_size]
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.image_mean, self.image_std))
        return (clip - mean) / std
