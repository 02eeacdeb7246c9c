"""Loaders: the stream of training samples, exact resume, replacement of unreadable samples, test views."""

import importlib
import json
import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from video_data import (
    Batch,
    ClipConfig,
    LoaderState,
    PackOptions,
    VideoError,
    WorkError,
    decode_views,
    eval_loader,
    normalize,
    open_shards,
    pack_folder,
    train_loader,
)
from video_data.loading.views import decode_timed_views
from video_data.media.container import probe_video
from video_data.media.planes import to_rgb
from video_data.sampling.order import SampleOrder
from video_data.utils.error_budget import allowed_errors

CLIP = ClipConfig(num_frames=4, crop_size=16, short_side=(20, 24))
WHOLE = ClipConfig(num_frames=4, crop_size=64, short_side=(64, 64))


@pytest.fixture(scope="module")
def shard_path(class_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("shards")
    pack_folder(class_folder, path, options=PackOptions(shard_size=5), progress=False)
    return path


@pytest.fixture
def shards(shard_path):
    return open_shards(shard_path)


@pytest.fixture
def damaged_shards(class_folder, tmp_path):
    """Shards in which the bytes of two videos are overwritten after packing."""
    pack_folder(class_folder, tmp_path, options=PackOptions(shard_size=5), progress=False)
    broken = []
    for index in (3, 17):
        shards = open_shards(tmp_path)
        record = shards.sample("train", index)
        path = tmp_path / f"train-{index // 5:06d}.tar"
        with path.open("r+b") as file:
            file.seek(record.offset)
            file.write(bytes(record.size))
        broken.append(record.key)
    return open_shards(tmp_path), broken


def collect(loader) -> tuple[list[int], list[str], Tensor]:
    batches = list(loader)
    positions = [position for batch in batches for position in batch.positions]
    keys = [key for batch in batches for key in batch.keys]
    return positions, keys, torch.cat([batch.video for batch in batches])


def test_repeated_samples_stand_in_a_row_and_are_cut_anew_for_any_number_of_ranks(shards):
    options = {"seed": 5, "repeats": 2}
    plain = collect(train_loader(shards, "train", CLIP, batch_size=4, seed=5))[1]
    positions, keys, video = collect(train_loader(shards, "train", CLIP, batch_size=4, **options))
    assert len(positions) == 2 * len(plain)
    assert keys[::2] == keys[1::2] == plain
    assert any(not torch.equal(a, b) for a, b in zip(video[::2], video[1::2], strict=True))
    halves = [
        collect(train_loader(shards, "train", CLIP, batch_size=2, rank=rank, world_size=2, **options))
        for rank in (0, 1)
    ]
    together = {p: clip for half in halves for p, clip in zip(half[0], half[2], strict=True)}
    assert sorted(together) == positions
    assert all(torch.equal(together[p], clip) for p, clip in zip(positions, video, strict=True))
    with pytest.raises(
        ValueError, match=r"repeats must divide the batch of a rank.*repeats=3 with batch_size=4"
    ):
        train_loader(shards, "train", CLIP, batch_size=4, seed=5, repeats=3)


def numbers(video: Tensor, frame_numbers) -> list[int]:
    """Painted numbers of a clip [3, L, H, W]."""
    return frame_numbers(video.movedim(0, -1).numpy())


def test_a_batch_holds_clips_in_channels_last_memory(shards):
    loader = train_loader(shards, "train", CLIP, batch_size=3, seed=0)
    assert len(loader) == 8
    batch = next(iter(loader))
    assert isinstance(batch, Batch)
    assert batch.video.shape == (3, 3, 4, 16, 16)
    assert batch.video.dtype == torch.uint8
    assert batch.video.is_contiguous(memory_format=torch.channels_last_3d)
    assert batch.label.dtype == torch.int64
    labels = {record.key: record.label for record in shards.samples("train")}
    assert batch.label.tolist() == [labels[key] for key in batch.keys]
    assert batch.positions == [0, 1, 2]


def test_the_state_counts_the_samples_of_all_ranks(shards):
    loader = train_loader(
        shards, "train", CLIP, batch_size=3, seed=0, rank=1, world_size=2, position=5, num_samples=18
    )
    assert [(batch.positions, loader.state.position) for batch in loader] == [
        ([8, 9, 10], 11),
        ([14, 15, 16], 17),
        ([20, 21, 22], 23),
    ]


def test_one_pass_uses_every_sample_once_and_the_next_another_order(shards):
    _, keys, _ = collect(train_loader(shards, "train", CLIP, batch_size=4, seed=0, num_samples=48))
    order = SampleOrder(shards.shard_sizes("train"), seed=0)  # its tests show that it shuffles
    assert keys == [shards.sample("train", order(position)).key for position in range(48)]
    assert set(Counter(keys[:24]).values()) == {1}
    assert set(Counter(keys).values()) == {2}
    assert keys[:24] != keys[24:]


def test_clips_are_frames_in_a_row_of_the_video_named_by_the_key(shards, frame_numbers):
    sources = {record.key: int(record.source.split()[-1].split(".")[0]) for record in shards.samples("train")}
    starts = set()
    for batch in train_loader(shards, "train", WHOLE, batch_size=8, seed=0, num_samples=72):
        for key, video in zip(batch.keys, batch.video, strict=True):
            shown = numbers(video, frame_numbers)
            start = shown[0] - 8 * sources[key]
            assert 0 <= start <= 4
            assert shown == list(range(shown[0], shown[0] + 4))
            starts.add(start)
    assert starts == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_stream_does_not_depend_on_ranks_and_workers(world_size, num_workers, shards):
    expected = collect(train_loader(shards, "train", CLIP, batch_size=6, seed=5, num_samples=60))
    merged: list[tuple[int, str, Tensor]] = []
    for rank in range(world_size):
        loader = train_loader(
            shards,
            "train",
            CLIP,
            batch_size=6 // world_size,
            seed=5,
            num_workers=num_workers,
            rank=rank,
            world_size=world_size,
            num_samples=60,
        )
        positions, keys, video = collect(loader)
        merged += zip(positions, keys, video, strict=True)
    merged.sort(key=lambda sample: sample[0])
    assert [position for position, _, _ in merged] == expected[0] == list(range(60))
    assert [key for _, key, _ in merged] == expected[1]
    assert torch.equal(torch.stack([video for _, _, video in merged]), expected[2])


@pytest.fixture(scope="module")
def unequal(make_video, tmp_path_factory):
    """Ten videos of one class and two of another."""
    folder = tmp_path_factory.mktemp("unequal")
    for number in range(12):
        path = folder / "videos" / ("often" if number < 10 else "rare") / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_video(range(number, number + 6)))
    pack_folder(folder / "videos", folder / "shards", options=PackOptions(shard_size=3), progress=False)
    return open_shards(folder / "shards")


