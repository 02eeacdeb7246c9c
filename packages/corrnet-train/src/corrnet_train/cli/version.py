"""`corrnet --version`."""

import platform
from typing import Annotated

import typer

from corrnet_train.utils.versions import version_of

_PACKAGES = ("corrnet-train", "corrnet-models", "video-data", "corr-ops")


def show_version(wanted: bool) -> None:
    """Print the versions of the packages, torch and Python, without importing torch."""
    if not wanted:
        return
    for name in (*_PACKAGES, "torch"):
        typer.echo(f"{name:<14} {version_of(name)}")
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
