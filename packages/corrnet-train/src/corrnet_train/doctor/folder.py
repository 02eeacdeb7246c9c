"""Checks of the folder of a run: written by one process, seen by all, with room for checkpoints."""

import contextlib
import secrets
import shutil
import time
from pathlib import Path

import torch

from corrnet_models import count_parameters, create_model
from corrnet_train.doctor.checkup import Context
from corrnet_train.doctor.finding import Finding, failed
from corrnet_train.utils.files import write_text

_GIB = 1 << 30
_COPIES = 3  # last, best, and the one that is being written
_ROOMY = 4  # times what is needed
_KEY = "folder-token"


def run_folder(context: Context) -> Finding:
    """Rank 0 writes a file as checkpoints are written, the others must see it; free space is compared."""
    assert context.options.run_dir is not None
    folder = context.options.run_dir
    ranks = context.ranks
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    own = folder / f".doctor-{ranks.rank}-{secrets.token_hex(8)}"
    try:
        if ranks.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            context.board.post(_KEY, f"{own.name} {_write_twice(own)}")
        else:
            unseen = _see(folder, context)
            if unseen is not None:
                return unseen
            _write_twice(own)
        return _room(folder, context)
    finally:
        if ranks.is_first and not context.board.read(_KEY, 0, timeout=0):
            context.board.post(_KEY, " ")  # nobody needs to wait
        context.board.post("folder-seen", "yes")
        if ranks.is_first:
            context.board.collect("folder-seen", timeout=0.8 * context.options.timeout)
        with contextlib.suppress(OSError):  # it was never written, or others use the folder by now
            own.unlink(missing_ok=True)
            for path in created if ranks.is_first else ():
                path.rmdir()


def _write_twice(path: Path) -> str:
    """Write a file, and replace it as a new checkpoint replaces the last one; return its content.

    Raises:
        OSError: The folder cannot be written, or the new content did not take the place of the old one.
    """
    write_text(path, "first")
    token = secrets.token_hex(16)
    write_text(path, token)
    if path.read_text() != token:
        raise OSError(f"{path} still has its old content after it was replaced: renaming is not atomic there")
    return token


def _see(folder: Path, context: Context) -> Finding | None:
    """Wait until the file of rank 0 is there; return what is wrong when it does not come."""
    limit = 0.4 * context.options.timeout
    posted = context.board.read(_KEY, 0, timeout=limit)
    name, _, token = (posted or "").partition(" ")
    if not token:
        return Finding(status="skipped", result="rank 0 could not write")
    path, deadline = folder / name, time.monotonic() + limit
    while True:
        # Listing a folder makes a network file system look again.
        with contextlib.suppress(OSError):
            if path in folder.iterdir() and path.read_text() == token:
                return None
        if time.monotonic() > deadline:
            return failed(
                f"{folder} is not the folder in which rank 0 wrote",
                "give a folder on storage that all machines share",
            )
        time.sleep(0.05)


def _room(folder: Path, context: Context) -> Finding:
    name = context.options.model
    with torch.device("meta"):
        # Weights and two moments an AdamW optimizer keeps for each.
        checkpoint = 3 * 4 * count_parameters(create_model(name))
    free, needed = shutil.disk_usage(folder).free, _COPIES * checkpoint
    figures = {"free_bytes": free, "needed_bytes": needed}
    shared = "" if context.ranks.world_size - len(context.gone) == 1 else ", seen by all"
    text = f"writable{shared}; {free / _GIB:.1f} GiB free, checkpoints of {name} need {needed / _GIB:.2f} GiB"
    if free < needed:
        return failed(text, "free some space, or choose another folder", **figures)
    if free < _ROOMY * needed:
        return Finding(status="warning", result=text, advice="train.keep_every needs more", figures=figures)
    return Finding(result=text, figures=figures)
