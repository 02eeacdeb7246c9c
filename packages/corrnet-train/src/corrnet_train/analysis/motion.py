"""The motion that a correlation layer can match: its volume as a displacement field over the frames of a video."""

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from corr_ops import correlation
from corrnet_train.analysis.correlation_layers import CorrelationLayer, nearest_first
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.utils.errors import InputError
from video_data import VideoError
from video_data.loading.live import open_frames, sliding_clips
from video_data.media.container import open_video
from video_data.utils.messages import hide_secrets

_PATCH = 3  # positions along a side of what is compared
_ROUNDING = 1e-3  # seconds; containers round times to it
_OUTSIDE = -2.0  # less than any similarity
_FLAT = 1e-2  # a patch with less contrast than this, relative to the clip's, has nothing to match


@dataclass(frozen=True)
class MotionField:
    """What moved to where in one frame.

    Attributes:
        number: Number of the frame in the video, from 0.
        seconds: Time of the frame from the first one.
        picture: The frame as the model sees it, uint8 [S, S, 3].
        motion: How far what is at each position has come since the frame before it, to the right and down in pixels of
            `picture`, float32 [H, W, 2].
        similarity: Correlation of the matched patches, from -1 to 1, float32 [H, W].
    """

    number: int
    seconds: float
    picture: NDArray[np.uint8]
    motion: NDArray[np.float32]
    similarity: NDArray[np.float32]


def count_frames(source: str) -> int | None:
    """Frames of a file as its header says; None where it does not, and for cameras and streams."""
    try:
        with open_video(Path(source)) as (_, stream):
            return stream.frames or None
    except VideoError:  # what is wrong is said when it is read
        return None


@dataclass(frozen=True)
class _Picture:
    number: int
    seconds: float
    pixels: Tensor


def motion_fields(
    classifier: VideoClassifier, source: str, layer: CorrelationLayer, *, max_frames: int | None = None
) -> Generator[MotionField, None, None]:
    """Match the frames of a video by the features that a correlation layer compares.

    The layer's input is correlated as far as the layer's window reaches, at every offset and without its filters; the
    best offset is refined by a parabola. Patches of 3 x 3 features with mean 0 and norm 1 are compared, so that bright
    places do not win; of equally good offsets the nearest counts, and flat patches do not move. Positions are those of
    the later frame, whichever the layer searches. The first frame is matched with itself. What has come from outside of
    the frame, or from farther away than the window reaches, has no true match.

    Args:
        classifier: The model; frames are cut and normalized as for `predict`.
        source: As `video_data.loading.live.open_frames` takes it.
        layer: A correlation layer of the model.
        max_frames: Frames of the video after which to stop; None goes on to the end.

    Raises:
        ValueError: The video cannot be read, the clips have optical flow, or the layer sees one frame or one
            position alone.
    """
    length = classifier.clip.num_frames // layer.temporal_stride
    if length < 2:
        raise InputError(f"{layer.name} sees {length} frame of a clip: there is nothing to match")
    if layer.reach < 1:
        raise InputError(f"the window of {layer.name} is one position: it cannot match motion")
    is_first = True
    for pictures in _windows(classifier, source, (length - 1) * layer.temporal_stride, max_frames):
        clip = torch.stack([picture.pixels for picture in pictures], dim=1)
        missing = classifier.clip.num_frames - len(pictures)
        clip = torch.cat([clip, clip[:, -1:].expand(-1, missing, -1, -1)], dim=1)
        motion, similarity = match_frames(_inputs(classifier, clip[None], layer), layer)
        for index, picture in enumerate(pictures[:: layer.temporal_stride]):
            if index or is_first:  # the first frame of a window is the last one of the window before
                yield MotionField(
                    picture.number,
                    picture.seconds,
                    picture.pixels.permute(1, 2, 0).numpy(),
                    motion[index],
                    similarity[index],
                )
        is_first = False


def _windows(
    classifier: VideoClassifier, source: str, hop: int, max_frames: int | None
) -> Iterator[list[_Picture]]:
    """Yield frames as the model sees them, as far apart as those of a clip, in windows that share one with the next.

    A last window may be shorter, and is there only if it has frames that no other one has.
    """
    clip = classifier.clip
    single = clip.model_copy(update={"num_frames": 1, "frame_stride": 1, "fps": None})
    window: list[_Picture] = []
    num_new, next_seconds = 0, 0.0
    with open_frames(source) as frames:
        for frame in sliding_clips(frames, single, hop=clip.frame_stride):
            if frame.clip is not None:
                seconds = frame.number / 25 if frame.seconds is None else frame.seconds
                if clip.fps is None or seconds >= next_seconds - _ROUNDING:
                    window.append(_Picture(frame.number, seconds, frame.clip[:, 0]))
                    num_new += 1
                    if clip.fps is not None:
                        next_seconds = (math.floor((seconds + _ROUNDING) * clip.fps) + 1) / clip.fps
            if len(window) == clip.num_frames:
                yield window
                window, num_new = window[hop:], 0
            if max_frames is not None and frame.number + 1 >= max_frames:
                break
    if num_new:
        yield window
    elif not window:
        raise InputError(f"{hide_secrets(source)} has no frames")


