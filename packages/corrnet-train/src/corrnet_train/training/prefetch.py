"""Batches on the device, copied while the step before is still computed."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from video_data import Batch
from video_data.media.planes import YuvClips


@dataclass
class DeviceBatch:
    """A batch on the device.

    Attributes:
        video: uint8 [N, C, L, H, W] or planes.
        label: int64 [N].
        keys: Key of each sample.
    """

    video: Tensor | YuvClips
    label: Tensor
    keys: list[str]


class Prefetcher:
    """Iterates over a loader's batches on a device.

    On a GPU a stream of its own copies them. The trainer reads the figures of a step only when the next one has been
    started, so the copy runs while the GPU still computes. On a CPU batches are handed on as they are.

    Args:
        batches: A loader.
        device: Where the batches go.

    Attributes:
        waited: Seconds spent waiting for the loader so far.
    """

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self.waited = 0.0
        self._batches = iter(batches)
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __iter__(self) -> Iterator[DeviceBatch]:
        """Return the batches; it can be iterated over once."""
        return self

    def __next__(self) -> DeviceBatch:
        """Return the next batch, ready for use on the current stream."""
        start = time.perf_counter()
        batch = next(self._batches)
        self.waited += time.perf_counter() - start
        if self._stream is None:
            return DeviceBatch(batch.video, batch.label, batch.keys)
        with torch.cuda.stream(self._stream):
            video = batch.video.to(self._device, non_blocking=True)
            label = batch.label.to(self._device, non_blocking=True)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in (video if isinstance(video, Tensor) else video.data, label):
            tensor.record_stream(current)  # its memory must not be used again before the step is done
        return DeviceBatch(video, label, batch.keys)