@pytest.mark.parametrize(("world_size", "num_workers"), [(2, 0), (1, 2)])
def test_in_balanced_batches_classes_come_equally_often_for_any_number_of_ranks_and_workers(
    world_size, num_workers, unequal
):
    assert unequal.class_sizes("train") == [10, 2]
    options = {"seed": 5, "num_samples": 60, "balanced": True}
    whole = list(train_loader(unequal, "train", CLIP, batch_size=6, **options))
    assert all(batch.label.sum() == 3 for batch in whole)
    loaders = [
        train_loader(
            unequal, "train", CLIP, batch_size=6 // world_size, rank=rank, world_size=world_size,
            num_workers=num_workers, **options,
        )
        for rank in range(world_size)
    ]  # fmt: skip
    for batch, *parts in zip(whole, *loaders, strict=True):
        assert batch.keys == [key for part in parts for key in part.keys]
        assert torch.equal(batch.video, torch.cat([part.video for part in parts]))
    rest = train_loader(unequal, "train", CLIP, batch_size=6, position=18, **(options | {"num_samples": 42}))
    assert [batch.keys for batch in rest] == [batch.keys for batch in whole[3:]]
    assert len(train_loader(unequal, "train", CLIP, batch_size=6, seed=0, balanced=True)) == 2  # one pass


