"""Feeds damaged videos, shards and indexes to the reader and reports what became of them.

    python packages/video-data/tools/mutate.py --inputs 5000 --seed 0

Input i of a seed is always the same bytes. Inputs run in a child process, which is given a new life after a crash
or a hang. An input counts as good when it is read or refused: every other outcome is listed and ends the run with
status 1. Linux only.
"""

import argparse
import hashlib
import io
import json
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from video_data import ClipConfig, PackOptions, VideoError, open_shards, pack_folder, train_loader
from video_data.integrations.webdataset import webdataset_pipeline
from video_data.media.container import probe_video
from video_data.media.decode import decode_clips
from video_data.media.encode import reencode_video
from video_data.media.planes import decode_planes
from video_data.sampling.clips import Box

SIZE, NUM_FRAMES = 64, 30
# Container, encoder, its options.
VIDEOS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264.mp4": ("mp4", "libx264", {"x264-params": "keyint=10:bframes=3"}),
    "h264-fragmented.mp4": ("mp4", "libx264", {"x264-params": "keyint=10"}),
    "h264.mkv": ("matroska", "libx264", {"x264-params": "keyint=10:bframes=2"}),
    "h264.ts": ("mpegts", "libx264", {"x264-params": "keyint=10"}),
    "h264.flv": ("flv", "libx264", {"x264-params": "keyint=10"}),
    "hevc.mp4": ("mp4", "libx265", {"x265-params": "keyint=10:log-level=none"}),
    "vp9.webm": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "10"}),
    "mpeg4.avi": ("avi", "mpeg4", {"g": "10", "qscale": "4"}),
    "mjpeg.avi": ("avi", "mjpeg", {"qscale": "4"}),
    "mpeg1.mpg": ("mpeg", "mpeg1video", {"g": "10"}),
    "wmv2.wmv": ("asf", "wmv2", {"g": "10"}),
    "gif.gif": ("gif", "gif", {}),
}
WALL_SECONDS = 120  # of one input; more is a hang
GROWTH_BYTES = 600 << 20  # of resident memory over the whole life of a child
ADDRESS_SPACE = 6 << 30  # beyond what the child has when it starts: what is larger is refused by the system
CLIP = ClipConfig(num_frames=4, crop_size=16, short_side=(20, 24))


def make_video(container: str, codec: str, options: dict[str, str], *, fragmented: bool) -> bytes:
    """Return a short video of moving waves."""
    buffer = io.BytesIO()
    flags = {"movflags": "frag_keyframe+empty_moov"} if fragmented else {}
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    with av.open(buffer, "w", format=container, container_options=flags) as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = SIZE, SIZE
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        for number in range(NUM_FRAMES):
            wave = np.stack([rows * 3 + number * 5, columns * 2 - number * 7, rows + columns], axis=-1)
            frame = av.VideoFrame.from_ndarray((wave % 256).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        output.mux(stream.encode())
    return buffer.getvalue()


def prepare(folder: Path) -> None:
    """Write the undamaged inputs."""
    for name, (container, codec, options) in VIDEOS.items():
        video = make_video(container, codec, options, fragmented="fragmented" in name)
        (folder / name).write_bytes(video)
        path = folder / "classes" / f"class {len(name) % 2}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video)
    options = PackOptions(mode="copy", shard_size=4)
    pack_folder(folder / "classes", folder / "shards", options=options, progress=False)


def damage(content: bytes, rng: random.Random, other: bytes) -> bytes:
    """Return a damaged copy: flipped bits, bytes of extreme values, cuts, holes, and parts of another file."""
    data = bytearray(content)
    kind = rng.choice(("flip", "flip", "flip", "extreme", "extreme", "cut", "hole", "repeat", "splice"))
    if kind == "flip":
        for _ in range(rng.choice((1, 2, 8, 64))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "extreme":  # declared sizes, counts and offsets are mostly in the first or last part
        for _ in range(rng.choice((1, 3, 9))):
            edge = min(len(data), 2048)
            start = rng.choice((rng.randrange(edge), len(data) - 1 - rng.randrange(edge)))
            value = rng.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4), b"\x80\0\0\0", b"\0\0\xff\xff"))
            data[start : start + 4] = value[: len(data) - start]
    elif kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "hole":
        start = rng.randrange(len(data))
        del data[start : start + rng.randrange(1, 4096)]
    elif kind == "repeat":
        start = rng.randrange(len(data))
        data[start:start] = data[start : start + rng.randrange(1, 4096)]
    else:
        start = rng.randrange(len(data))
        data[start : start + 4096] = other[start % len(other) :][:4096]
    return bytes(data)


def read_video(content: bytes, name: str, folder: Path, rng: random.Random) -> str:
    """Pack a damaged video, or read it with its own index or that of the undamaged one."""
    frames = sorted(rng.sample(range(NUM_FRAMES), 5))
    box = Box(8, 8, 48, 48)
    what = rng.choice(("pack", "probe", "index", "index"))
    if what == "pack":
        return f"packed {len(reencode_video(content, max_short_side=32, gop=12, crf=30)) > 0}"
    info = probe_video(content if what == "probe" else (folder / name).read_bytes())
    if what == "probe":
        frames = sorted({frame % info.num_frames for frame in frames})
        side = min(info.display_size) // 2 * 2
        box = Box(0, 0, side, side)
    pixels = decode_clips(content, info, [frames], [box], 32)[0]
    ((layout, planes),) = decode_planes(content, info, frames, [box])
    assert pixels.shape == (1, len(frames), 32, 32, 3) and len(planes) == layout.num_bytes
    return "read"


