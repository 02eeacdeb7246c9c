"""`corrnet --version`."""

import platform
from importlib import import_module
from typing import Annotated

import typer

_PACKAGES = ("corrnet-train", "corrnet-models", "video-data", "corr-ops")


def show_version(wanted: bool) -> None:
    """Print the versions of the packages, torch and Python, without importing torch."""
    if not wanted:
        return
    for name in (*_PACKAGES, "torch"):
        typer.echo(f"{name:<14} {_version(name)}")
    typer.echo(f"{'Python':<14} {platform.python_version()}")
    raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version",
        callback=show_version,
        is_eager=True,
        help="Show the versions of the packages, torch and Python, and exit.",
    ),
]


def _version(name: str) -> str:
    """Version of an installed distribution; of a package that is only found on the path, the one that it names."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    try:
        return version(name)
    except PackageNotFoundError:
        try:
            return str(import_module(name.replace("-", "_")).__version__)
        except ImportError:
            return "not installed"
