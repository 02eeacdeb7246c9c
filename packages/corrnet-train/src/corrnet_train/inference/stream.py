"""Predictions for a stream as it comes: a sliding window and smoothed probabilities."""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from torch import Tensor

from corrnet_train.inference.classifier import Prediction, VideoClassifier
from corrnet_train.utils.errors import InputError
from video_data.loading.live import WindowFrame, open_frames, sliding_clips


@dataclass(frozen=True)
class WindowPrediction:
    """The classes of one window.

    Attributes:
        frame: Number of its last frame, from 0.
        seconds: Time of that frame from the first one; None where the stream has no times.
        prediction: Classes by smoothed probability, largest first.
        latency: Seconds from having the frame to having the prediction.
    """

    frame: int
    seconds: float | None
    prediction: Prediction
    latency: float


def classify_stream(
    classifier: VideoClassifier,
    source: str,
    *,
    hop: int = 8,
    smoothing: float = 0.0,
    max_frames: int | None = None,
    on_frame: Callable[[WindowFrame, Prediction | None], None] | None = None,
) -> Generator[WindowPrediction, None, None]:
    """Classify a file, a camera or a network stream in windows.

    Args:
        classifier: The model; clips are those that `predict` cuts of files.
        source: As `video_data.loading.live.open_frames` takes it.
        hop: Frames from one window to the next.
        smoothing: Weight of the probabilities before, from 0 (each window by itself) to below 1.
        max_frames: Frames after which to stop; None goes on to the end.
        on_frame: Called with each frame and the classes of the last window, None before the first one.

    Raises:
        ValueError: The source cannot be opened or a number is out of range.
    """
    if not 0 <= smoothing < 1:
        raise InputError(f"smoothing must be from 0 to below 1, got {smoothing}")
    smoothed: Tensor | None = None
    shown: Prediction | None = None
    with open_frames(source) as frames:
        for window in sliding_clips(frames, classifier.clip, hop=hop):
            if window.clip is not None:
                start = time.perf_counter()
                now = classifier.clip_scores(window.clip[None])[0]
                smoothed = now if smoothed is None else smoothing * smoothed + (1 - smoothing) * now
                shown = classifier.ranked(smoothed)
                latency = time.perf_counter() - start
                yield WindowPrediction(window.number, window.seconds, shown, latency)
            if on_frame is not None:
                on_frame(window, shown)
            if max_frames is not None and window.number + 1 >= max_frames:
                break