JITTER = """
import random
import numpy as np
import torch

def jitter(clip):
    assert clip.dtype == torch.uint8 and clip.shape[1] == 3  # [L, C, H, W]
    shift = int(torch.randint(256, ())) + int(np.random.randint(256)) + random.randrange(256)
    return (clip.flip(0).int() + shift + 50 * torch.arange(3)[:, None, None]).to(torch.uint8)
"""


@pytest.fixture
def jitter(tmp_path, monkeypatch):
    """A transform that draws from all generators of random numbers, and that workers can import."""
    (tmp_path / "jitters.py").write_text(JITTER)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("jitters").jitter


def test_a_transform_changes_clips_in_the_workers_and_repeats_itself(jitter, shards):
    options = {"batch_size": 6, "seed": 5, "num_samples": 60}
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    plain, changed = (
        list(train_loader(shards, "train", CLIP, transform=t, **options)) for t in (None, jitter)
    )
    drawn = random.random(), np.random.random(), float(torch.rand(()))
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    assert drawn == (
        random.random(),
        np.random.random(),
        float(torch.rand(())),
    )  # the generators are left alone
    shifts = set()
    for before, after in zip(plain, changed, strict=True):
        for one, other in zip(before.video, after.video, strict=True):
            difference = other.int() - one.flip(1).int()
            shifts.add(int(difference[0, 0, 0, 0]) % 256)
            assert ((difference - difference[0] - 50 * torch.arange(3)[:, None, None, None]) % 256 == 0).all()
            assert len(set((difference[0] % 256).flatten().tolist())) == 1
    assert len(shifts) > 30
    for more in ({"num_workers": 2}, {"position": 30, "num_samples": 30}):
        again = list(train_loader(shards, "train", CLIP, transform=jitter, **(options | more)))
        for ours, theirs in zip(again, changed[-len(again) :], strict=True):
            assert torch.equal(ours.video, theirs.video)
    assert changed[0].video.permute(0, 2, 3, 4, 1).is_contiguous()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": lambda clip: clip, "pixels": "yuv"}, "transform takes pixels 'rgb', got 'yuv'"),
        ({"transform": lambda clip: clip, "num_workers": 1}, "cannot be sent to decoding processes"),
        (
            {"transform": lambda clip: clip.float()},
            r"must return uint8 \[4, 3, 16, 16\].*; got torch.float32",
        ),
        ({"transform": lambda clip: clip[:2]}, r"got torch.uint8 \[2, 3, 16, 16\]"),
        ({"transform": lambda clip: None}, "got NoneType"),
    ],
)
def test_a_transform_that_does_not_fit_is_refused(options, message, shards):
    with pytest.raises(ValueError, match=message):
        next(iter(train_loader(shards, "train", CLIP, batch_size=2, seed=0, **options)))


def test_batches_unpack_into_clips_and_labels(shards):
    for clips, labels in train_loader(shards, "train", CLIP, batch_size=6, seed=0):
        assert clips.shape[:2] == (6, 3) and labels.dtype == torch.int64
    loader = eval_loader(shards, "train", CLIP, num_clips=2, batch_size=5, num_workers=1)
    for batch in loader:
        views, labels = batch
        assert views is batch.video and labels is batch.label and views.shape[:3] == (len(labels), 2, 3)


def test_workers_read_a_set_of_which_this_process_has_files_open(shards):
    expected = collect(train_loader(shards, "train", CLIP, batch_size=8, seed=1))
    shards.read("train", 0)
    got = collect(train_loader(shards, "train", CLIP, batch_size=8, seed=1, num_workers=1))
    assert got[:2] == expected[:2]
    assert torch.equal(got[2], expected[2])


