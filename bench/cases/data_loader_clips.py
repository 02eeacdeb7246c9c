"""The loader of training clips, decoding in this process, beside the bare decoding of the same frames."""

import atexit
import shutil
import tempfile
from pathlib import Path

import av

from video_data import ClipConfig, MotionBenchConfig, PackOptions, generate_motionbench, open_shards, pack_csv
from video_data import train_loader as load

SUITE, YARDSTICK = "data", "decoding with PyAV"


def make():
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    atexit.register(shutil.rmtree, folder)
    videos = MotionBenchConfig(num_train=4, num_val=0, num_test=0, size=192, num_frames=16)
    listing = generate_motionbench(folder / "videos", videos, progress=False)
    pack_csv(listing, folder / "shards", options=PackOptions(mode="copy"), progress=False)
    clip = ClipConfig(num_frames=16, crop_size=112)  # as long as the videos, so that all frames are decoded
    loader = load(open_shards(folder / "shards"), "train", clip, batch_size=4, seed=0)
    paths = sorted((folder / "videos").rglob("*.mp4"))

    def decode(path):
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            return sum(1 for _ in container.decode(video=0))

    assert [decode(path) for path in paths] == [16] * 4
    assert sum(len(batch.keys) for batch in loader) == 4
    return lambda: list(loader), lambda: [decode(path) for path in paths]
