"""Classifying a stream as it comes: a sliding window, smoothed probabilities, the picture with its classes."""

import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from corrnet_train.files import atomic_path
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
        writer = stack.enter_context(_Annotator(annotate, top)) if annotate is not None else None
        for window in sliding_clips(frames, classifier.clip, hop=hop):
            if window.clip is not None:
                start = time.perf_counter()
                now = classifier.clip_probabilities(window.clip[None])[0]
                smoothed = now if smoothed is None else smoothing * smoothed + (1 - smoothing) * now
                shown = classifier.ranked(smoothed)
                latency = time.perf_counter() - start
                yield WindowPrediction(window.number, window.seconds, shown, latency)
            if writer is not None:
                writer.add(window, shown)
            if max_frames is not None and window.number + 1 >= max_frames:
                break


class _Annotator:
    """Writes frames with classes drawn onto them; the file appears when it is complete."""

    def __init__(self, path: Path, top: int) -> None:
        self._path = path
        self._top = top
        self._stack = ExitStack()
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> "_Annotator":
        file = self._stack.enter_context(atomic_path(self._path))
        self._container = self._stack.enter_context(av.open(str(file), "w", format="mp4"))
        return self

    def __exit__(self, *exception: Any) -> None:
        if exception[0] in (None, GeneratorExit) and self._stream is not None:
            self._container.mux(self._stream.encode())
            self._stack.close()
        else:
            self._stack.__exit__(
                *(exception if exception[0] else (RuntimeError, RuntimeError("no frames"), None))
            )

    def add(self, window: WindowFrame, prediction: Prediction | None) -> None:
        image = Image.fromarray(window.frame.to_ndarray(format="rgb24"))
        image = image.rotate(window.rotation, expand=True)
        image = image.crop((0, 0, image.width // 2 * 2, image.height // 2 * 2))
        if prediction is not None:
            draw_classes(image, prediction, self._top)
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=_FALLBACK_RATE, options={"crf": "20"})
            self._stream.width, self._stream.height = image.size
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, 1000)
        picture = np.asarray(image.resize((self._stream.width, self._stream.height)))
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        milliseconds = (
            window.number * 1000 / _FALLBACK_RATE if window.seconds is None else 1000 * window.seconds
        )
        frame.pts = self._last = max(self._last + 1, round(milliseconds))
        frame.time_base = Fraction(1, 1000)
        self._container.mux(self._stream.encode(frame))


def draw_classes(image: Image.Image, prediction: Prediction, top: int) -> None:
    """Draws the most probable classes with bars into the upper left corner."""
    size = max(10, image.height // 18)
    font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(image, "RGBA")
    width = min(image.width, 16 * size)
    pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))[:top]
    for row, (name, probability) in enumerate(pairs):
        y = round(row * 1.5 * size)
        draw.rectangle((0, y, width, y + 1.5 * size), fill=(0, 0, 0, 140))
        draw.rectangle((0, y, width * probability, y + 1.5 * size), fill=(40, 120, 220, 160))
        draw.text((0.3 * size, y + 0.15 * size), f"{probability:4.0%}  {name}", font=font, fill="white")