def test_a_run_resumes_in_the_middle_of_a_pass(shards):
    positions, keys, video = collect(
        train_loader(shards, "train", CLIP, batch_size=4, seed=2, num_samples=40)
    )
    loader = train_loader(shards, "train", CLIP, batch_size=4, seed=2, num_workers=2, num_samples=40)
    for number, _ in enumerate(loader, start=1):
        if number == 3:
            break
    saved = json.loads(json.dumps(loader.state.to_dict()))
    state = LoaderState.from_dict(saved, expected=loader.state)
    assert state.position == 12
    # The rest is read with other numbers of ranks, workers and samples a batch.
    rest = [
        collect(
            train_loader(
                shards,
                "train",
                CLIP,
                batch_size=7,
                seed=2,
                position=state.position,
                num_samples=28,
                rank=rank,
                world_size=2,
            )
        )
        for rank in range(2)
    ]
    joined = sorted(
        sample
        for part in rest
        for sample in zip(part[0], part[1], [v.sum().item() for v in part[2]], strict=True)
    )
    assert [sample[0] for sample in joined] == positions[12:]
    assert [sample[1] for sample in joined] == keys[12:]
    assert [sample[2] for sample in joined] == [v.sum().item() for v in video[12:]]


def test_iterating_again_goes_on_with_the_same_workers(shards):
    expected = collect(train_loader(shards, "train", CLIP, batch_size=4, seed=2, num_samples=36))
    loader = train_loader(shards, "train", CLIP, batch_size=4, seed=2, num_workers=1, num_samples=12)
    parts = [collect(loader) for _ in range(3)]
    assert [p for part in parts for p in part[0]] == expected[0]
    assert [k for part in parts for k in part[1]] == expected[1]
    assert torch.equal(torch.cat([part[2] for part in parts]), expected[2])
    assert loader.state.position == 36


def test_seeds_change_order_and_crops(shards):
    one = collect(train_loader(shards, "train", CLIP, batch_size=24, seed=0))
    two = collect(train_loader(shards, "train", CLIP, batch_size=24, seed=1))
    assert one[1] != two[1]
    assert sorted(one[1]) == sorted(two[1])


def test_the_number_of_samples_is_rounded_up_to_whole_global_batches(shards):
    loader = train_loader(shards, "train", CLIP, batch_size=5, seed=0, rank=1, world_size=2, num_samples=11)
    assert len(loader) == 2
    assert [batch.positions for batch in loader] == [[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]]
    assert len(train_loader(shards, "train", CLIP, batch_size=5, seed=0, num_samples=0)) == 0


def test_mirroring_reverses_the_columns(shards):
    mirrored = CLIP.model_copy(update={"flip": True})
    plain = collect(train_loader(shards, "train", CLIP, batch_size=24, seed=0))
    flipped = collect(train_loader(shards, "train", mirrored, batch_size=24, seed=0))
    same = [torch.equal(a, b) for a, b in zip(plain[2], flipped[2], strict=True)]
    turned = [torch.equal(a.flip(-1), b) for a, b in zip(plain[2], flipped[2], strict=True)]
    assert all(a or b for a, b in zip(same, turned, strict=True))
    assert 4 <= sum(turned) <= 20


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_unreadable_sample_is_replaced_by_the_next_in_the_order(num_workers, damaged_shards):
    shards, broken = damaged_shards
    loader = train_loader(
        shards, "train", CLIP, batch_size=4, seed=0, num_workers=num_workers, error_budget=0.1
    )
    batches = list(loader)
    replaced = [key for batch in batches for key, _, _ in batch.replaced]
    assert sorted(replaced) == sorted(broken)
    assert loader.replaced.total() == 2
    keys = [key for batch in batches for key in batch.keys]
    assert not set(broken) & set(keys)
    records = list(shards.samples("train"))
    order = SampleOrder(shards.shard_sizes("train"), seed=0)
    expected = [records[order(position)].key for position in range(24)]
    for position, key in enumerate(expected):
        assert keys[position] == (key if key not in broken else expected[(position + 1) % 24])


