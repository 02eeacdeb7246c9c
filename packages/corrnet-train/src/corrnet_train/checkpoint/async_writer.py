"""Writers that save checkpoints in a thread while training continues.

On a CPU training waits for the copy in memory. On a GPU it goes on at once: the copies are queued on the stream that
training uses, so that the next update of the weights, which comes later on the same stream, cannot reach them, and the
thread waits for them. They go to page-locked memory, which torch keeps and gives to the copies of the next checkpoint:
one set of it, as one checkpoint is written before the next is copied.
"""

import shutil
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from corrnet_train.checkpoint.folders import link, remove_unlinked
from corrnet_train.checkpoint.state import Checkpoint
from corrnet_train.distributed.ranks import Ranks, on_every_rank, readable_errors


class CheckpointWriter:
    """Writes checkpoints in the background, one at a time and in order.

    Attributes:
        stalled: Seconds for which the training has waited for copies, and for writes before them, so far.
    """

    def __init__(self) -> None:
        self.stalled = 0.0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, checkpoint: Checkpoint, *paths: Path) -> None:
        """Copy the checkpoint and start to write it to `paths`, each atomically.

        Raises:
            OSError: The write before failed, on a full disk for one.
        """
        start = time.perf_counter()
        self.wait()
        copy, ready = self._copy(checkpoint)
        self._thread = threading.Thread(target=self._write, args=(copy, ready, paths), name="checkpoint")
        self._thread.start()
        self.stalled += time.perf_counter() - start

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
            OSError: It could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _copy(self, checkpoint: Checkpoint) -> tuple[Checkpoint, Callable[[], None]]:
        """Start to copy a checkpoint to the host; return the copy, and what waits until it holds the values."""
        copy = Checkpoint(**_copied(vars(checkpoint)))
        if not torch.cuda.is_initialized():
            return copy, lambda: None
        event = torch.cuda.Event(blocking=True)
        event.record()
        return copy, event.synchronize

    def _write(self, checkpoint: Checkpoint, ready: Callable[[], None], paths: tuple[Path, ...]) -> None:
        try:
            ready()
            self._store(checkpoint, paths)
        except BaseException as error:  # handed to the training thread
            self._error = error

    def _store(self, checkpoint: Checkpoint, paths: tuple[Path, ...]) -> None:
        for path in paths:
            checkpoint.save(path)
        remove_unlinked(paths[0].parent)  # of a run whose model was split before


class ShardedCheckpointWriter(CheckpointWriter):
    """Writes checkpoints of which each process has its shards; all processes make one and call it alike.

    Args:
        ranks: The processes.
        timeout: Seconds after which waiting for another process is an error.
    """

    def __init__(self, ranks: Ranks, *, timeout: float) -> None:
        super().__init__()
        self._ranks = ranks
        # A group of its own: training exchanges gradients while checkpoints are written.
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        self._written: tuple[tuple[int, bool], Path] | None = None

    def _store(self, checkpoint: Checkpoint, paths: tuple[Path, ...]) -> None:
        parent, step = paths[0].parent, checkpoint.step
        state = step, checkpoint.evaluation_due  # an evaluation may estimate statistics of batch norm anew
        if self._written is not None and self._written[0] == state:
            if self._ranks.is_first:
                _move_links(paths, self._written[1])
            return
        temporary, folder = parent / f".shards-{step:08d}.tmp", _free_name(parent / f"shards-{step:08d}")

        def finish() -> None:
            temporary.replace(folder)
            _move_links(paths, folder)

        try:
            with readable_errors(self._ranks):
                checkpoint.save_shards(temporary, self._group, finish=finish)
        except OSError as error:
            raise on_every_rank(error) from None
        self._written = state, folder


def _free_name(folder: Path) -> Path:
    """Another run of the same step may have ended between two links."""
    names = (folder.with_name(f"{folder.name}-{number}") for number in range(2, 1000))
    return folder if not folder.exists() else next(path for path in names if not path.exists())


def _move_links(paths: tuple[Path, ...], folder: Path) -> None:
    for path in paths:
        link(path, folder)
    remove_unlinked(folder.parent)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left half written.

    Whole shards without a name stay until the next checkpoint is written: their name may have been lost.
    """
    for path in folder.glob(".*.tmp"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _copied(value: Any) -> Any:
    """Return a copy of nested values with every tensor on the CPU, in memory of its own; a GPU may be at it yet."""
    if isinstance(value, Tensor):
        value = value.detach()
        return value.clone() if value.device.type == "cpu" else value.to("cpu", non_blocking=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return value
