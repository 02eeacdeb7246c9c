"""Numbers of workers, and the memory in which batches are handed over."""

import os

import pytest

from video_data import ClipConfig, PackOptions, open_shards, pack_folder, suggest_num_workers, train_loader
from video_data.utils import workers as workers_module
from video_data.utils.workers import available_cores

CLIP = ClipConfig(num_frames=4, crop_size=16, short_side=(20, 24))


@pytest.mark.parametrize(
    ("cores", "local_world_size", "expected"),
    [(1, 1, 1), (2, 1, 1), (8, 1, 7), (8, 2, 3), (64, 1, 16), (64, 8, 7), (4, 8, 1)],
)
def test_cores_are_shared_and_each_training_process_keeps_one(cores, local_world_size, expected, monkeypatch):
    monkeypatch.setattr(workers_module, "available_cores", lambda: cores)
    assert suggest_num_workers(local_world_size) == expected


def test_the_limits_of_the_process_and_of_its_container_count(tmp_path, monkeypatch):
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(workers_module, "_CGROUP_LIMIT", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert available_cores() == 12
    for text, cores in (("max 100000", 12), ("250000 100000", 3), ("50000 100000", 1), ("rubbish", 12)):
        limit.write_text(text)
        assert available_cores() == cores


def test_no_training_process_at_all_is_refused():
    with pytest.raises(ValueError, match="local_world_size must be at least 1, got 0"):
        suggest_num_workers(0)


@pytest.mark.parametrize("pixels", ["rgb", "yuv"])
def test_workers_hand_batches_over_in_shared_memory(pixels, class_folder, tmp_path):
    pack_folder(class_folder, tmp_path, options=PackOptions(mode="copy"), progress=False)
    loader = train_loader(
        open_shards(tmp_path), "train", CLIP, batch_size=8, seed=0, num_workers=1, pixels=pixels
    )
    for batch in loader:
        buffer = batch.video if pixels == "rgb" else batch.video.data
        assert buffer.is_shared()
        assert buffer.untyped_storage().nbytes() == buffer.nbytes
