"""Classifying a stream as it comes: a sliding window, smoothed probabilities, the picture with its classes."""

import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from corrnet_train.drawing import VideoWriter, text_font
from corrnet_train.inference import ClipClassifier, Prediction
from video_data import WindowFrame, open_frames, sliding_clips

_FALLBACK_RATE = 25


@dataclass(frozen=True)
class WindowPrediction:
    """The classes of one window.

    Attributes:
        frame: number of its last frame, from 0.
        seconds: time of that frame from the first one; None where the stream has no times.
        prediction: classes by smoothed probability, largest first.
        latency: seconds from having the frame to having the prediction.
    """

    frame: int
    seconds: float | None
    prediction: Prediction
    latency: float


def classify_stream(
    classifier: ClipClassifier,
    source: str,
    *,
    hop: int = 8,
    smoothing: float = 0.0,
    annotate: Path | None = None,
    top: int = 3,
    max_frames: int | None = None,
) -> Generator[WindowPrediction, None, None]:
    """Classifies a file, a camera or a network stream in windows.

    Args:
        classifier: the model; clips are those that `predict` cuts of files.
        source: as `video_data.open_frames` takes it.
        hop: frames from one window to the next.
        smoothing: weight of the probabilities before, from 0 (each window by itself) to below 1.
        annotate: an mp4 file to write, each frame with the classes of the last window.
        top: classes to draw.
        max_frames: frames after which to stop; None goes on to the end.

    Raises:
        ValueError: the source cannot be opened or a number is out of range.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be from 0 to below 1, got {smoothing}")
    smoothed: Tensor | None = None
    shown: Prediction | None = None
    with ExitStack() as stack:
        frames = stack.enter_context(open_frames(source))
        writer = stack.enter_context(VideoWriter(annotate)) if annotate is not None else None
        for window in sliding_clips(frames, classifier.clip, hop=hop):
            if window.clip is not None:
                start = time.perf_counter()
                now = classifier.clip_probabilities(window.clip[None])[0]
                smoothed = now if smoothed is None else smoothing * smoothed + (1 - smoothing) * now
                shown = classifier.ranked(smoothed)
                latency = time.perf_counter() - start
                yield WindowPrediction(window.number, window.seconds, shown, latency)
            if writer is not None:
                seconds = window.number / _FALLBACK_RATE if window.seconds is None else window.seconds
                writer.add(_annotated(window, shown, top), seconds)
            if max_frames is not None and window.number + 1 >= max_frames:
                break


def _annotated(window: WindowFrame, prediction: Prediction | None, top: int) -> Image.Image:
    """The picture of a frame, with classes drawn onto it."""
    image = Image.fromarray(window.frame.to_ndarray(format="rgb24")).rotate(window.rotation, expand=True)
    if prediction is not None:
        draw_classes(image, prediction, top)
    return image


def draw_classes(image: Image.Image, prediction: Prediction, top: int) -> None:
    """Draws the most probable classes with bars into the upper left corner."""
    size = max(10, image.height // 18)
    draw = ImageDraw.Draw(image, "RGBA")
    width = min(image.width, 16 * size)
    pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))[:top]
    for row, (name, probability) in enumerate(pairs):
        y = round(row * 1.5 * size)
        draw.rectangle((0, y, width, y + 1.5 * size), fill=(0, 0, 0, 140))
        draw.rectangle((0, y, width * probability, y + 1.5 * size), fill=(40, 120, 220, 160))
        text = f"{probability:4.0%}  {' '.join(name.split())}"
        draw.text((0.3 * size, y + 0.15 * size), text, font=text_font(text, size), fill="white")
