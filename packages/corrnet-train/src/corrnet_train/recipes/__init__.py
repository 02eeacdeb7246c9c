"""The recipes that ship with the package; imports nothing heavy, since shells ask for their names."""

import importlib.resources
from pathlib import Path


def list_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = importlib.resources.files("corrnet_train.recipes")
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))
