"""Errors that users can cause, and how all others are told from them.

What an argument, a recipe, a file, a video, the network or the machine is to blame for is raised as `InputError`,
`WorkError` or `MissingPackageError`, which are those of video_data, as `ModelError` of corrnet_models, as a pydantic
`ValidationError` of settings, or as an `OSError` of the system. `corrnet` shows their message in one line. Anything
else is a bug, for which it shows the traceback: a plain `ValueError` or `RuntimeError` is raised for that alone.
"""

from typing import Literal

from video_data.utils.errors import InputError, MissingPackageError, WorkError

__all__ = ["InputError", "Kind", "MissingPackageError", "WorkError", "kind_of"]

Kind = Literal["bad input", "failed work", "bug"]

# What torch, Triton and corr_ops say when memory or a disk is full, a process is killed, a device cannot be used, no
# compiler is there or a variable is wrong; they have no class for it.
_FROM_OUTSIDE: dict[str, Kind] = {
    "CORR_OPS_ISA must be": "bad input",
    "out of memory": "failed work",
    "can't allocate memory": "failed work",
    "Cannot allocate memory": "failed work",
    "No space left on device": "failed work",
    "PytorchStreamWriter failed": "failed work",
    "inline_container.cc": "failed work",  # of the same writer, in its end
    "Too many open files": "failed work",
    "DataLoader worker (pid": "failed work",
    "busy or unavailable": "failed work",
    "NVIDIA driver": "failed work",
    "no kernel image is available": "failed work",
    "uncorrectable ECC error": "failed work",
    "No working C++ compiler": "failed work",
    "Failed to find C compiler": "failed work",
}


def kind_of(error: BaseException) -> Kind:
    """Return who is to blame for an error.

    Returns:
        "bad input" for what was given, "failed work" for what the machine or the network did, else "bug".
    """
    if isinstance(error, InputError | MissingPackageError):
        return "bad input"
    if isinstance(error, WorkError | OSError | MemoryError):
        return "failed work"
    # Here and not above: the models take torch along.
    from pydantic import ValidationError

    import corrnet_models

    if isinstance(error, corrnet_models.ModelError | corrnet_models.MissingPackageError | ValidationError):
        return "bad input"
    if type(error) is ValueError or isinstance(error, RuntimeError):
        return next((kind for text, kind in _FROM_OUTSIDE.items() if text in str(error)), "bug")
    return "bug"
