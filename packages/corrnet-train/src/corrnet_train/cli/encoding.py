"""Output in the encoding of the terminal, whatever that is."""

import io
import sys


def escape_what_no_terminal_takes() -> None:
    """Write what the encoding of the output has no character for as an escape in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def has_character(stream: object, character: str) -> bool:
    """Whether an output can show a character."""
    try:
        character.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeError, LookupError):
        return False
    return True
