"""Clips on a GPU: page-locked, converted to the bits of a CPU without the host waiting. Skipped without a GPU."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from video_data import ClipConfig, PackOptions, ShardSet, normalize, open_shards, pack_folder, train_loader
from video_data.media.planes import PlaneLayout, YuvClips, has_triton, join_planes, to_rgb

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or not has_triton(), reason="no GPU, or no Triton"
)
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def random_clips(size: int, *boxes: tuple[int, int], num_frames: int = 3) -> YuvClips:
    """A clip for each box of random planes, and a row without a clip."""
    rng = np.random.default_rng(0)
    parts = []
    for row, (height, width) in enumerate(boxes):
        clips = ((row, tuple(rng.integers(0, 2, num_frames).tolist())),)
        layout = PlaneLayout(2, height, width, full_range=row == 1, flip=row != 1, clips=clips)
        parts.append((layout, rng.integers(0, 256, layout.num_bytes, dtype=np.uint8)))
    return join_planes(parts, shape=(len(boxes) + 1,), size=size, num_frames=num_frames)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the GPU is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("size", [8, 50, 224])
def test_pictures_are_those_of_a_cpu(size: int) -> None:
    clips = random_clips(size, (4, 6), (100, 90), (224, 224), (540, 540))
    assert torch.equal(to_rgb(clips.to("cuda")).cpu(), to_rgb(clips))


@each_dtype
def test_normalized_clips_are_those_of_a_cpu(dtype: torch.dtype) -> None:
    clips = random_clips(50, (40, 60), (100, 90))
    found, expected = normalize(clips.to("cuda"), dtype), normalize(clips, dtype)
    assert found.dtype == dtype and found.stride() == expected.stride()
    assert torch.equal(found.cpu(), expected)
    video = to_rgb(clips)
    assert torch.equal(normalize(video.cuda(), dtype).cpu(), expected)


def test_one_copy_and_one_kernel_make_a_batch(no_waiting: None) -> None:
    normalize(
        random_clips(48, (64, 80)).pin_memory().to("cuda", non_blocking=True), torch.bfloat16
    )  # compiles
    clips = random_clips(48, (40, 60), (100, 90)).pin_memory()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as run:
        normalize(clips.to("cuda", non_blocking=True), torch.bfloat16)
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    on_device = [event.name for event in run.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    kernels = [name for name in on_device if not name.startswith(("Memcpy", "Memset"))]
    assert kernels == ["_convert"]
    assert sum(name.startswith("Memcpy HtoD") for name in on_device) == 1


@pytest.fixture
def shards(class_folder: Path, tmp_path: Path) -> ShardSet:
    pack_folder(class_folder, tmp_path, options=PackOptions(mode="copy"), progress=False)
    return open_shards(tmp_path)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("pixels", ["rgb", "yuv"])
def test_batches_are_page_locked_and_the_host_waits_for_none(pixels, num_workers, shards, no_waiting) -> None:
    clip = ClipConfig(num_frames=4, crop_size=16)
    options = {"batch_size": 4, "seed": 0, "num_workers": num_workers, "pixels": pixels}
    for batch in train_loader(shards, "train", clip, **options):
        held = batch.video if pixels == "rgb" else batch.video.data
        assert held.is_pinned() and batch.label.is_pinned()
        normalize(batch.video.to("cuda", non_blocking=True), torch.bfloat16, clip=clip)
        batch.label.to("cuda", non_blocking=True)
