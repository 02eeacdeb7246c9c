"""Checks of what training reads: the decoder and the shards."""

import time
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame

from corrnet_train.doctor.checkup import Context
from corrnet_train.doctor.finding import Finding, differences, failed, worst
from video_data import ClipConfig, VideoError, decode_views, open_shards, train_loader
from video_data.media.encode import encode_h264

_NUM_FRAMES, _SIDE = 16, 64
_MOST_OFF = 6  # gray levels; H.264 loses little of flat pictures
_SECONDS, _MOST_CLIPS = 2.0, 32  # of measuring the decoder
_SHARDS_PER_RANK = 3
_TRAIN = "train"


def decoder(context: Context) -> Finding:
    """Encodes a small video and decodes it again; with shards, measures how fast training clips are cut."""
    content = encode_h264(_gray_frames(), gop=4, crf=12)
    clip = ClipConfig(num_frames=_NUM_FRAMES, crop_size=32)
    (pixels,) = decode_views(content, clip, 1)
    shown = pixels.float().mean(dim=(0, 2, 3)).tolist()
    right = [_level(number) for number in range(_NUM_FRAMES)]
    off = max(abs(a - b) for a, b in zip(shown, right, strict=True))
    if off > _MOST_OFF:
        return failed(
            f"{_NUM_FRAMES} gray frames came back {off:.0f} of 255 levels off",
            "install the PyAV wheel of the package index: pip install --force-reinstall av",
            levels=shown,
        )
    text = "H.264 encoded and decoded"
    if context.options.shards is None:
        return Finding(result=f"{text}; speed is measured with --shards")
    if "shards" in context.broken:
        return Finding(result=f"{text}; speed not measured, the shards have failed")
    clips_per_second = _clips_per_second(context)
    clip = ClipConfig()
    decoding = max(1, context.options.num_workers) * context.ranks.world_size
    return Finding(
        result=f"{text}; one core decodes {clips_per_second * clip.num_frames:.0f} frames/s = "
        f"{clips_per_second:.1f} clips/s of {clip.num_frames} x {clip.crop_size} x {clip.crop_size}, "
        f"{decoding} decoding processes with a core each {clips_per_second * decoding:.0f} clips/s",
        figures={
            "clips_per_second": clips_per_second,
            "frames_per_second": clips_per_second * clip.num_frames,
        },
    )


def shards(context: Context) -> Finding:
    """Opens the shards (manifest, every file and its size) and decodes the first sample of a few of them."""
    assert context.options.shards is not None
    shard_set = open_shards(context.options.shards, verify=True)
    splits = {split: shard_set.num_samples(split) for split in shard_set.splits}
    figures = {
        "manifest": shard_set.manifest_hash,
        "samples": splits,
        "num_shards": len(shard_set.manifest.shards),
    }
    read = []
    for name in _chosen([shard.name for shard in shard_set.manifest.shards], context):
        split = next(shard.split for shard in shard_set.manifest.shards if shard.name == name)
        first = shard_set.shard_indices(name)[0]
        content = shard_set.read(split, first)
        try:
            decode_views(content, ClipConfig(num_frames=4, crop_size=64), 1)
        except VideoError as error:
            return failed(
                f"{name}: {shard_set.sample(split, first).key}: {error}", "corrnet verify", **figures
            )
        read.append(name)
    counts = ", ".join(f"{split} {number:,}" for split, number in splits.items())
    figures["read"] = read
    text = f"{counts} samples in {figures['num_shards']} shards; manifest {shard_set.manifest_hash[:12]}"
    return _enough(text, figures, context)


def same_shards(findings: Sequence[Finding], names: Sequence[str]) -> Finding:
    """All processes must read the same manifest."""
    text = differences(findings, names, "manifest")
    if text:
        return failed(
            text, "all machines must see the same shards: shared storage, or the same copy on each of them"
        )
    merged = worst(findings, names)
    number = len({name for finding in findings for name in finding.figures["read"]})
    return merged.model_copy(update={"result": f"{merged.result}; samples of {number} shards decoded"})


def _enough(text: str, figures: dict[str, object], context: Context) -> Finding:
    samples = figures["samples"]
    assert isinstance(samples, dict)
    num_ranks = context.ranks.world_size
    decoding = num_ranks * max(1, context.options.num_workers)
    if _TRAIN not in samples:
        return Finding(
            status="warning",
            result=f"{text}; no split {_TRAIN}",
            advice="name the split to train on: data.train_split",
            figures=figures,
        )
    if samples[_TRAIN] < num_ranks:
        return failed(
            f"{text}; {num_ranks} processes need at least a sample each", "start fewer processes", **figures
        )
    if samples[_TRAIN] < decoding:
        return Finding(
            status="warning",
            result=f"{text}; fewer samples than the {decoding} decoding processes",
            advice="fewer data.num_workers do as well",
            figures=figures,
        )
    return Finding(result=text, figures=figures)


def _chosen(names: list[str], context: Context) -> list[str]:
    """A few shards, others for each rank, spread over the set."""
    number = min(len(names), _SHARDS_PER_RANK * context.ranks.world_size)
    spread = [names[i * (len(names) - 1) // max(1, number - 1)] for i in range(number)]
    own = spread[context.ranks.rank :: context.ranks.world_size]
    return own or [names[0]]


def _clips_per_second(context: Context) -> float:
    assert context.options.shards is not None
    shard_set = open_shards(context.options.shards)
    split = _TRAIN if _TRAIN in shard_set.splits else shard_set.splits[0]
    loader = train_loader(
        shard_set,
        split,
        ClipConfig(),
        batch_size=1,
        seed=0,
        rank=context.ranks.rank,
        world_size=context.ranks.world_size,
        num_samples=_MOST_CLIPS * context.ranks.world_size,
    )
    start = time.perf_counter()
    number = 0
    for _ in loader:
        number += 1
        if time.perf_counter() - start > _SECONDS:
            break
    return number / (time.perf_counter() - start)


def _level(number: int) -> int:
    return 40 + 10 * number


def _gray_frames() -> list[VideoFrame]:
    frames = []
    for number in range(_NUM_FRAMES):
        picture = np.full((_SIDE, _SIDE, 3), _level(number), dtype=np.uint8)
        frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU601"
        )
        frame.pts, frame.time_base = number, Fraction(1, 25)
        frames.append(frame)
    return frames
