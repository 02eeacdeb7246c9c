"""Recipes: YAML files that extend one another, and changes on the command line, read as one tree of settings.

A recipe may start from others: `extends: [kinetics400, corrnet50]` takes them in order, then its own keys. On the
command line the same is written `kinetics400+corrnet50`.
"""

import importlib.resources
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from corrnet_train.utils.errors import InputError

Tree = dict[str, Any]


class ConfigError(InputError):
    """A recipe or an override that cannot be used; the message names the key and what is allowed."""


@dataclass(frozen=True)
class Recipe:
    """A recipe that ships with the package.

    Attributes:
        name: What `corrnet train` takes.
        summary: Its first line of comment.
        is_part: Whether it says too little to be trained alone, and is added to another with `+`.
    """

    name: str
    summary: str
    is_part: bool


def list_recipes() -> list[Recipe]:
    """Return the recipes that ship with the package, by name."""
    return [
        Recipe(name, _summary(file.read_text("utf-8")), is_part=is_part(read_recipe(name)))
        for name, file in sorted(_shipped().items())
    ]


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package, sorted."""
    return sorted(_shipped())


def read_recipe(recipe: str | Path) -> Tree:
    """Read a recipe and all that it extends.

    Args:
        recipe: Path of a YAML file, a name of `list_recipes`, or several of them joined with `+`, the later of
            which win.

    Raises:
        ConfigError: There is no such recipe, or it is not a tree of sections.
    """
    return _read_all([str(recipe)] if Path(recipe).is_file() else str(recipe).split("+"), Path(), ())


def is_part(tree: Tree) -> bool:
    """Whether a recipe says too little to be trained alone: it names no shards."""
    return "shards" not in tree.get("data", {})


def default_run_dir(recipe: str | Path) -> str:
    """Folder of a run whose recipe names none: `runs/` and the name of the recipe."""
    return "runs/" + "+".join(Path(part).stem for part in str(recipe).split("+"))


def apply_override(tree: Tree, override: str) -> None:
    """Set one `section.key=value` in a tree; the value is read as YAML.

    Raises:
        ConfigError: It has another form.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} must have the form section.key=value, like optim.lr=0.1")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"override {override!r}: {text!r} is not valid YAML") from None
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a section")
    node[last] = _number(value) if isinstance(value, str) else value


def merge(base: Tree, changes: Tree) -> Tree:
    """Return a tree with the values of `changes` over those of `base`; sections are merged, other values replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def flatten(tree: Tree, prefix: str = "") -> Tree:
    """Nested keys joined with dots: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: Tree = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _read_all(recipes: list[str], folder: Path, readers: tuple[str, ...]) -> Tree:
    tree: Tree = {}
    for recipe in recipes:
        tree = merge(tree, _read_one(recipe, folder, readers))
    return tree


def _read_one(recipe: str, folder: Path, readers: tuple[str, ...]) -> Tree:
    path = folder / recipe
    if path.is_file():
        name, text, folder = str(path.resolve()), _read_text(path), path.parent
    elif recipe in (shipped := _shipped()):
        name, text, folder = recipe, shipped[recipe].read_text("utf-8"), Path()
    else:
        by = f" (extended by {readers[-1]})" if readers else ""
        raise ConfigError(f"no recipe {recipe}{by}: neither a file nor one of {', '.join(recipe_names())}")
    if name in readers:
        raise ConfigError(f"recipes extend one another in a circle: {' -> '.join([*readers, name])}")
    tree = _parse(text, recipe)
    extends = tree.pop("extends", []) or []
    parents = [extends] if isinstance(extends, str) else extends
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{recipe}: extends must be a recipe or a list of recipes, got {extends!r}")
    return merge(_read_all(parents, folder, (*readers, name)), tree)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file: {error}") from None


def _parse(text: str, source: str) -> Tree:
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{source} must hold sections like model, data and optim, got {tree!r}")
    for name, section in tree.items():
        if section is None:  # all of its keys are commented out
            tree[name] = {}
        elif not isinstance(section, dict) and name != "extends":
            raise ConfigError(f"{source}: {name} must be a section with keys of its own, got {section!r}")
    return tree


def _shipped() -> dict[str, Traversable]:
    """Return the files of the folder beside this module, by name."""
    files = importlib.resources.files("corrnet_train.config").joinpath("recipes").iterdir()
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def _summary(text: str) -> str:
    return text.partition("\n")[0].lstrip("# ")


def _number(text: str) -> float | str:
    """YAML 1.1 reads 1e-3 as a string; people mean the number."""
    try:
        return float(text)
    except ValueError:
        return text
