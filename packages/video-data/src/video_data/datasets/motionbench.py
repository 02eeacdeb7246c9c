"""MotionBench: small videos whose class is how something moves, and nothing else.

Textures, sizes, starts and speeds are drawn independently of the class, so one frame says nothing about it. The level
directions is one patch that moves straight on; the others are drawn by `motionbench_drawing`.
"""

import csv
import io
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from video_data.datasets.motionbench_card import data_card
from video_data.datasets.motionbench_config import Level, MotionBenchConfig
from video_data.datasets.motionbench_drawing import LOOKS, Look, Scene, blocks, draw_scene, shifted
from video_data.datasets.motionbench_motions import DIRECTIONS, MOTIONS
from video_data.media.encode import check_encoder, encode_h264
from video_data.sampling.order import hash_words
from video_data.utils.errors import InputError
from video_data.utils.files import check_file, write_atomic
from video_data.utils.pool import map_in_order

_CONFIG_NAME = "motionbench.json"
_CARD_NAME = "README.md"
_GOP = 12


def generate_motionbench(
    dest: str | Path, config: MotionBenchConfig | None = None, *, num_workers: int = 1, progress: bool = True
) -> Path:
    """Write MotionBench as H.264 files with csv lists.

    The files are `videos/<split>/<class>/<split>-<number>.mp4`, `train.csv`, `val.csv`, `test.csv` and
    `motionbench.csv` with the columns `path,label,split` that `pack_csv` reads, `motionbench.json` with the
    configuration, and `README.md`, which says what this is. With `config.displacement` there are
    `displacement/<split>/<class>/<split>-<number>.npz`, with the arrays `displacement` (float16) and `visible` of a
    `Scene`. Equal configurations give byte-identical files. A call that was interrupted is finished by another with the
    same configuration; `motionbench.csv` comes last.

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
    videos = [
        _Video(config, split, number) for split, count in config.num_videos.items() for number in range(count)
    ]
    lists = {
        f"{split}.csv": _csv([video for video in videos if video.split == split])
        for split in config.num_videos
    }
    lists[_CARD_NAME] = data_card(config, motionbench_classes(config.level)).encode()
    lists["motionbench.csv"] = _csv(videos)  # the last one
    description = (config.model_dump_json(indent=1) + "\n").encode()
    _check_own(dest, description, videos, lists)
    write_atomic(dest / _CONFIG_NAME, description)
    for folder in {(dest / name).parent for video in videos for name in video.files}:
        folder.mkdir(parents=True, exist_ok=True)
    write = partial(_write_video, dest)
    for _ in map_in_order(write, videos, num_workers=num_workers, title="motionbench", progress=progress):
        pass
    for name, content in lists.items():
        write_atomic(dest / name, content)
    return dest / "motionbench.csv"


def motionbench_classes(level: Level) -> tuple[str, ...]:
    """Return the classes of a level; video i of a split is of class i modulo their number."""
    return DIRECTIONS if level == "directions" else MOTIONS


def motionbench_scene(config: MotionBenchConfig, split: str, number: int) -> Scene:
    """Draw one video of the levels easy, medium and hard, with the true displacement of every pixel.

    Raises:
        ValueError: The level is directions.
    """
    if config.level == "directions":
        raise InputError("the level directions has no scenes; choose easy, medium or hard")
    random = _random(config, split, number)
    return draw_scene(
        _Video(config, split, number).class_name,
        random,
        blocks(random, config.size / 40),
        level=config.level,
        size=config.size,
        num_frames=config.num_frames,
    )


def motionbench_frames(config: MotionBenchConfig, split: str, number: int) -> np.ndarray:
    """Draw one video, uint8 [num_frames, size, size, 3].

    Of the level directions a patch moves over a still ground along its class's direction at a constant speed and comes
    back in on the other side. Positions are fractions of pixels from the first frame on, so sharpness does not tell
    directions apart.
    """
    if config.level != "directions":
        return motionbench_scene(config, split, number).frames
    random = _random(config, split, number)
    size = config.size
    side = random.randint(config.sprite_size[0], config.sprite_size[1] + 1)
    speed = config.speeds[random.randint(len(config.speeds))]
    start = random.uniform(0, size, 2)
    texture = blocks(random, 1)
    ground = texture(size, size)
    sprite = np.zeros((size, size, 4))
    sprite[:side, :side, :3] = texture(side, side)
    sprite[:side, :side, 3] = 1.0
    class_name = _Video(config, split, number).class_name
    angle = 2 * np.pi * DIRECTIONS.index(class_name) / len(DIRECTIONS)
    step = speed * np.array([-np.cos(angle), np.sin(angle)])  # rows, columns; the first class goes up
    frames = np.empty((config.num_frames, size, size, 3), dtype=np.uint8)
    for index in range(config.num_frames):
        moved = shifted(sprite, start + index * step)
        alpha = moved[..., 3:]
        frames[index] = np.rint(ground * (1 - alpha) + moved[..., :3])  # moved is zero where alpha is
    return frames


class _Video(NamedTuple):
    """One video of a MotionBench."""

    config: MotionBenchConfig
    split: str
    number: int

    @property
    def class_name(self) -> str:
        classes = motionbench_classes(self.config.level)
        return classes[self.number % len(classes)]

    @property
    def path(self) -> str:
        return f"videos/{self._name}.mp4"

    @property
    def files(self) -> list[str]:
        """All of its files, the video last."""
        return [*([f"displacement/{self._name}.npz"] if self.config.displacement else []), self.path]

    @property
    def _name(self) -> str:
        return f"{self.split}/{self.class_name}/{self.split}-{self.number:06d}"


def _random(config: MotionBenchConfig, split: str, number: int) -> np.random.RandomState:
    split_word = list(config.num_videos).index(split)
    # RandomState keeps its stream in all versions of NumPy.
    return np.random.RandomState(hash_words(config.seed, split_word, number)[0] % (1 << 32))


def _check_own(dest: Path, description: bytes, videos: list[_Video], lists: dict[str, bytes]) -> None:
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
        files = chain(lists, *(video.files for video in videos))
        names = [name for name in files if (dest / name).exists()]
    if names:
        raise InputError(
            f"{dest / names[0]} exists and is no file of this MotionBench; choose another folder"
        )


def _differs(path: Path, content: bytes) -> bool:
    check_file(path)
    return path.exists() and path.read_bytes() != content


def _write_video(dest: Path, video: _Video) -> None:
    path, config = dest / video.path, video.config
    if path.exists():
        return  # of this configuration, and files appear complete, so this one is done
    if config.displacement:
        scene = motionbench_scene(config, video.split, video.number)
        content = io.BytesIO()
        np.savez_compressed(
            content, displacement=scene.displacement.astype(np.float16), visible=scene.visible
        )
        write_atomic(dest / video.files[0], content.getvalue())
        pictures = scene.frames
    else:
        pictures = motionbench_frames(config, video.split, video.number)
    frames = []
    reformatter = VideoReformatter()  # one for all: each has a context that takes long to make
    for index, pixels in enumerate(pictures):
        frame = reformatter.reformat(VideoFrame.from_ndarray(pixels, format="rgb24"), format="yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, config.fps)
        frames.append(frame)
    write_atomic(path, encode_h264(frames, gop=_GOP, crf=LOOKS.get(config.level, Look()).crf))


def _csv(videos: list[_Video]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "split"))
    for video in videos:
        writer.writerow((video.path, video.class_name, video.split))
    return text.getvalue().encode()
