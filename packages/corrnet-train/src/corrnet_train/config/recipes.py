"""Recipes: YAML files that extend one another, and changes on the command line, read as one tree of settings.

A recipe may start from others: `extends: [kinetics400, corrnet50]` takes them in order, then its own keys. On the
command line the same is written `kinetics400+corrnet50`.
"""

import importlib.resources
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from corrnet_train.utils.errors import InputError
from corrnet_train.utils.nearest import did_you_mean
from video_data.utils.files import what_instead_of_file

Tree = dict[str, Any]

_TEXT, _NULL, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([^}]*)\})", re.ASCII)


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


def read_recipe(recipe: str | Path, *, text_keys: Collection[str] = ()) -> Tree:
    """Read a recipe and all that it extends.

    Args:
        recipe: Path of a YAML file, a name of `list_recipes`, or several of them joined with `+`, the later of
            which win.
        text_keys: Keys like `run.dir` whose values are text even where YAML would make a number or a date of them.

    Raises:
        ConfigError: There is no such recipe, it is not a tree of sections, or a key is given twice in one file.
    """
    names = [str(recipe)] if Path(recipe).is_file() else str(recipe).split("+")
    return _read_all(names, Path(), (), text_keys)


def is_part(tree: Tree) -> bool:
    """Whether a recipe says too little to be trained alone: it names no shards."""
    return "shards" not in tree.get("data", {})


def default_run_dir(recipe: str | Path) -> str:
    """Folder of a run whose recipe names none: `runs/` and the name of the recipe."""
    return "runs/" + "+".join(Path(part).stem for part in str(recipe).split("+"))


def apply_override(tree: Tree, override: str, *, text_keys: Collection[str] = ()) -> None:
    """Set one `section.key=value` in a tree; a section is merged as those of recipes are.

    Args:
        tree: What is changed.
        override: Its value is read as YAML.
        text_keys: Keys whose values are taken as they stand, but for `null` and for quotes around them.

    Raises:
        ConfigError: It has another form, or sets a key twice.
    """
    key, value = _read_override(override, text_keys)
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a section")
    node |= {last: value} if value == {} else merge(node, {last: value})


def check_given_once(overrides: Sequence[str], *, text_keys: Collection[str] = ()) -> None:
    """Check that no two of the `section.key=value` of a command line set the same key.

    Args:
        overrides: What is given.
        text_keys: As for `apply_override`.

    Raises:
        ConfigError: Two do; the message has both.
    """
    given: dict[str, str] = {}
    for override in overrides:
        key, _, text = override.partition("=")
        is_section = text.lstrip().startswith("{") and key not in text_keys
        keys = list(flatten(dict([_read_override(override, text_keys)]))) if is_section else [key]
        for new in keys:
            for old, before in given.items():
                if f"{new}.".startswith(f"{old}.") or old.startswith(f"{new}."):
                    raise ConfigError(
                        f"{new} is given twice, as {before!r} and as {override!r}: keep one of them"
                    )
        given |= dict.fromkeys(keys, override)


def expand_path(path: str, *, where: str) -> str:
    """Return a path with `~` and `$VARIABLE` or `${VARIABLE}` replaced as a shell does, and `$$` by one `$`.

    Args:
        path: The path; a single `$` before anything but a name stays.
        where: What names it in errors.

    Raises:
        ConfigError: A variable is not set, or there is no such user.
    """

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        name = match[2] or match[3]
        if name not in os.environ:
            raise ConfigError(
                f"{where}: {path}: the environment variable {name} is not set; $$ stands for a $ in a name"
            )
        return os.environ[name]

    expanded = os.path.expanduser(path)  # noqa: PTH111  (that of Path says nothing of which user)
    if expanded.startswith("~"):
        user = path.partition("/")[0]
        raise ConfigError(f"{where}: {path}: {user} is no home folder; ./{user} is a folder of that name")
    return _VARIABLE.sub(value, expanded)


def keep_path(path: str) -> str:
    """Return a path as a recipe has it that means this one, whatever is in its name."""
    return f"{'./' if path.startswith('~') else ''}{path.replace('$', '$$')}"


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


def _read_all(recipes: list[str], folder: Path, readers: tuple[str, ...], text_keys: Collection[str]) -> Tree:
    tree: Tree = {}
    for recipe in recipes:
        tree = merge(tree, _read_one(recipe, folder, readers, text_keys))
    return tree


