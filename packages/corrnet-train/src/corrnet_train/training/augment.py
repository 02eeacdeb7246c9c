"""Augmentation on the device.

None of it is in the paper, whose augmentation (scale, crop, temporal jitter) is `data.clip`; recipes turn it on.
Random numbers come from torch's generator of the CPU, which checkpoints hold, so a run resumes exactly.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from corrnet_train.config.schema import MAX_MAGNITUDE, AugmentConfig
from corrnet_train.utils.errors import InputError, MissingPackageError
from video_data import ClipConfig, normalize
from video_data.loading.batches import PIXEL_MEAN, PIXEL_STD
from video_data.media.planes import YuvClips, to_rgb

NUM_OPERATIONS = 2  # of RandAugment, a clip


class Augment:
    """Makes the clips and targets of a training step of pixels and labels.

    Args:
        config: What to do.
        clip: The clips.
        num_classes: Number of classes.
        micro_batch: Clips that are taken at once.
        dtype: Type of the clips that are made.

    Raises:
        ValueError: Mixing needs at least two clips at once, repetition a multiple of `repeats`.
        ImportError: RandAugment without the extra `augment`.
    """

    def __init__(
        self,
        config: AugmentConfig,
        *,
        clip: ClipConfig,
        num_classes: int,
        micro_batch: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        self._config = config
        self._clip = clip
        self._num_classes = num_classes
        if self._mixes and micro_batch < 2:
            raise InputError(
                f"augment.mixup and augment.cutmix mix the clips that a process takes at once, which is {micro_batch}: "
                "make train.micro_batch at least 2, or optim.batch_size at least 2 for each process"
            )
        if micro_batch % config.repeats:
            raise InputError(
                f"augment.repeats={config.repeats} must divide the clips that a process takes at once, which are "
                f"{micro_batch} (train.micro_batch, or optim.batch_size / processes)"
            )
        self._rand_augment = _rand_augment(config.rand_augment) if config.rand_augment else None

    @property
    def _mixes(self) -> bool:
        return bool(self._config.mixup or self._config.cutmix)

    def __call__(self, video: Tensor | YuvClips, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return clips and their targets.

        Args:
            video: uint8 pixels [N, C, L, H, W], or planes.
            label: As the loader has it: classes [N], several of them as 0 and 1 [N, classes], or numbers [N, 1].

        Returns:
            Normalized clips [N, C, L, H, W], and the labels, or probabilities [N, classes] after mixing.
        """
        clips = self.clips(video)
        return self.mixed(clips, label) if self._mixes else (clips, label)

    def clips(self, video: Tensor | YuvClips) -> Tensor:
        """Return normalized clips [N, C, L, H, W], after RandAugment of the pixels where it is on."""
        if self._rand_augment is None:
            return normalize(video, self.dtype, clip=self._clip)
        pixels = (to_rgb(video) if isinstance(video, YuvClips) else video).float().div_(255)
        changed = torch.cat([self._rand_augment(clip[None]) for clip in pixels])
        normalized = ((changed - PIXEL_MEAN) / PIXEL_STD).to(self.dtype)
        return normalized.contiguous(memory_format=torch.channels_last_3d)

    def mixed(self, clips: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalized clips mixed with one another, and the probabilities [N, classes] of their classes."""
        shift = int(torch.randint(1, len(clips), ()))  # never a clip with itself
        partner = torch.arange(len(clips), device=clips.device).roll(shift)
        target = F.one_hot(label, self._num_classes).float() if label.ndim == 1 else label
        config = self._config
        cut = bool(config.cutmix) and (not config.mixup or torch.rand(()).item() < 0.5)
        alpha = torch.tensor(config.cutmix if cut else config.mixup, dtype=torch.float64)
        share = torch.distributions.Beta(alpha, alpha).sample().item()
        if cut:
            clips, share = _cut(clips, partner, share)
        else:
            clips = torch.lerp(clips[partner], clips, share)
        return clips, torch.lerp(target[partner], target, share)


def _cut(clips: Tensor, partner: Tensor, share: float) -> tuple[Tensor, float]:
    """Put a box of the partners' clips into the clips, at the same place in all frames.

    Returns:
        The clips and the share of their pixels that is still their own.
    """
    height, width = clips.shape[-2:]
    side = (1 - share) ** 0.5
    box_height, box_width = round(height * side), round(width * side)
    top = int(torch.randint(height - box_height + 1, ()))
    left = int(torch.randint(width - box_width + 1, ()))
    rows, columns = slice(top, top + box_height), slice(left, left + box_width)
    cut = clips.clone()
    cut[..., rows, columns] = clips[partner][..., rows, columns]
    return cut, 1 - box_height * box_width / (height * width)


def _rand_augment(magnitude: float) -> Callable[[Tensor], Tensor]:
    """RandAugment for a clip [1, 3, L, H, W] of values in 0..1, with the ranges of its paper."""
    try:
        from kornia import augmentation as K
    except ImportError:
        raise MissingPackageError(
            "augment.rand_augment needs kornia: pip install 'corrnet-train[augment]', or leave it at 0"
        ) from None
    strength = magnitude / MAX_MAGNITUDE
    factor = (1 - 0.9 * strength, 1 + 0.9 * strength)
    part = 0.45 * strength
    operations: list[Any] = [
        K.RandomAutoContrast(p=1.0),
        K.RandomEqualize(p=1.0),
        K.RandomRotation(30 * strength, p=1.0),
        K.RandomPosterize((max(1, round(8 - 4 * strength)), 8), p=1.0),
        K.RandomSolarize(strength / 2, p=1.0),
        K.RandomSaturation(factor, p=1.0),
        K.RandomContrast(factor, p=1.0),
        K.RandomBrightness(factor, p=1.0),
        K.RandomSharpness(strength, p=1.0),
        K.RandomAffine(0.0, shear=(-17 * strength, 17 * strength), p=1.0),
        K.RandomAffine(0.0, shear=(0.0, 0.0, -17 * strength, 17 * strength), p=1.0),
        K.RandomAffine(0.0, translate=(part, 0.0), p=1.0),
        K.RandomAffine(0.0, translate=(0.0, part), p=1.0),
    ]
    sequence: Callable[[Tensor], Tensor] = K.VideoSequential(
        *operations, random_apply=NUM_OPERATIONS, data_format="BCTHW", same_on_frame=True
    )
    return sequence
