"""How well ways to read motion off a correlation layer's features find the motion of moving textures.

    python -m bench.models.motion_fields

The layer is the first one of an untrained CorrNet-26 on 8 frames of 112x112: positions are 4 pixels wide, the window of
7 positions with dilation 2 reaches 24 pixels. Textures of three grains move as a whole; positions whose match may lie
outside of the frame are not counted.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from corrnet_models import create_model
from corrnet_train.analysis.correlation_layers import CorrelationLayer, correlation_layers, nearest_first
from corrnet_train.analysis.motion import _best_offsets, _descriptors, _inputs, _volume
from corrnet_train.inference.classifier import VideoClassifier
from video_data import ClipConfig

SIDE = 112
NUM_FRAMES = 8
GRAINS = (4, 8, 16)  # pixels
MOTIONS = (
    (0, 0),
    (1, 0),
    (-2, 0),
    (0, 3),
    (4, 0),
    (0, -5),
    (6, 0),
    (3, -7),
    (-8, 8),
)  # to the right and down
Fields = dict[str, NDArray[np.float32]]


def moving_texture(grain: int, motion: tuple[int, int]) -> Tensor:
    """A clip of a texture that moves as a whole, uint8 [1, 3, L, SIDE, SIDE]."""
    coarse = torch.rand(
        1, 3, 4 * SIDE // grain, 4 * SIDE // grain, generator=torch.Generator().manual_seed(grain)
    )
    wide = F.interpolate(coarse, size=2 * SIDE, mode="bicubic", align_corners=False)[0]
    pixels = (255 * wide).clamp(0, 255).to(torch.uint8)
    frames = [pixels.roll((motion[1] * i, motion[0] * i), dims=(1, 2)) for i in range(NUM_FRAMES)]
    middle = slice(SIDE // 2, SIDE // 2 + SIDE)
    return torch.stack(frames, dim=1)[None, ..., middle, middle]


def fields(features: Tensor, layer: CorrelationLayer) -> Fields:
    """Motion [L-1, H, W, 2] in pixels by each way."""
    reach, dilation = layer.reach, layer.module.dilation[0]
    patches = _descriptors(features[0])
    single = F.normalize(features - features.mean(dim=(2, 3, 4), keepdim=True), dim=1)
    matched, itself = _volume(patches, before(patches), reach), _volume(patches, patches, reach)
    refined = _best_offsets(matched, reach)[0]
    found = {
        "products of features, every offset": whole_steps(_volume(features, before(features), reach)),
        "single features of norm 1, every offset": whole_steps(_volume(single, before(single), reach)),
        "patches, the window's own offsets": dilation * whole_steps(matched[::dilation, ::dilation]),
        "patches, every offset": whole_steps(matched),
        "... refined by a parabola": refined,
        "... less the offset of the match with itself": refined - _best_offsets(itself, reach)[0],
    }
    return {name: -layer.spatial_stride * offsets[1:, ..., ::-1] for name, offsets in found.items()}


def before(x: Tensor) -> Tensor:
    """The frame before each frame of [N, C, L, H, W]; the first one is its own."""
    return x[:, :, [0, *range(x.shape[2] - 1)]]


def whole_steps(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Steps down and to the right to the largest value of [K, K, L, H, W], the nearest of equals."""
    reach = volume.shape[0] // 2
    steps = nearest_first(reach)
    scores = volume[steps[:, 0] + reach, steps[:, 1] + reach]
    return steps[np.round(scores, 3).argmax(axis=0)].astype(np.float32)


def main() -> None:
    torch.manual_seed(0)
    model = create_model("corrnet26", num_frames=NUM_FRAMES, num_classes=2)
    clip = ClipConfig(num_frames=NUM_FRAMES, crop_size=SIDE, short_side=(SIDE, SIDE))
    classifier = VideoClassifier(model, classes=["a", "b"], clip=clip, device=torch.device("cpu"))
    layer = correlation_layers(model)[0]
    errors: dict[str, list[NDArray[np.float32]]] = {}
    still: dict[str, list[float]] = {}
    inside = slice(layer.reach, -layer.reach)
    for grain in GRAINS:
        for motion in MOTIONS:
            features = _inputs(classifier, moving_texture(grain, motion), layer)
            for name, field in fields(features, layer).items():
                off = np.abs(field[:, inside, inside] - np.float32(motion)).max(axis=-1)
                errors.setdefault(name, []).append(off.reshape(-1))
                if motion == (0, 0):
                    still.setdefault(name, []).append(float(np.median(off)))
    print("| compared | median error, px | off by more than a position, % | median where nothing moves, px |")
    print("|---|--:|--:|--:|")
    for name, parts in errors.items():
        off = np.concatenate(parts)
        wrong = 100 * (off > layer.spatial_stride).mean()
        print(f"| {name} | {np.median(off):.2f} | {wrong:.1f} | {max(still[name]):.2f} |")


if __name__ == "__main__":
    main()