def _read_one(recipe: str, folder: Path, readers: tuple[str, ...], text_keys: Collection[str]) -> Tree:
    path = folder / recipe
    by = f" (extended by {readers[-1]})" if readers else ""
    if path.is_file():
        name, text, folder = str(path.resolve()), _read_text(path), path.parent
    elif recipe in (shipped := _shipped()):
        name, text, folder = recipe, shipped[recipe].read_text("utf-8"), Path()
    elif what := what_instead_of_file(path):
        raise ConfigError(f"{path}{by} is {what}, and a recipe is a YAML file")
    else:
        names = recipe_names()
        meant = did_you_mean(recipe, names)
        raise ConfigError(f"no recipe {recipe}{by}: neither a file nor one of {', '.join(names)}{meant}")
    if name in readers:
        raise ConfigError(f"recipes extend one another in a circle: {' -> '.join([*readers, name])}")
    tree = _parse(text, recipe, text_keys)
    extends = tree.pop("extends", []) or []
    parents = [extends] if isinstance(extends, str) else extends
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{recipe}: extends must be a recipe or a list of recipes, got {extends!r}")
    parents = [expand_path(parent, where=f"{recipe}: extends") for parent in parents]
    return merge(_read_all(parents, folder, (*readers, name), text_keys), tree)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file: {error}") from None


def _parse(text: str, source: str, text_keys: Collection[str]) -> Tree:
    try:
        tree = _load(text, text_keys)
    except _RefusedError as error:
        raise ConfigError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{source} must hold sections like model, data and optim, got {tree!r}")
    for name, section in tree.items():
        if section is None:  # all of its keys are commented out
            tree[name] = {}
        elif not isinstance(section, dict) and name != "extends":
            raise ConfigError(f"{source}: {not_a_section(name, section)}")
    return tree


def not_a_section(name: str, value: object) -> str:
    """Return what is wrong where a section has a value."""
    hint = "; data.eval_split=none trains without evaluation" if name == "eval" else ""
    return f"{name} must be a section with keys of its own, got {value!r}{hint}"


def _shipped() -> dict[str, Traversable]:
    """Return the files of the folder beside this module, by name."""
    files = importlib.resources.files("corrnet_train.config").joinpath("recipes").iterdir()
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def _summary(text: str) -> str:
    return text.partition("\n")[0].lstrip("# ")


def _read_override(override: str, text_keys: Collection[str]) -> tuple[str, Any]:
    """Return the key and the value of `section.key=value`."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} must have the form section.key=value, like optim.lr=0.1")
    is_text = key in text_keys
    try:
        node = yaml.compose(text, _Loader)
        is_written_out = node is None or node.tag == _NULL or getattr(node, "style", None) in ("'", '"')
        keeps = is_text and not is_written_out
        return key, text.strip() if keeps else _load(text, text_keys, f"{key}.")
    except _RefusedError as error:
        raise ConfigError(f"override {override!r}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        if is_text:
            return key, text.strip()
        raise ConfigError(f"override {override!r}: {text!r} is not valid YAML") from None


class _RefusedError(yaml.YAMLError):
    """What YAML would read as something that hardly anybody means."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would take the last one, and numbers of base 8 and 60.

    It reads 1e-3 as a number, too.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                where = f"line {line}" if lines[name] == line else f"lines {lines[name]} and {line}"
                raise _RefusedError(f"{key.value} is given twice, in {where}: keep one of them")
            lines[name] = line
        return node


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    """Return a number as it is written: YAML would take 010 for 8, and 1:30 for 90."""
    is_int = node.tag == _INT
    value: int | float = loader.construct_yaml_int(node) if is_int else loader.construct_yaml_float(node)
    base = 60 if ":" in node.value else 8 if is_int and _OCTAL.fullmatch(node.value) else None
    if base is not None:
        raise _RefusedError(
            f"{node.value}, in line {node.start_mark.line + 1}, is {value} in YAML, which reads it in base {base}: "
            f"write {value}, or {'leave out the 0 in front' if base == 8 else 'put quotes around a text'}"
        )
    return value


_Loader.add_constructor(_INT, _number)
_Loader.add_constructor(_FLOAT, _number)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$", re.ASCII),
    list("-+.0123456789"),
)


def _load(text: str, text_keys: Collection[str], prefix: str = "") -> Any:
    """Read YAML, with the values of `text_keys` as text; `prefix` is what comes before the keys in it."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _keep_text(node, prefix, text_keys)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _keep_text(node: yaml.Node, prefix: str, text_keys: Collection[str]) -> None:
    if isinstance(node, yaml.SequenceNode):  # of mappings that are merged
        for item in node.value:
            _keep_text(item, prefix, text_keys)
    if not isinstance(node, yaml.MappingNode):
        return
    for number, (key, value) in enumerate(node.value):
        if key.tag == _MERGE:
            _keep_text(value, prefix, text_keys)
        elif not isinstance(value, yaml.ScalarNode):
            _keep_text(value, f"{prefix}{key.value}.", text_keys)
        elif f"{prefix}{key.value}" in text_keys and value.tag != _NULL:
            node.value[number] = (key, yaml.ScalarNode(_TEXT, value.value))
