"""The GPU's kernel gives the bits that plain operations give: in Triton's interpreter where there is no GPU."""

import os

import numpy as np
import pytest
import torch

from video_data.media.planes import PlaneLayout, YuvClips, convert, join_planes

pytest.importorskip("triton")
pytestmark = pytest.mark.slow  # in the interpreter
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU, and Triton was imported without its interpreter", allow_module_level=True)
BOXES = [(4, 6), (12, 10), (8, 8)]  # height and width: smaller than clips, larger, equal


def random_clips(boxes: list[tuple[int, int]], size: int, num_frames: int) -> YuvClips:
    """A clip for each box, flipped or not, of both ranges, and one row without a clip at the end."""
    rng = np.random.default_rng(0)
    parts = []
    for row, ((height, width), weights) in enumerate(
        zip(boxes, [(0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)], strict=False)
    ):
        clips = ((row, tuple(rng.integers(0, 2, num_frames).tolist())),)
        layout = PlaneLayout(2, height, width, weights, full_range=row == 1, flip=row != 1, clips=clips)
        parts.append((layout, rng.integers(0, 256, layout.num_bytes, dtype=np.uint8)))
    return join_planes(parts, shape=(len(boxes) + 1,), size=size, num_frames=num_frames)


@pytest.mark.parametrize(
    ("boxes", "size", "dtype"),
    [
        (BOXES, 8, torch.uint8),
        (BOXES, 8, torch.float16),
        (BOXES[:1], 33, torch.uint8),  # of six tiles
    ],
    ids=["uint8", "float16", "tiles"],
)
def test_kernel_and_plain_operations_give_the_same_bits(boxes, size, dtype):
    from video_data.media.planes_kernel import launch

    clips = random_clips(boxes, size, num_frames=1)
    expected = convert(clips, dtype, mean=114.75, scale=1 / 57)
    found = torch.empty(len(boxes) + 1, 1, size, size, 3, dtype=dtype, device=DEVICE)
    launch(clips.to(DEVICE), found, mean=114.75, scale=1 / 57)
    assert torch.equal(found.cpu().movedim(-1, 1), expected)