def _inputs(classifier: VideoClassifier, clips: Tensor, layer: CorrelationLayer) -> Tensor:
    """Return what a correlation layer gets, float32 [N, C, L, H, W]."""
    with _watched(layer) as seen:
        classifier.run(clips, lambda x: classifier.video_model.forward_features(x, layer.stage))
    return seen[0].float()


@contextmanager
def _watched(layer: CorrelationLayer) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = layer.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


@torch.inference_mode()
def match_frames(
    features: Tensor, layer: CorrelationLayer
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How far what is at every position has come since the frame before.

    Args:
        features: float32 [1, C, L, H, W].
        layer: Its reach and the size of its positions.

    Returns:
        Motion to the right and down in pixels of the clip [L, H, W, 2] and similarity [L, H, W].
    """
    patches = _descriptors(features[0])
    before = patches[:, :, [0, *range(patches.shape[2] - 1)]]
    # What is here now lies at the best offset in the frame before: it has moved the other way.
    offsets, similarity = _best_offsets(_volume(patches, before, layer.reach), layer.reach)
    # Texture that is steeper to one side draws the parabola there; matched with itself it shows by how much.
    offsets -= _best_offsets(_volume(patches, patches, layer.reach), layer.reach)[0]
    return -layer.spatial_stride * offsets[..., ::-1], similarity


def _volume(base: Tensor, search: Tensor, reach: int) -> NDArray[np.float32]:
    """Similarity of each position to those around it, float32 [K, K, L, H, W]; -2 outside of the frame."""
    size = 2 * reach + 1
    volume = correlation(base, search, kernel_size=size)[0] * base.shape[1]
    inside = torch.ones_like(base[:, :1, :1])
    volume = torch.where(correlation(inside, inside, kernel_size=size)[0] > 0, volume, _OUTSIDE)
    found: NDArray[np.float32] = volume.unflatten(0, (size, size)).cpu().numpy()
    return found


def _best_offsets(volume: NDArray[np.float32], reach: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the steps down and to the right to the best match [L, H, W, 2], and its similarity [L, H, W]."""
    steps = nearest_first(reach)
    scores = volume[steps[:, 0] + reach, steps[:, 1] + reach]
    best = np.round(scores, 3).argmax(axis=0)  # the first, and so the nearest, of equals
    similarity = np.take_along_axis(scores, best[None], axis=0)[0]
    whole = steps[best]
    offsets = whole.astype(np.float32)
    for axis in (0, 1):
        low, high = (_neighbors(volume, whole, reach, axis, side) for side in (-1, 1))
        curvature = low - 2 * similarity + high
        is_peak = (low > _OUTSIDE) & (high > _OUTSIDE) & (curvature < -1e-6)
        shift = np.divide(low - high, 2 * curvature, out=np.zeros_like(low), where=is_peak)
        offsets[..., axis] += shift.clip(-0.5, 0.5)
    return offsets, similarity


def _neighbors(
    volume: NDArray[np.float32], steps: NDArray[np.int64], reach: int, axis: int, side: int
) -> NDArray[np.float32]:
    """Similarity one step beside the given ones; that of outside where the window ends."""
    places = steps + reach
    places[..., axis] += side
    inside = (places[..., axis] >= 0) & (places[..., axis] <= 2 * reach)
    rows, columns = np.moveaxis(places.clip(0, 2 * reach), -1, 0)
    found = volume[rows, columns, *np.indices(rows.shape)]
    return np.where(inside, found, np.float32(_OUTSIDE))


def _descriptors(features: Tensor) -> Tensor:
    """Patches around every position of [C, L, H, W] with mean 0 in each channel and norm 1, [1, C*P*P, L, H, W]."""
    size = features.shape[-2:]
    frames = F.pad(features.movedim(1, 0), [_PATCH // 2] * 4, mode="replicate")
    patches = F.unfold(frames, _PATCH).unflatten(1, (-1, _PATCH**2))  # [L, C, P*P, H*W]
    patches = (patches - patches.mean(dim=2, keepdim=True)).flatten(1, 2)
    norms = patches.norm(dim=1, keepdim=True)
    patches = torch.where(norms > _FLAT * norms.mean(), patches / norms.clamp_min(1e-12), 0.0)
    vectors: Tensor = patches.unflatten(-1, size).movedim(0, 1)[None]
    return vectors
