"""What messages do not say: passwords, and names by the thousand."""

import re
from collections.abc import Collection, Iterable
from itertools import islice

MOST_NAMES = 10

# `scheme://user:password@`; a `Path` makes one slash of two. The password may hold what it should not, as a slash, but
# what begins with digits and a slash is a port and a path, in which `@` is allowed.
_USER = re.compile(
    r"""(?<![a-z0-9+.-])([a-z][a-z0-9+.-]+:/{1,2})(?:[^\s/'"]*@|(?!\[)[^\s/:@]*:(?!\d+/)\S*@)""",
    re.IGNORECASE,
)
# In a query, a fragment or behind `;`, and `user=NAME_password=` as in the paths of some cameras. A quote within a
# value belongs to it, one at its end to the text.
_SECRET = re.compile(
    r"([?&;#](?:[^=&?;#\s]*(?:auth|bearer|cookie|credential|hdn|hmac|jwt|key|otp|pas|policy|psw|pwd|secret|session|sig"
    r"|ticket|token)[^=&?;#\s]*|md5|pin|pw|sas|sid)=|_password=)"
    r"""(?:[^&#\s'"]|['"](?=\w))+""",
    re.IGNORECASE,
)


def hide_secrets(text: object) -> str:
    """Return a text in which the URLs have `***` for what opens doors.

    That is what stands before `@` in them, as a user and a password, and in their queries and fragments the values of
    names such as `token`, `password`, `X-Amz-Signature`, `sig` and `key`. A password with a space in it is not known
    from the text around it, nor is a secret that is a part of the path.
    """
    return _SECRET.sub(r"\1***", _USER.sub(r"\1***@", str(text)))


def part_name(source: str, span: tuple[float, float] | None) -> str:
    """Return what a video is called, or a part of it from one time to another in seconds."""
    return source if span is None else f"{source} from {span[0]:g} to {span[1]:g} s"


def some_of(names: Collection[str] | Iterable[str], *, most: int = MOST_NAMES) -> str:
    """Return names as a list for a message, the first `most` of them and how many more there are."""
    names = names if isinstance(names, Collection) else list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(islice(names, most))}{more}"
