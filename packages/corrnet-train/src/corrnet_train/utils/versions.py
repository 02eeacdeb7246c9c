"""Versions of installed packages, found without importing those that are slow to import."""

from importlib import import_module


def version_of(name: str) -> str:
    """Return the version of a distribution, of a package that is only found on the path the one that it names.

    Args:
        name: Name of the distribution, as in corr-ops.

    Returns:
        The version, or "not installed".
    """
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    try:
        return version(name)
    except PackageNotFoundError:
        try:
            return str(import_module(name.replace("-", "_")).__version__)
        except (ImportError, AttributeError):
            return "not installed"