def read_shards(folder: Path, verify: bool) -> str:
    """Read one pass over a set with damaged files, by its index and by the members of its tars."""
    shards = open_shards(folder, verify=verify)
    for _ in webdataset_pipeline(shards, "train", CLIP, error_budget=1000):
        pass
    loader = train_loader(shards, "train", CLIP, batch_size=4, seed=0, error_budget=1)
    for _ in loader:
        pass
    return "read, samples replaced" if loader.replaced else "read"


def run_input(number: int, seed: int, folder: Path) -> tuple[str, str]:
    """Kind of the input and what became of it."""
    rng = random.Random(f"{seed}/{number}")
    names = list(VIDEOS)
    kind = rng.choice(("video", "video", "video", "tar", "index", "manifest"))
    other = (folder / rng.choice(names)).read_bytes()
    if kind == "video":
        name = rng.choice(names)
        content = damage((folder / name).read_bytes(), rng, other)
        return f"video {name}", _outcome(lambda: read_video(content, name, folder, rng))
    target = rng.choice(
        {"tar": ("train-000000.tar", "train-000001.tar"), "index": ("train-000000.json",)}.get(
            kind, ("manifest.json",)
        )
    )
    with tempfile.TemporaryDirectory(dir=folder) as copy:
        shards = Path(copy, "shards")
        shutil.copytree(folder / "shards", shards)
        path = shards / target
        content = damage(path.read_bytes(), rng, other)
        if kind == "index" and rng.random() < 0.7:  # an index that was changed together with the manifest
            content = damage_index(path.read_bytes(), rng)
            _rehash(shards, path, content)
        path.write_bytes(content)
        return kind, _outcome(lambda: read_shards(shards, rng.random() < 0.5))


def damage_index(content: bytes, rng: random.Random) -> bytes:
    """Change fields of an index to other values that JSON allows."""
    index = json.loads(content)
    for _ in range(rng.choice((1, 2, 4))):
        sample = rng.choice(index["samples"])
        field = rng.choice(list(sample))
        values: tuple[Any, ...] = (
            0,
            -1,
            1,
            7,
            1 << 31,
            1 << 62,
            1 << 70,
            "",
            "concat",
            "hls",
            "../x",
            None,
            [],
            [[0, 1, 9]],
        )
        sample[field] = rng.choice(
            (*values, [[0, 1, 1 << 20]] * 3, [[1 << 62, 1 << 40, 30]], rng.choice(index["samples"])[field])
        )
    return json.dumps(index).encode()


def _rehash(shards: Path, path: Path, content: bytes) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    for shard in manifest["shards"]:
        if shard["name"] == path.stem:
            shard["index_sha256"] = hashlib.sha256(content).hexdigest()
    (shards / "manifest.json").write_text(json.dumps(manifest))


def _outcome(read: Callable[[], str]) -> str:
    try:
        return read()
    except VideoError as error:
        return f"refused: {error.reason}"
    except ValueError as error:
        return f"refused: {getattr(error, 'reason', 'set or index')}"
    except RuntimeError as error:
        if "could not be read" in str(error):  # the run stops with a summary
            return "refused: too many samples"
        return f"BAD {type(error).__name__}: {error}"
    except Exception as error:
        return f"BAD {type(error).__name__}: {error}"


def serve(folder: Path, seed: int, first: int, last: int) -> None:
    """Run inputs in this process; a line before and after each."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    base = _resident()
    for number in range(first, last):
        print(json.dumps([number]), flush=True)
        kind, outcome = run_input(number, seed, folder)
        grown = _resident() - base
        if grown > GROWTH_BYTES:
            outcome = f"BAD memory has grown by {grown >> 20} MiB"
            base += grown
        print(json.dumps([number, kind, outcome, grown]), flush=True)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(folder: Path, seed: int, inputs: int) -> dict[str, Any]:
    """Run all inputs in child processes."""
    outcomes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    bad: list[str] = []
    grown = 0
    number = 0
    while number < inputs:
        command = [sys.executable, __file__, "--serve", str(folder), str(seed), str(number), str(inputs)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout is not None
            ended = False
            while not ended:
                if not select.select([child.stdout], [], [], WALL_SECONDS)[0]:
                    child.kill()
                    bad.append(f"input {number}: hangs")
                    break
                line = child.stdout.readline()
                ended = not line
                if line:
                    fields = json.loads(line)
                    number = fields[0]
                    if len(fields) > 1:
                        _, kind, outcome, grown_now = fields
                        number += 1
                        kinds[kind] += 1
                        outcomes[outcome if not outcome.startswith("BAD") else "BAD"] += 1
                        grown = max(grown, grown_now)
                        if outcome.startswith("BAD"):
                            bad.append(f"input {number - 1} ({kind}): {outcome}")
            status = child.wait()
        if ended and status:
            bad.append(f"input {number}: process ended with status {status}")
        if not ended or status:
            number += 1
    return {
        "inputs": inputs,
        "seed": seed,
        "kinds": dict(kinds.most_common()),
        "outcomes": dict(outcomes.most_common()),
        "largest_growth_mib": grown >> 20,
        "bad": bad,
    }


def main() -> None:
    """Run the tool."""
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), *map(int, sys.argv[3:6]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        report = run(Path(folder), options.seed, options.inputs)
    print(json.dumps(report, indent=1))
    sys.exit(1 if report["bad"] else 0)


if __name__ == "__main__":
    main()
