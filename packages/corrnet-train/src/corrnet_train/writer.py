"""Checkpoints are written by a thread while training goes on; training waits only for the copy in memory."""

import threading
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from corrnet_train.checkpoint import Checkpoint


class CheckpointWriter:
    """Writes checkpoints in the background, one at a time and in order.

    Attributes:
        stalled: seconds for which the training has waited for copies, and for writes before them, so far.
    """

    def __init__(self) -> None:
        self.stalled = 0.0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, checkpoint: Checkpoint, *paths: Path) -> None:
        """Copies the checkpoint and starts to write it to `paths`, each atomically.

        Raises:
            OSError: the write before failed, on a full disk for one.
        """
        start = time.perf_counter()
        self.wait()
        copy = Checkpoint(**_copied(vars(checkpoint)))
        self._thread = threading.Thread(target=self._write, args=(copy, paths), name="checkpoint")
        self._thread.start()
        self.stalled += time.perf_counter() - start

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
            OSError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, checkpoint: Checkpoint, paths: tuple[Path, ...]) -> None:
        try:
            for path in paths:
                checkpoint.save(path)
        except BaseException as error:  # handed to the training thread
            self._error = error


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes left half written."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _copied(value: Any) -> Any:
    """A copy of nested values with every tensor on the CPU, in memory of its own."""
    if isinstance(value, Tensor):
        value = value.detach()
        return value.clone() if value.device.type == "cpu" else value.cpu()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return value