def test_too_many_unreadable_samples_stop_the_run(damaged_shards):
    shards, broken = damaged_shards
    loader = train_loader(shards, "train", CLIP, batch_size=4, seed=0, error_budget=0.05)
    with pytest.raises(
        RuntimeError, match=r"2 samples could not be read, the error budget allows 1 .* x "
    ) as error:
        list(loader)
    assert any(key in str(error.value) for key in broken)


def test_a_small_set_may_have_a_few_unreadable_videos(damaged_shards):
    """2 of 24 are damaged: more than one in a hundred, but no reason to end a training."""
    shards, broken = damaged_shards
    loader = train_loader(shards, "train", CLIP, batch_size=4, seed=0)
    assert sum(len(batch.replaced) for batch in loader) == len(broken) == 2
    with pytest.raises(WorkError, match=r"1 samples could not be read, the error budget allows 0 .* larger"):
        list(train_loader(shards, "train", CLIP, batch_size=4, seed=0, error_budget=0))


@pytest.mark.parametrize(
    ("error_budget", "num_samples", "num_videos", "repeats", "allowed"),
    [
        (None, 40, 40, 1, 5),  # one pass over a small set
        (None, 4000, 40, 1, 500),  # a hundred passes: 5 in each
        (None, 5, 40, 1, 5),  # a process of eight
        (None, 160, 40, 4, 20),
        (None, 10_000, 10_000, 1, 100),
        (0, 40, 40, 1, 0),
        (0.5, 40, 40, 1, 20),
    ],
)
def test_how_many_samples_may_be_unreadable(error_budget, num_samples, num_videos, repeats, allowed):
    found = allowed_errors(error_budget, num_samples, num_videos=num_videos, repeats=repeats)
    assert found == pytest.approx(allowed)


def test_changed_bytes_are_found_when_reads_are_verified(shard_path, tmp_path, class_folder):
    pack_folder(class_folder, tmp_path, options=PackOptions(mode="copy"), progress=False)
    record = open_shards(tmp_path).sample("train", 0)
    with (tmp_path / "train-000000.tar").open("r+b") as file:
        file.seek(record.offset + record.size - 1)
        last = file.read(1)
        file.seek(record.offset + record.size - 1)
        file.write(bytes([last[0] ^ 1]))
    assert len(open_shards(tmp_path).read("train", 0)) == record.size  # not unless asked for
    loader = train_loader(
        open_shards(tmp_path, verify=True), "train", CLIP, batch_size=24, seed=0, error_budget=1
    )
    (batch,) = list(loader)
    assert [key for key, _, _ in batch.replaced] == [record.key]
    assert "hash" in batch.replaced[0].reason


def test_a_set_without_any_readable_sample_ends_with_an_error(class_folder, tmp_path):
    pack_folder(class_folder, tmp_path, options=PackOptions(mode="copy"), progress=False)
    tar = tmp_path / "train-000000.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(RuntimeError, match="24 samples in a row could not be read"):
        list(train_loader(open_shards(tmp_path), "train", CLIP, batch_size=1, seed=0, error_budget=1))


