"""Checkpoints as names in a folder: which names are checkpoints, and where each of them leads.

A checkpoint of sharded weights is a folder into which each process writes its own shards. A name such as `last.pt` is
a link to it, which moves on in one step. `sharded` reads and writes what is inside; importing it takes a second, which
who only asks for the kind of a checkpoint need not wait for.
"""

import math
import os
import re
import shlex
import shutil
from pathlib import Path

from video_data.utils.files import temporary_name

LAST, BEST = "last.pt", "best.pt"
REST, DESCRIPTION = "rest.pt", ".metadata"


def resume_command(folder: Path) -> str:
    """Return the command that goes on with the run of a folder, for messages."""
    launch = "torchrun ... -m corrnet_train.cli" if "RANK" in os.environ else "corrnet"
    return f"{launch} {shlex.join(['resume', str(folder)])}"


def run_of(checkpoint: Path) -> Path | None:
    """Return the folder of the run of a checkpoint, or of what stands for its last one; None where there is no run."""
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint
    return run if (run / "checkpoints").is_dir() else None


def is_sharded(path: Path) -> bool:
    """Whether `path` is a folder of shards, or a link to one."""
    return (path / DESCRIPTION).is_file() and (path / REST).is_file()


def checkpoint_names(folder: Path) -> list[Path]:
    """Return all that has the name of a checkpoint in a folder, links that lead nowhere among it.

    Those whose names do not tell their step come first, then those of later steps.
    """
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if path.name in (LAST, BEST) or step_in_name(path) is not None]
    return sorted(named, key=lambda path: (-(step_in_name(path) or math.inf), path.name))


def step_in_name(path: Path) -> int | None:
    """Return the step of a checkpoint as its name tells it; None where it does not."""
    match = re.fullmatch(r"step-(\d{8,})\.pt|shards-(\d{8,})(-\d+)?", path.name)
    return int(match[1] or match[2]) if match else None


def link(path: Path, target: Path) -> None:
    """Make `path` a link to a checkpoint beside it; it means the old or the new one at every moment."""
    temporary = temporary_name(path)
    temporary.symlink_to(target.name)
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
