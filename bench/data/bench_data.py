"""Reading clips and views, the loader, reads and packing, each beside its floor, on videos of 340x256 pixels.

`pytest --benchmark bench/data` takes one kind of video and seconds a case; with CORR_OPS_BENCHMARK=full all kinds.
Clips, views and overhead run on one core.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest
from torch.utils.data import DataLoader

from bench.data.contenders import CROP, NUM_FRAMES, SIZE, for_clips, for_views, random_clips, video
from bench.data.media import KINDS, write_videos
from bench.interleave import Contender, compare
from bench.ops.cases import FULL
from video_data import ClipConfig, PackOptions, ShardSet, open_shards, pack_folder, train_loader
from video_data.loading.train import _TrainDataset
from video_data.media.decode import decode_clips
from video_data.sampling.clips import train_clip
from video_data.sampling.order import SampleOrder, permutation
from video_data.utils.loader import batch_buffer

SECONDS = 10 if FULL else 2
CLIPS = 6  # read by one call
BATCH = 4
CLIP = ClipConfig(num_frames=32, crop_size=CROP)
by_kind = pytest.mark.parametrize("kind", list(KINDS) if FULL else ["H.264 GOP 12"])


@pytest.fixture
def one_core() -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder, num_videos=8, size=SIZE, num_frames=NUM_FRAMES)
    return folder


@pytest.fixture(scope="module")
def shards(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """64 samples in 4 shards: each video eight times under other names."""
    source = tmp_path_factory.mktemp("many")
    for path in videos.rglob("*.mp4"):
        for copy in range(8):
            target = source / path.parent.name / f"{path.stem}-{copy}.mp4"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(path, target)
    packed = tmp_path_factory.mktemp("shards")
    pack_folder(source, packed, options=PackOptions(mode="copy", shard_size=16), progress=False)
    return open_shards(packed)


def columns(table: str, kind: str, number: int, unit: str) -> dict[str, object]:
    """`number` things of `unit` are done by one call."""
    return {"table": table, "kind": kind, "number": number, "unit": unit, "av": av.__version__}


@by_kind
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_clips(benchmark, record, one_core, kind, stride):
    source = video(kind)
    floor, *others = for_clips(source, random_clips(source, stride, CLIPS))
    rows = compare(benchmark, floor, others, seconds=SECONDS)
    size = len(source.content) / NUM_FRAMES
    record(
        "data",
        [
            {**columns("clips", kind, CLIPS, "clip"), "stride": stride, "frame_bytes": size, **row}
            for row in rows
        ],
    )


@by_kind
def test_views(benchmark, record, one_core, kind):
    floor, *others = for_views(video(kind))
    rows = compare(benchmark, floor, others, seconds=SECONDS)
    record("data", [{**columns("views", kind, 1, "video"), **row} for row in rows])


def test_overhead(benchmark, record, one_core, shards):
    """The loader in this process beside the same reads and decodes with everything known beforehand."""
    order = SampleOrder(shards.shard_sizes("train"), seed=0)
    batches = 2
    plan = []
    for position in range(batches * BATCH):
        index = order(position)
        info, sample = shards.info("train", index), shards.sample("train", index)
        spec = train_clip(info, info.display_size, CLIP, seed=0, position=position)
        plan.append((index // 16, sample.offset, sample.size, info, spec))
    files = [os.open(shards.path / f"{entry.name}.tar", os.O_RDONLY) for entry in shards.manifest.shards]

    def bare() -> object:
        made = []
        for first in range(0, len(plan), BATCH):
            batch = batch_buffer(BATCH, CLIP.num_frames, CROP, CROP, 3)
            for row, (shard, offset, size, info, spec) in enumerate(plan[first : first + BATCH]):
                content = os.pread(files[shard], size, offset)
                out = batch[row].numpy()[None, None]
                decode_clips(content, info, [spec.frames], [spec.box], CROP, out=out)
            made.append(batch)
        return made

    def loader() -> object:
        options = {"batch_size": BATCH, "seed": 0, "num_samples": batches * BATCH}
        return list(train_loader(shards, "train", CLIP, **options))

    rows = compare(
        benchmark,
        Contender("bare recipe", bare, threads=1),
        [Contender("train_loader", loader, threads=1)],
        seconds=2 * SECONDS,
    )
    for file in files:
        os.close(file)
    record("data", [{**columns("overhead", "H.264 GOP 12", batches * BATCH, "clip"), **row} for row in rows])


def test_scaling(benchmark, record, shards):
    def read(num_workers: int) -> Callable[[], object]:
        options = {"batch_size": BATCH, "seed": 0, "num_samples": 64, "num_workers": num_workers}
        loader = train_loader(shards, "train", CLIP, **options)
        return lambda: sum(len(batch.keys) for batch in loader)

    none, *others = (Contender(f"{number} workers", read(number), threads=1) for number in (0, 1, 2))
    rows = compare(benchmark, none, others, seconds=2 * SECONDS)
    record("data", [{**columns("scaling", "H.264 GOP 12", 64, "clip"), **row} for row in rows])


def test_start(benchmark, record, shards):
    """From nothing to the first batch of two workers, of the server that they come from or forked from this process."""

    def of_server() -> object:
        return next(iter(train_loader(shards, "train", CLIP, batch_size=BATCH, seed=0, num_workers=2)))

    def forked() -> object:
        batches = [list(range(first, first + BATCH)) for first in (0, BATCH)]
        options = {"batch_size": None, "collate_fn": lambda batch: batch, "num_workers": 2}
        dataset = _TrainDataset(shards, "train", CLIP, 0, "rgb", 1)
        return next(iter(DataLoader(dataset, sampler=batches, multiprocessing_context="fork", **options)))

    of_server()  # starts the server
    rows = compare(
        benchmark,
        Contender("forked", forked, threads=1),
        [Contender("of the server", of_server, threads=1)],
        seconds=4 * SECONDS,
    )
    record("data", [{**columns("start", "H.264 GOP 12", BATCH, "clip"), **row} for row in rows])


def test_reads(benchmark, record, shards):
    """Read whole samples; the tars are dropped from the page cache before each pass."""
    num_samples = shards.num_samples("train")
    order = SampleOrder(shards.shard_sizes("train"), seed=0)
    orders = {
        "in the order of the tars": list(range(num_samples)),
        "in the order of training": [order(position) for position in range(num_samples)],
        "all samples shuffled": permutation(num_samples, 1).tolist(),
    }

    def read(indices: list[int]) -> Callable[[], object]:
        def call() -> None:
            for entry in shards.manifest.shards:
                with (shards.path / f"{entry.name}.tar").open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for index in indices:
                shards.read("train", index)

        return call

    first, *others = (Contender(name, read(indices), threads=1) for name, indices in orders.items())
    rows = compare(benchmark, first, others, seconds=SECONDS)
    size = sum(record.size for record in shards.samples("train")) / num_samples
    record(
        "data",
        [
            {**columns("reads", "H.264 GOP 12", num_samples, "sample"), "sample_bytes": size, **row}
            for row in rows
        ],
    )


def test_packing(benchmark, record, videos, tmp_path):
    def pack(**options: object) -> Callable[[], object]:
        chosen = PackOptions(overwrite=True, **options)
        return lambda: pack_folder(videos, tmp_path / str(options), options=chosen, progress=False)

    copy = Contender("copy", pack(mode="copy"), threads=1)
    others = [
        Contender("reencode, 1 process", pack(), threads=1),
        Contender("reencode, 2 processes", pack(num_workers=2), threads=1),
    ]
    rows = compare(benchmark, copy, others, seconds=2 * SECONDS)
    record("data", [{**columns("packing", "H.264 GOP 12", 8, "video"), **row} for row in rows])
