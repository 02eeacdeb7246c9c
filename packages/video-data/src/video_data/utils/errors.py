"""Errors that users can cause, and errors of other packages in words for users.

What is wrong with an argument, a setting, a file, a video or the machine is raised as one of these classes or as an
`OSError` of the system; each has a message for users. Anything else that comes out of this package is a bug in it.
They are a `ValueError`, a `RuntimeError` and an `ImportError` too, and keep their class on the way between processes.
"""

from video_data.utils.messages import hide_secrets


class InputError(ValueError):
    """An argument, a setting or a file that cannot be used; the message says what was got and what is allowed."""


class WorkError(RuntimeError):
    """Work that cannot go on for a reason outside of the program: too much is unreadable, or a process was killed."""


class WorkersError(WorkError):
    """Worker processes died or hang; the message says how, and what they worked on.

    Attributes:
        timed_out: Whether they live, and gave no answer in time.
    """

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class MissingPackageError(ImportError):
    """An optional package that is not installed; the message says how to install it."""


class RemoteError(OSError):
    """A remote file could not be fetched, or what came is not what the manifest says.

    Attributes:
        status: Status of the server's answer in HTTP; None where there was none, or the status is not the reason.
    """

    status: int | None = None


def describe(error: BaseException) -> str:
    """One line that says what an exception means, without file names and passwords."""
    text = hide_secrets(getattr(error, "strerror", None) or str(error) or "no details")
    return f"{type(error).__name__}: {' '.join(str(text).split())}"[:200]
