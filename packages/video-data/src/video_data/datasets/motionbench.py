"""MotionBench: small videos whose class is the direction of a moving patch, and nothing else.

Textures, size, start and speed are drawn independently of the class, so one frame says nothing about it.
"""

import csv
import io
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from video_data.datasets.motionbench_config import MotionBenchConfig
from video_data.media.encode import check_encoder, encode_h264
from video_data.sampling.order import hash_words
from video_data.utils.errors import InputError
from video_data.utils.files import check_file, write_atomic
from video_data.utils.pool import map_in_order

MOTIONBENCH_CLASSES = ("up", "up-right", "right", "down-right", "down", "down-left", "left", "up-left")

_CONFIG_NAME = "motionbench.json"
_GOP = 12
_CRF = 12  # low, so that what compression leaves behind a moving patch does not show its path


def generate_motionbench(
    dest: str | Path, config: MotionBenchConfig | None = None, *, num_workers: int = 1, progress: bool = True
) -> Path:
    """Write MotionBench as H.264 files with csv lists.

    The files are `videos/<split>/<class>/<split>-<number>.mp4`, `train.csv`, `val.csv`, `test.csv` and
    `motionbench.csv` with the columns `path,label,split` that `pack_csv` reads, and `motionbench.json` with
    the configuration. Equal configurations give byte-identical files. A call that was interrupted is finished
    by another with the same configuration; `motionbench.csv` comes last.

    Args:
        dest: Folder for the files; it is made when it does not exist.
        config: What to make; None means the defaults.
        num_workers: Processes; the result does not depend on it.
        progress: Whether to show a progress bar on standard error.

    Returns:
        Path of `motionbench.csv`.

    Raises:
        ValueError: `dest` holds a MotionBench of another configuration or other files with the names of those that are
            written, num_workers is less than 1, or this FFmpeg cannot encode H.264.
    """
    dest, config = Path(dest), config or MotionBenchConfig()
    if num_workers < 1:
        raise InputError(f"num_workers must be at least 1, got {num_workers}")
    check_encoder()
    jobs = [(split, number) for split, count in config.num_videos.items() for number in range(count)]
    lists = {f"{split}.csv": _csv([job for job in jobs if job[0] == split]) for split in config.num_videos}
    lists["motionbench.csv"] = _csv(jobs)
    description = (config.model_dump_json(indent=1) + "\n").encode()
    _check_own(dest, description, jobs, lists)
    write_atomic(dest / _CONFIG_NAME, description)
    for split, class_name in {(split, _class_of(number)) for split, number in jobs}:
        (dest / "videos" / split / class_name).mkdir(parents=True, exist_ok=True)
    make = partial(_write_video, dest, config)
    for _ in map_in_order(make, jobs, num_workers=num_workers, title="motionbench", progress=progress):
        pass
    for name, content in lists.items():
        write_atomic(dest / name, content)
    return dest / "motionbench.csv"


def motionbench_frames(config: MotionBenchConfig, split: str, number: int) -> np.ndarray:
    """Draw one video, uint8 [num_frames, size, size, 3].

    A patch moves over a still ground along its class's direction at a constant speed and comes back in on the
    other side. Positions are fractions of pixels from the first frame on, so sharpness does not tell
    directions apart.
    """
    split_word = list(config.num_videos).index(split)
    # RandomState keeps its stream in all versions of NumPy.
    random = np.random.RandomState(hash_words(config.seed, split_word, number)[0] % (1 << 32))
    size = config.size
    side = random.randint(config.sprite_size[0], config.sprite_size[1] + 1)
    speed = config.speeds[random.randint(len(config.speeds))]
    start = random.uniform(0, size, 2)
    ground = _texture(random, size)
    sprite = np.zeros((size, size, 4))
    sprite[:side, :side, :3] = _texture(random, side)
    sprite[:side, :side, 3] = 1.0
    angle = 2 * np.pi * MOTIONBENCH_CLASSES.index(_class_of(number)) / len(MOTIONBENCH_CLASSES)
    step = speed * np.array([-np.cos(angle), np.sin(angle)])  # rows, columns; the first class goes up
    frames = np.empty((config.num_frames, size, size, 3), dtype=np.uint8)
    for index in range(config.num_frames):
        moved = _shifted(sprite, start + index * step)
        alpha = moved[..., 3:]
        frames[index] = np.rint(ground * (1 - alpha) + moved[..., :3])  # moved is zero where alpha is
    return frames


def _check_own(dest: Path, description: bytes, jobs: list[tuple[str, int]], lists: dict[str, bytes]) -> None:
    """Raise ValueError when a folder holds files that are not of this MotionBench and have the names of its files.

    The configuration is written first, so videos beside it are of a generation that was interrupted or is finished.
    """
    path = dest / _CONFIG_NAME
    check_file(path)
    if path.exists():
        if path.read_bytes() != description:
            raise InputError(f"{dest} holds a MotionBench of another configuration; choose another folder")
        names = [name for name, content in lists.items() if _differs(dest / name, content)]
    else:
        names = [name for name in (*lists, *(_relative_path(*job) for job in jobs)) if (dest / name).exists()]
    if names:
        raise InputError(
            f"{dest / names[0]} exists and is no file of this MotionBench; choose another folder"
        )


def _differs(path: Path, content: bytes) -> bool:
    check_file(path)
    return path.exists() and path.read_bytes() != content


def _class_of(number: int) -> str:
    return MOTIONBENCH_CLASSES[number % len(MOTIONBENCH_CLASSES)]


def _texture(random: np.random.RandomState, side: int) -> np.ndarray:
    """Blocks of 3x3 pixels in random colors, float64 [side, side, 3] from 0 to 255."""
    blocks = -(-side // 3)
    colors = random.randint(0, 256, (blocks, blocks, 3)).astype(np.float64)
    return colors.repeat(3, 0).repeat(3, 1)[:side, :side]


def _shifted(picture: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Move a picture by fractions of pixels with bilinear weights; what leaves comes back opposite."""
    whole = np.floor(offset).astype(int)
    row, column = offset - whole
    moved = np.roll(picture, whole, (0, 1))
    moved = (1 - row) * moved + row * np.roll(moved, 1, 0)
    result: np.ndarray = (1 - column) * moved + column * np.roll(moved, 1, 1)
    return result


def _relative_path(split: str, number: int) -> str:
    return f"videos/{split}/{_class_of(number)}/{split}-{number:06d}.mp4"


def _write_video(dest: Path, config: MotionBenchConfig, job: tuple[str, int]) -> None:
    path = dest / _relative_path(*job)
    if path.exists():
        return  # of this configuration, and files appear complete, so this one is done
    frames = []
    reformatter = VideoReformatter()  # one for all: each has a context that takes long to make
    for index, pixels in enumerate(motionbench_frames(config, *job)):
        frame = reformatter.reformat(VideoFrame.from_ndarray(pixels, format="rgb24"), format="yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, config.fps)
        frames.append(frame)
    write_atomic(path, encode_h264(frames, gop=_GOP, crf=_CRF))


def _csv(jobs: list[tuple[str, int]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "split"))
    for split, number in jobs:
        writer.writerow((_relative_path(split, number), _class_of(number), split))
    return text.getvalue().encode()
