"""From recipes and `key=value` overrides to the configuration of a run, and back."""

import copy
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from corrnet_train.config.recipes import (
    ConfigError,
    apply_override,
    default_run_dir,
    expand_path,
    flatten,
    keep_path,
    not_a_section,
    read_recipe,
)
from corrnet_train.config.schema import RESUMABLE, RunConfig

_ALMOST = 0.75  # from which on two names are spelled almost alike, for difflib


def load_config(recipe: str | Path, overrides: Sequence[str] | None = None) -> RunConfig:
    """Read a recipe and apply overrides.

    Args:
        recipe: Path of a YAML file, the name of a recipe that ships with the package, or several of them joined
            with `+` (`corrnet recipe list`). Without a `run.dir` the run gets one after it.
        overrides: `section.key=value` strings; values are read as YAML (`optim.clip_grad_norm=null`), and the later
            ones win.

    `~` and `$VARIABLE` in paths are replaced by what they stand for, `$$` by a `$`; text stays text, also where it
    looks like a number or a date.

    Raises:
        ConfigError: An unknown file, key or value; the message names it and what is allowed.
    """
    tree = read_recipe(recipe, text_keys=text_keys())
    if isinstance(tree.setdefault("run", {}), dict):
        tree["run"].setdefault("dir", keep_path(default_run_dir(recipe)))
    return complete_config(tree, overrides or [])


def complete_config(tree: dict[str, Any], overrides: Sequence[str]) -> RunConfig:
    """Apply overrides to the settings of a recipe that was read with `text_keys`, as `load_config` does.

    Raises:
        ConfigError: An unknown key or value.
    """
    texts = text_keys()
    for override in overrides:
        apply_override(tree, override, text_keys=texts)
    _change_paths(tree, lambda key, path: expand_path(path, where=key))
    return parse_config(tree)


def text_keys() -> set[str]:
    """Keys whose values are text or paths, also where YAML would make a number or a date of them."""
    kinds = {key: _kinds(field.annotation) - {type(None)} for key, field in settings().items()}
    return {key for key, of_key in kinds.items() if of_key <= {str, Path}}


def parse_config(tree: dict[str, Any]) -> RunConfig:
    """Validate a nested dict as a `RunConfig`.

    Raises:
        ConfigError: With one line for every wrong key or value.
    """
    mixed = [line for key, value in flatten(tree).items() if (line := _mixed_up(key, value))]
    if mixed:
        raise ConfigError("\n".join(mixed))
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise explained(error) from None


def explained(error: ValidationError, section: str = "") -> ConfigError:
    """Return pydantic's error about values with a line for each that names its key.

    Args:
        error: What pydantic found.
        section: What stands before the keys, as `model.options`; empty where they are those of `RunConfig`.
    """
    return ConfigError(
        "\n".join(_explain(item, section.split(".") if section else []) for item in error.errors())
    )


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Return the configuration as plain JSON types (paths as strings)."""
    return config.model_dump(mode="json")


def recipe_text(config: RunConfig) -> str:
    """Return the configuration as a recipe: YAML of which `load_config` makes it again."""
    return yaml.safe_dump(recipe_tree(config_to_dict(config)), sort_keys=False)


def recipe_tree(tree: dict[str, Any]) -> dict[str, Any]:
    """Return what `config_to_dict` gives as `complete_config` takes it: each path stands for itself."""
    tree = copy.deepcopy(tree)
    _change_paths(tree, lambda _, path: keep_path(path))
    return tree


def is_recipe_text(content: bytes) -> bool:
    """Whether a recipe has the form of `recipe_text`, of any version, so that no comment and no `extends` is in it."""
    try:
        tree = yaml.safe_load(content)
        is_whole = isinstance(tree, dict) and tree.keys() >= {"model", "data", "optim", "run"}
        return is_whole and yaml.safe_dump(tree, sort_keys=False).encode() == content
    except (yaml.YAMLError, ValueError, RecursionError):
        return False


def _change_paths(tree: dict[str, Any], change: Callable[[str, str], str]) -> None:
    """Replace the paths in a tree by what a function makes of their key and text."""
    fields = settings()
    for key, value in flatten(tree).items():
        field = fields.get(key)
        if isinstance(value, str) and field and Path in _kinds(field.annotation):
            section, name = key.split(".")
            tree[section][name] = change(key, value)


def settings(section: type[BaseModel] = RunConfig, prefix: str = "") -> dict[str, FieldInfo]:
    """Return every setting by its key, like `data.clip.num_frames`."""
    found: dict[str, FieldInfo] = {}
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= settings(kind, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field
    return found


def keys_named(name: str, *, cutoff: float = _ALMOST) -> list[str]:
    """Return the settings that are called so, in whichever section: `epochs` is `optim.epochs`.

    Args:
        name: What comes after the last dot, or a whole key.
        cutoff: How similar a name must be where none is the same, up to 1: none other than the same.
    """
    keys = list(settings())
    if name in keys:
        return [name]
    names = {key.rpartition(".")[2] for key in keys}
    nearest = [name] if name in names else difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return [key for key in keys if key.rpartition(".")[2] in nearest]


def resumable_keys() -> set[str]:
    """Keys that may differ between a run and its continuation: those that are `Resumable`."""
    return {key for key, field in settings().items() if RESUMABLE in field.metadata}


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of recipes: all of `RunConfig`, none of it required, and `extends`."""
    schema = RunConfig.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)  # another recipe may give it
    schema["properties"]["extends"] = {
        "description": "recipes to start from, by name or path; the later ones win",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    return schema


def _explain(error: Any, section: list[str]) -> str:
    location = section + [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=_ALMOST)
        elsewhere = keys_named(location[-1], cutoff=1.0 if near else _ALMOST)
        near = near or difflib.get_close_matches(location[-1], known, n=1, cutoff=0.0)
        hint = " or ".join(elsewhere or [".".join([*location[:-1], *near])])
        return f"unknown key {key}: did you mean {hint}? Allowed here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"missing key {key}: give it in the recipe or as {key}=..."
    if error["type"] == "model_type":
        return not_a_section(key, error["input"])
    message: str = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], dict):
        return message
    return f"{key}: {message}" if "; got " in message else f"{key}: {message}, got {error['input']!r}"


def _kinds(annotation: Any) -> set[Any]:
    """Return the types of the values that a setting takes."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    parts = get_args(annotation)
    return {kind for part in parts for kind in _kinds(part)} if parts else {annotation}


def _mixed_up(key: str, value: Any) -> str | None:
    """Return what is wrong where a number, true or false, or a text stands for another of them; pydantic takes most."""
    field = settings().get(key)
    kinds = _kinds(field.annotation) if field else set()
    for item in value if isinstance(value, list) else [value]:
        shown = str(item).lower() if isinstance(item, bool) else repr(item)
        or_null = " or null" if type(None) in kinds else ""
        if kinds & {int, float} and isinstance(item, bool | str):
            return f"{key}: Input should be a number{or_null}, got {shown}"
        is_number = type(item) in (int, float)
        if bool in kinds and (is_number or (isinstance(item, str) and str not in kinds)):
            return f"{key}: Input should be true or false, got {shown}"
    return None


def _known_keys(section: list[str]) -> list[str]:
    model: type[BaseModel] = RunConfig
    names = iter(section)
    for name in names:
        annotation = model.model_fields[name].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
        if get_origin(annotation) is dict:
            next(names, None)  # its keys are free
    return list(model.model_fields)
