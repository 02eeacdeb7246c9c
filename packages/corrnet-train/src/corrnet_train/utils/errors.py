"""Errors that users can cause, and how all others are told from them.

What an argument, a recipe, a file, a video, the network or the machine is to blame for is raised as `InputError`,
`WorkError` or `MissingPackageError`, which are those of video_data, as `ModelError` of corrnet_models, as a pydantic
`ValidationError` of settings, or as an `OSError` of the system. `corrnet` shows their message in one line. Anything
else is a bug, for which it shows the traceback: a plain `ValueError` or `RuntimeError` is raised for that alone.
"""

import errno
from typing import Literal, NamedTuple

from video_data.utils.errors import InputError, MissingPackageError, WorkError

__all__ = ["InputError", "Kind", "MissingPackageError", "WorkError", "kind_of", "message_of"]

Kind = Literal["bad input", "failed work", "bug"]

_NO_ROOM = "free some space there, or write elsewhere; files that were there are as they were"
_PERHAPS_SHARED_MEMORY = (
    "a disk or shared memory (/dev/shm), which decoding processes use, is full; free some space, or take fewer of them "
    "(data.num_workers, --num-workers; 0 needs no shared memory)"
)
_WORKERS = "fewer decoding processes (data.num_workers, --num-workers) or smaller batches take less"
_BATCH_NORM = "take more clips at once (train.micro_batch, optim.batch_size), or larger ones (data.clip)"
_GPU_MEMORY = "take fewer clips at once (train.micro_batch, --batch-size, --num-clips), or another --device"


class _Foreign(NamedTuple):
    """Who is to blame for an error of another package, what it should be called, and what helps."""

    kind: Kind
    remedy: str = ""
    name: str = ""  # takes the place of the text where that is long


# What torch, Triton and corr_ops say when memory or a disk is full, a process is killed, a device cannot be used, no
# compiler is there or a variable is wrong; they have no class for it. The first text that is found counts.
_FROM_OUTSIDE: dict[str, _Foreign] = {
    "CORR_OPS_ISA must be": _Foreign("bad input"),
    "Expected more than 1 value per channel when training": _Foreign(
        "bad input", _BATCH_NORM, "batch norm has one value of each channel to normalize by in training"
    ),
    "does not have a deterministic implementation": _Foreign(
        "bad input", "run.deterministic=true is not for this model; give run.deterministic=false"
    ),
    "CUDA out of memory": _Foreign("failed work", _GPU_MEMORY),
    "out of memory": _Foreign("failed work", _WORKERS),
    "can't allocate memory": _Foreign("failed work", _WORKERS),
    "Cannot allocate memory": _Foreign("failed work", _WORKERS),
    "No space left on device": _Foreign("failed work", _NO_ROOM),
    "Disk quota exceeded": _Foreign("failed work", _NO_ROOM),
    "PytorchStreamWriter failed": _Foreign("failed work", _NO_ROOM),
    "inline_container.cc": _Foreign("failed work", _NO_ROOM),  # of the same writer, in its end
    "Too many open files": _Foreign("failed work", "raise the limit: ulimit -n 65536"),
    "busy or unavailable": _Foreign("failed work"),
    "NVIDIA driver": _Foreign("failed work"),
    "no kernel image is available": _Foreign("failed work"),
    "uncorrectable ECC error": _Foreign("failed work"),
    "No working C++ compiler": _Foreign("failed work"),
    "Failed to find C compiler": _Foreign("failed work"),
}


def kind_of(error: BaseException) -> Kind:
    """Return who is to blame for an error.

    Returns:
        "bad input" for what was given, "failed work" for what the machine or the network did and for a video that
        cannot be read, else "bug".
    """
    from video_data.media.limits import VideoError

    if isinstance(error, InputError | MissingPackageError) and not isinstance(error, VideoError):
        return "bad input"
    if isinstance(error, WorkError | VideoError | OSError | MemoryError):
        return "failed work"
    # Here and not above: the models take torch along.
    from pydantic import ValidationError

    import corrnet_models

    if isinstance(error, corrnet_models.ModelError | corrnet_models.MissingPackageError | ValidationError):
        return "bad input"
    if type(error) is ValueError or isinstance(error, RuntimeError):
        return next((found.kind for text, found in _FROM_OUTSIDE.items() if text in str(error)), "bug")
    return "bug"


def message_of(error: BaseException) -> str:
    """Return what an error of which the kind is no bug says to users.

    Errors of the system and of other packages say in one line what is wrong and what helps.
    """
    if isinstance(error, InputError | MissingPackageError | WorkError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"memory is full; {_WORKERS}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        return f"{error.strerror}: {_PERHAPS_SHARED_MEMORY}"  # as of a semaphore, of which nobody says where it is
    for text, found in _FROM_OUTSIDE.items():
        if text in str(error):
            line = next(line for line in str(error).splitlines() if text in line)
            # torch says where in its code it was, and goes on with figures and advice.
            sentence = next((part for part in line.split(". ") if text in part), line).rstrip(".")
            what = found.name or (line if isinstance(error, OSError) else sentence)
            return f"{what}; {found.remedy}" if found.remedy else what
    return str(error)