def test_a_state_of_another_run_is_refused(shards):
    state = LoaderState(manifest_hash=shards.manifest_hash, split="train", seed=3, position=8)
    assert LoaderState.from_dict(state.to_dict()) == state
    assert state.advance(4).position == 12
    for change in ({"manifest_hash": "0" * 64}, {"seed": 4}, {"split": "val"}, {"balanced": True}):
        with pytest.raises(ValueError, match=next(iter(change))):
            LoaderState.from_dict(state.to_dict(), expected=state.model_copy(update=change))
    with pytest.raises(ValueError, match="position"):
        LoaderState.from_dict({**state.to_dict(), "position": -1})


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"num_workers": -1},
        {"rank": 2, "world_size": 2},
        {"position": -1},
        {"error_budget": 1.5},
        {"num_samples": -1},
    ],
)
def test_numbers_out_of_range_are_refused(options, shards):
    with pytest.raises(ValueError, match=next(iter(options))):
        train_loader(shards, "train", CLIP, **{"batch_size": 2, "seed": 0, **options})


def test_an_open_set_travels_to_other_processes(shards):
    shards.read("train", 7)
    copy = pickle.loads(pickle.dumps(shards))
    assert copy.read("train", 7) == shards.read("train", 7)
    assert copy.manifest_hash == shards.manifest_hash


@pytest.mark.parametrize("world_size", [1, 2, 5])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_video_is_tested_once(world_size, num_workers, shards):
    seen: list[int] = []
    lengths = set()
    for rank in range(world_size):
        loader = eval_loader(
            shards,
            "train",
            CLIP,
            num_clips=2,
            batch_size=3,
            num_workers=num_workers,
            rank=rank,
            world_size=world_size,
        )
        batches = list(loader)
        assert len(batches) == len(loader)
        lengths.add(tuple(len(batch.keys) for batch in batches))
        for batch in batches:
            assert batch.video.shape[1:] == (2, 3, 4, 16, 16)
            for row in range(len(batch.keys)):
                index = int(batch.index[row])
                if batch.valid[row]:
                    record = shards.sample("train", index)
                    assert (batch.keys[row], int(batch.label[row])) == (record.key, record.label)
                    seen.append(index)
                else:
                    assert (batch.keys[row], int(batch.label[row]), index) == ("", -1, -1)
    assert sorted(seen) == list(range(24))
    assert len(lengths) == 1


@pytest.mark.parametrize(("first", "world_size"), [(0, 1), (3, 1), (3, 2), (5, 4)])
def test_testing_goes_on_from_a_video(first, world_size, shards):
    num_videos = shards.num_samples("train")
    options = {"num_clips": 1, "batch_size": 2, "world_size": world_size, "first": first}
    loaders = [eval_loader(shards, "train", CLIP, rank=rank, **options) for rank in range(world_size)]
    assert len({len(loader) for loader in loaders}) == 1
    indices = [index for loader in loaders for batch in loader for index in batch.index[batch.valid].tolist()]
    assert sorted(indices) == list(range(first, num_videos))
    assert list(eval_loader(shards, "train", CLIP, first=num_videos)) == []
    with pytest.raises(
        ValueError, match=rf"first must be from 0 to the {num_videos} videos of split train, got -1"
    ):
        eval_loader(shards, "train", CLIP, first=-1)


def test_views_say_where_they_begin(shards):
    batch = next(iter(eval_loader(shards, "train", CLIP, num_clips=3, batch_size=2)))
    for row, starts in enumerate(batch.starts):
        info = shards.info("train", row)
        content = shards.read("train", row)
        assert torch.equal(decode_timed_views(content, CLIP, 3)[0], batch.video[row])
        assert decode_timed_views(content, CLIP, 3)[1] == starts
        assert starts[0] == (0, 0.0) and starts[-1].frame == info.num_frames - CLIP.span
        for start in starts:
            assert start.seconds == pytest.approx(
                float((info.pts[start.frame] - info.pts[0]) * info.time_base)
            )


def test_views_are_uniformly_spaced_clips(make_video, frame_numbers):
    views = decode_views(make_video(range(40)), WHOLE, 4)
    assert views.shape == (4, 3, 4, 64, 64)
    assert [numbers(view, frame_numbers) for view in views] == [
        [0, 1, 2, 3],
        [12, 13, 14, 15],
        [24, 25, 26, 27],
        [36, 37, 38, 39],
    ]


