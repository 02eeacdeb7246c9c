"""What messages do not say: passwords, and names by the thousand."""

import re
from collections.abc import Collection, Iterable
from itertools import islice

MOST_NAMES = 10

# `scheme://user:password@`; a `Path` makes one slash of two.
_USER = re.compile(r"(?<![a-z0-9+.-])([a-z][a-z0-9+.-]+:/{1,2})[^\s/'\"]*@", re.IGNORECASE)
_SECRET = re.compile(
    r"([?&;][^=&?;\s]*(?:sign|sig|token|secret|pass|pwd|credential|key|auth|policy)[^=&?;\s]*=)[^&;#\s'\"]+",
    re.IGNORECASE,
)


def hide_secrets(text: object) -> str:
    """Return a text in which the URLs have `***` for what opens doors.

    That is what stands before `@` in them, as a user and a password, and in their queries the values of names such as
    `token`, `password`, `X-Amz-Signature` and `key`.
    """
    return _SECRET.sub(r"\1***", _USER.sub(r"\1***@", str(text)))


def some_of(names: Collection[str] | Iterable[str], *, most: int = MOST_NAMES) -> str:
    """Return names as a list for a message, the first `most` of them and how many more there are."""
    names = names if isinstance(names, Collection) else list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(islice(names, most))}{more}"
