"""Checkpoints of shards as names in a folder: which names are such checkpoints, and where each of them leads.

A checkpoint of sharded weights is a folder into which each process writes its own shards. A name such as `last.pt` is
a link to it, which moves on in one step. `sharded` reads and writes what is inside; importing it takes a second, which
who only asks for the kind of a checkpoint need not wait for.
"""

import os
import shutil
from pathlib import Path

from video_data.utils.files import temporary_name

REST, DESCRIPTION = "rest.pt", ".metadata"


def is_sharded(path: Path) -> bool:
    """Whether `path` is a folder of shards, or a link to one."""
    return (path / DESCRIPTION).is_file() and (path / REST).is_file()


def link(path: Path, folder: Path) -> None:
    """Make `path` a link to a folder beside it; it means the old or the new checkpoint at every moment."""
    temporary = temporary_name(path)
    temporary.symlink_to(folder.name, target_is_directory=True)
    temporary.replace(path)
    sync_folder(path.parent)


def remove_unlinked(folder: Path) -> None:
    """Remove the shards to which no name leads any more."""
    used = {path.resolve() for path in folder.iterdir() if path.is_symlink()}
    for path in folder.glob("shards-*"):
        if path.resolve() not in used:
            shutil.rmtree(path)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
