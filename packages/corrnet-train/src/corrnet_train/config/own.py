"""Settings for videos of one's own: chosen for the videos and the machine, each with its reason."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from video_data.shards.format import Task

_CLIPS = {
    "cpu": 16_000,
    "gpu": 200_000,
}  # that training takes in all: half an hour on two cores, minutes on a GPU
_MOST_EPOCHS = 200
_NUM_EVALUATIONS = 20
_CLIP_SECONDS = 1.0
_CLIP = {"cpu": (8, 56), "gpu": (16, 112)}  # most frames, and pixels of a side
_SMALLEST_CROP = 28


@dataclass(frozen=True)
class OwnVideos:
    """What settings depend on.

    Attributes:
        num_train: Videos to learn from.
        num_eval: Videos of the split val.
        num_frames: Median of the frames of a video.
        frame_rate: Median of the frames a second.
        short_side: Median of the shorter sides, in pixels.
        task: What is to be learned of a video.
    """

    num_train: int
    num_eval: int
    num_frames: int
    frame_rate: float
    short_side: int
    task: Task = "multiclass"


@dataclass(frozen=True)
class Choice:
    """A setting that was chosen: its key, its value and the reason."""

    key: str
    value: Any
    reason: str


def choose_recipe(*, has_gpu: bool, has_weights: bool) -> tuple[str, str]:
    """Return the recipe on which the choices are put, and the reason for it.

    Args:
        has_gpu: Whether a GPU trains.
        has_weights: Whether `model.init_from` is given.
    """
    if has_weights:
        return "own+finetune", "model.init_from has weights to start from"
    if has_gpu:
        return "own", "a GPU trains"
    return "own+tiny", "no GPU trains, and a CPU takes days for larger models; what follows changes it"


def choose_settings(
    videos: OwnVideos, *, has_gpu: bool, num_workers: int, given: Mapping[str, Any]
) -> list[Choice]:
    """Choose the settings that depend on the videos and the machine; none was tuned on a data set.

    Args:
        videos: What was packed.
        has_gpu: Whether a GPU trains.
        num_workers: Decoding processes that suit the cores of this machine.
        given: Values that stand already, by their keys: others are chosen to suit them, and they are returned with
            the reason that they are given.
    """
    choose = _Chooser(given)
    machine = "gpu" if has_gpu else "cpu"
    most_frames, most_pixels = _CLIP[machine]
    frames, rate, side = videos.num_frames, videos.frame_rate, videos.short_side
    length = most_frames if frames >= most_frames else 8
    why = f"videos have {frames} frames (median), and a {machine.upper()} trains"
    length = choose("data.clip.num_frames", length, why)
    stride = max(1, round(min(_CLIP_SECONDS * rate, frames) / length))
    shown = f"{length} frames show {length * stride / rate:.2g} seconds"
    if "data.clip.frame_stride" in given:
        choose("data.clip.fps", None, "data.clip.frame_stride is given")
    elif given.get("data.clip.modality", "rgb") != "rgb":
        choose("data.clip.fps", None, "optical flow goes from each frame of a video to the next one")
        choose("data.clip.frame_stride", stride, f"{shown} of most videos")
    else:
        choose("data.clip.fps", round(rate / stride, 3), f"{shown}, whatever the frame rate of a video")
    fits = max(_SMALLEST_CROP, side * 7 // 8 // 4 * 4)
    choose(
        "data.clip.crop_size",
        min(most_pixels, fits),
        f"the shorter side of videos has {side} pixels (median)",
    )
    if videos.task != "multiclass":
        choose("augment.label_smoothing", 0.0, "it is for videos of one class each")
    if videos.task == "regression":
        choose("augment.mixup", 0.0, "two videos mixed have not the number between theirs")
    choose("data.num_workers", num_workers, "by the cores that can be used")
    return choose.choices + choose_length(videos.num_train, videos.num_eval, has_gpu=has_gpu, given=given)


def choose_length(num_train: int, num_eval: int, *, has_gpu: bool, given: Mapping[str, Any]) -> list[Choice]:
    """Choose the settings that depend on the number of videos alone: how long is trained, and how often measured.

    Args:
        num_train: Videos to learn from.
        num_eval: Videos of the split val.
        has_gpu: Whether a GPU trains.
        given: As for `choose_settings`.
    """
    choose = _Chooser(given)
    batch_size = choose(
        "optim.batch_size",
        min(32 if has_gpu else 16, num_train),
        f"there are {num_train} videos to learn from",
    )
    of_epoch = given.get("optim.samples_per_epoch") or num_train
    usual = usual_epochs(of_epoch, has_gpu=has_gpu)
    epochs = given.get("optim.epochs", usual)
    num_steps = math.ceil(epochs * of_epoch / batch_size)
    why = f"{num_steps:,} steps, {num_steps * batch_size:,} clips"
    choose(
        "optim.epochs",
        usual,
        f"{why}, one of each video an epoch; fewer take less time",
        instead=f"{why}; {usual:g} would have been chosen",
    )
    choose("optim.warmup_epochs", epochs / 10, "a tenth of the epochs")
    if num_eval:
        every = evaluation_period(epochs)
        choose("eval.every_epochs", every, _times(num_eval, epochs, every))
    else:
        choose("data.eval_split", None, "no video is kept back to measure accuracy on")
    return choose.choices


def usual_epochs(epoch_samples: int, *, has_gpu: bool) -> int:
    """Return how many epochs are trained where nothing else is given.

    Args:
        epoch_samples: Clips of an epoch.
        has_gpu: Whether a GPU trains.
    """
    return max(1, min(_MOST_EPOCHS, round(_CLIPS["gpu" if has_gpu else "cpu"] / epoch_samples)))


def evaluation_period(epochs: float) -> int:
    """Return the epochs between two evaluations of a run of so many epochs."""
    return max(1, round(epochs / _NUM_EVALUATIONS))


def _times(num_eval: int, epochs: float, every: int) -> str:
    times = round(epochs / every)
    often = f"about {times} times" if times > 1 else "once, at the end"
    return f"accuracy on the {num_eval} videos of val is measured {often}"


class _Chooser:
    """Collects choices; a value that is given stands.

    Args:
        given: Values that stand already, by their keys.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self.choices: list[Choice] = []

    def __call__(self, key: str, value: Any, reason: str, *, instead: str = "") -> Any:
        """Choose a value, or tell with the words of `instead` that another one is given; return that which stands."""
        if key in self._given:
            value, reason = self._given[key], f"given{f': {instead}' if instead else ''}"
        self.choices.append(Choice(key, value, reason))
        return value
