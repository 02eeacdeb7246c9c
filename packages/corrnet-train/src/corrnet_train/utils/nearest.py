"""What may have been meant by a name that is not known."""

import difflib
from collections.abc import Iterable
from pathlib import Path


def did_you_mean(word: str, known: Iterable[str], *, folder: Path = Path()) -> str:
    """Return the known names that are spelled almost as `word`, as the end of a message; empty where none is.

    Args:
        word: What was given.
        known: What is allowed.
        folder: Where these are names of files, the folder in which they are, which is put before them.
    """
    nearest = difflib.get_close_matches(word, list(known), n=3)
    return f"; did you mean {' or '.join(str(folder / name) for name in nearest)}?" if nearest else ""