def test_views_of_a_short_video_repeat_its_frames(make_video, frame_numbers):
    views = decode_views(make_video([7, 9, 12]), WHOLE, 2)
    assert [numbers(view, frame_numbers) for view in views] == [[7, 7, 9, 9], [9, 9, 12, 12]]
    assert numbers(decode_views(make_video([5]), WHOLE, 1)[0], frame_numbers) == [5, 5, 5, 5]


def test_three_crops_follow_each_clip(make_video):
    clip = ClipConfig(num_frames=2, crop_size=32, short_side=(32, 32))
    video = make_video([0b11110000] * 6, size=(128, 32))
    views = decode_views(video, clip, 2, num_crops=3)
    assert views.shape == (6, 3, 2, 32, 32)
    means = views.float().mean(dim=(1, 2, 3, 4)).tolist()
    assert means[0] > 200 and means[2] < 50 and 80 < means[1] < 180
    assert means[3:] == pytest.approx(means[:3], abs=2)


def test_predicting_a_file_sees_what_testing_sees(shards, tmp_path):
    batch = next(iter(eval_loader(shards, "train", CLIP, num_clips=3, batch_size=2)))
    for row in range(2):
        content = shards.read("train", row)
        path = tmp_path / f"{row}.mp4"
        path.write_bytes(content)
        assert torch.equal(decode_views(content, CLIP, 3), batch.video[row])
        assert torch.equal(decode_views(path, CLIP, 3), batch.video[row])


def test_an_unreadable_file_is_named(tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"nothing")
    with pytest.raises(VideoError, match=r"broken\.mp4: no video in a known container"):
        decode_views(path, CLIP, 1)
    with pytest.raises(VideoError, match=r"none\.mp4: FileNotFoundError"):
        decode_views(tmp_path / "none.mp4", CLIP, 1)
    with pytest.raises(ValueError, match="num_clips"):
        decode_views(b"", CLIP, 0)
    with pytest.raises(ValueError, match="num_crops must be 1 or 3"):
        decode_views(b"", CLIP, 1, num_crops=2)


def test_an_unreadable_test_video_stops_the_test(damaged_shards):
    shards, broken = damaged_shards
    with pytest.raises(RuntimeError, match=broken[0]):
        list(eval_loader(shards, "train", CLIP, num_clips=1))


@pytest.mark.parametrize("pixels", ["rgb", "yuv"])
def test_an_unreadable_test_video_may_be_left_out_and_is_named(pixels, damaged_shards):
    shards, _ = damaged_shards
    options = {"num_clips": 1, "batch_size": 5, "skip_unreadable": True, "pixels": pixels}
    batches = list(eval_loader(shards, "train", CLIP, **options))
    found = [entry for batch in batches for entry in batch.unreadable]
    records = [shards.sample("train", index) for index in (3, 17)]
    assert [(entry.number, entry.key, entry.source) for entry in found] == [
        (3, records[0].key, records[0].source),
        (17, records[1].key, records[1].source),
    ]
    assert {(entry.reason, entry.message) for entry in found} == {
        ("nothing but zeros: it was not copied or downloaded to its end",) * 2
    }
    valid = torch.cat([batch.valid for batch in batches])
    assert [row for row, is_valid in enumerate(valid) if not is_valid] == [3, 17]
    row = batches[0]
    assert (row.keys[3], row.starts[3], int(row.label[3]), int(row.index[3])) == ("", [], -1, -1)
    video = row.video if pixels == "rgb" else to_rgb(row.video)
    assert not video[3].any() and video[2].any()


