"""A run of real processes that are killed goes on exactly, also with other numbers of ranks and workers."""

import hashlib
import json

import pytest

from video_data import ClipConfig, LoaderState, PackOptions, open_shards, pack_folder, train_loader

CLIP = ClipConfig(num_frames=4, crop_size=16, short_side=(20, 24))
NUM_SAMPLES = 60  # two passes and a half

# One rank: a line for each batch, with the state to save after it.
RANK = """
import hashlib, json, signal, sys
from video_data import ClipConfig, LoaderState, open_shards, train_loader
path, options, saved = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
if __name__ == "__main__":
    shards = open_shards(path)
    clip = ClipConfig(num_frames=4, crop_size=16, short_side=(20, 24))
    expected = LoaderState(manifest_hash=shards.manifest_hash, split="train", seed=6, position=0)
    state = LoaderState.from_dict(saved, expected=expected) if saved else expected
    loader = train_loader(shards, "train", clip, seed=6, position=state.position, **options)
    for batch in loader:
        samples = [
            (position, key, hashlib.sha256(clip.contiguous().numpy().tobytes()).hexdigest())
            for position, key, clip in zip(batch.positions, batch.keys, batch.video)
        ]
        print(json.dumps([samples, loader.state.to_dict()]), flush=True)
    print("null", flush=True)
    signal.pause()
"""


def run_ranks(scripts, path, saved, *, world_size, num_workers, batch_size, stop_after):
    """Starts all ranks, kills them when each has handed out `stop_after` batches (None: all); returns what the
    ranks handed out together until then, and the state saved after it."""
    position = saved["position"] if saved else 0
    options = {
        "batch_size": batch_size,
        "num_workers": num_workers,
        "world_size": world_size,
        "num_samples": NUM_SAMPLES - position,
    }
    ranks = [
        scripts(RANK, path, json.dumps({**options, "rank": rank}), json.dumps(saved))
        for rank in range(world_size)
    ]
    samples, states = [], []
    for process in ranks:
        number = stop_after or -(-options["num_samples"] // (batch_size * world_size)) + 1
        lines = list(map(json.loads, process.wait_for_lines(number)))
        if stop_after is None:
            assert lines.pop() is None, "there are more batches"
        samples += [sample for batch, _ in lines for sample in batch]
        states.append(lines[-1][1])
    for process in ranks:
        process.kill()
    assert all(state == states[0] for state in states)
    return samples, states[0]


@pytest.mark.slow
def test_killed_processes_go_on_with_other_numbers_of_ranks_and_workers(class_folder, scripts, tmp_path):
    pack_folder(class_folder, tmp_path, options=PackOptions(shard_size=5), progress=False)
    expected = []
    for batch in train_loader(
        open_shards(tmp_path), "train", CLIP, batch_size=6, seed=6, num_samples=NUM_SAMPLES
    ):
        for position, key, clip in zip(batch.positions, batch.keys, batch.video, strict=True):
            expected.append([position, key, hashlib.sha256(clip.contiguous().numpy().tobytes()).hexdigest()])
    assert len(expected) == NUM_SAMPLES
    first, saved = run_ranks(scripts, tmp_path, None, world_size=2, num_workers=1, batch_size=4, stop_after=2)
    assert LoaderState.from_dict(saved).position == 16  # in the middle of the first pass
    second, saved = run_ranks(
        scripts, tmp_path, saved, world_size=3, num_workers=0, batch_size=3, stop_after=2
    )
    assert saved["position"] == 34  # in the middle of the second
    last, saved = run_ranks(
        scripts, tmp_path, saved, world_size=1, num_workers=2, batch_size=2, stop_after=None
    )
    assert saved["position"] == NUM_SAMPLES
    assert sorted(first + second + last) == expected
