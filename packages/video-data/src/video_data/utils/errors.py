"""Errors of other packages in words for users."""


def describe(error: BaseException) -> str:
    """One line that says what an exception means, without file names."""
    text = getattr(error, "strerror", None) or str(error) or "no details"
    return f"{type(error).__name__}: {' '.join(str(text).split())}"[:200]