def test_a_sample_whose_index_is_damaged_is_named_by_its_number(class_folder, tmp_path):
    pack_folder(class_folder, tmp_path, options=PackOptions(mode="copy", shard_size=5), progress=False)
    (tmp_path / "train-000001.json").write_text("{}")
    shards = open_shards(tmp_path)
    (batch,) = eval_loader(shards, "train", CLIP, num_clips=1, batch_size=24, skip_unreadable=True)
    reason = "an index does not have the hash in the manifest"
    found = [(entry.number, entry.key, entry.source, entry.reason) for entry in batch.unreadable]
    assert found == [(number, f"train/{number}", "", reason) for number in range(5, 10)]
    (batch,) = train_loader(shards, "train", CLIP, batch_size=24, seed=0, error_budget=1)
    assert {sample.key for sample in batch.replaced} == {f"train/{number}" for number in range(5, 10)}


def test_starts_are_counted_from_the_first_frame(make_video):
    video = make_video(range(20), container="mpegts", pts=[9000 + 40 * number for number in range(20)])
    assert probe_video(video).pts[0] > 0
    starts = decode_timed_views(video, CLIP, 3)[1]
    assert [start.frame for start in starts] == [0, 8, 16]
    assert [start.seconds for start in starts] == pytest.approx([0, 0.32, 0.64])


def test_normalize_scales_and_keeps_the_memory_layout():
    video = torch.arange(256, dtype=torch.uint8).reshape(1, 4, 8, 8, 1).expand(1, 4, 8, 8, 3).contiguous()
    video = video.movedim(-1, 1)
    result = normalize(video)
    assert result.dtype == torch.float32
    assert result.stride() == video.stride()
    torch.testing.assert_close(result, (video / 255 - 0.45) / 0.225)
    assert normalize(video, torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="uint8"):
        normalize(video.float())


def test_workers_send_small_tensors_by_value(shards, monkeypatch):
    """Each one in shared memory would cost the receiver a connection to the worker."""
    shared = []

    def reduce(tensor):
        shared.append(tensor)
        return reduce_tensor(tensor)

    monkeypatch.setitem(ForkingPickler._extra_reducers, Tensor, reduce)
    for loader in (
        train_loader(shards, "train", CLIP, batch_size=3, seed=0),
        eval_loader(shards, "train", CLIP),
    ):
        batch = next(iter(loader))
        got = pickle.loads(ForkingPickler.dumps(batch))
        assert len(shared) == 1 and shared.pop() is batch.video
        assert vars(got).keys() == vars(batch).keys()
        for name, value in vars(batch).items():
            same = (
                torch.equal(vars(got)[name], value) if isinstance(value, Tensor) else vars(got)[name] == value
            )
            assert same, name
        assert got.label.dtype == torch.int64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_pinning_keeps_the_memory_layout(shards):
    batch = next(iter(train_loader(shards, "train", CLIP, batch_size=2, seed=0))).pin_memory()
    assert batch.video.is_pinned() and batch.label.is_pinned()
    assert batch.video.is_contiguous(memory_format=torch.channels_last_3d)


def test_ctrl_c_reaches_the_main_process_alone(shard_path, tmp_path):
    """The whole process group gets the signal, as from a terminal; workers must not die of it."""
    script = tmp_path / "train.py"
    script.write_text(
        "import os, signal, sys\n"
        "from video_data import ClipConfig, open_shards, train_loader\n"
        "if __name__ == '__main__':\n"
        "    clip = ClipConfig(num_frames=4, crop_size=16, short_side=(20, 24))\n"
        "    shards = open_shards(sys.argv[1])\n"
        "    options = dict(batch_size=2, seed=0, num_workers=2, num_samples=200)\n"
        "    loader = train_loader(shards, 'train', clip, **options)\n"
        "    for number, batch in enumerate(loader):\n"
        "        if number == 10:\n"
        "            signal.signal(signal.SIGINT, lambda *_: None)\n"
        "            os.killpg(0, signal.SIGINT)\n"
        "    print('batches', number + 1)\n"
    )
    result = subprocess.run(
        [sys.executable, script, shard_path],
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=60,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.stdout == "batches 100\n", result.stderr
    assert result.returncode == 0
