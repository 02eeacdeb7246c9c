"""Errors that users can cause; anything else that comes out of this package is a bug in it, or in what calls it."""


class ModelError(ValueError):
    """A name, an option or a folder of a model that cannot be used; the message says what is allowed."""


class MissingPackageError(ImportError):
    """An optional package that is not installed; the message says how to install it."""
