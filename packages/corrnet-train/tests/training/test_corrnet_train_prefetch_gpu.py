"""Batches on the device: on a GPU they arrive by a stream of their own, without the host waiting."""

import numpy as np
import pytest
import torch

from corrnet_train.training.prefetch import Prefetcher
from video_data import Batch, normalize
from video_data.media.planes import PlaneLayout, YuvClips, has_triton, join_planes


def planes(seed: int, size: int) -> YuvClips:
    layout = PlaneLayout(2, size, size, clips=((0, (0, 1)),))
    part = np.random.default_rng(seed).integers(0, 256, layout.num_bytes, dtype=np.uint8)
    return join_planes([(layout, part)], shape=(1,), size=16, num_frames=2)


def batch(number: int) -> Batch:
    made = Batch(planes(number, 16 + 2 * number), torch.tensor([number]), [str(number)], [number], [])
    return made.pin_memory() if torch.cuda.is_available() else made


def test_a_cpu_gets_batches_as_they_are():
    batches = [batch(number) for number in range(3)]
    prefetcher = Prefetcher(batches, torch.device("cpu"))
    for given, found in zip(batches, prefetcher, strict=True):
        assert found.video is given.video and found.label is given.label and found.keys == given.keys
    assert prefetcher.waited >= 0


@pytest.mark.skipif(not torch.cuda.is_available() or not has_triton(), reason="no GPU, or no Triton")
def test_a_gpu_gets_planes_and_labels_without_waiting():
    device = torch.device("cuda")
    expected = [normalize(batch(number).video) for number in range(8)]
    normalize(batch(0).video.to(device))  # compiles
    batches = [batch(number) for number in range(8)]
    torch.cuda.synchronize()
    torch.cuda._sleep(100_000_000)  # what is copied while the GPU works must not be overwritten
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [(normalize(item.video), item.label) for item in Prefetcher(batches, device)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for number, ((clips, label), wanted) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(clips.cpu(), wanted) and label.tolist() == [number]
