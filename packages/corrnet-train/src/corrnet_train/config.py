"""The configuration of a run: one pydantic tree, filled from a YAML recipe and `key=value` overrides."""

import difflib
import importlib.resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from corrnet_train.optim import OptimConfig
from corrnet_train.recipes import list_recipes
from corrnet_train.step import Precision, TrainConfig
from video_data import ClipConfig


class ConfigError(ValueError):
    """A recipe or an override that cannot be used; the message names the key and what is allowed."""


class ModelConfig(BaseModel):
    """Which model; its clip length comes from `data.clip`, its classes from the shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("corrnet26", description="a name of `corrnet models`")
    options: dict[str, Any] = Field(
        default_factory=dict, description="fields of the model's own configuration"
    )


class DataConfig(BaseModel):
    """Where the clips come from and how they are cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: Path = Field(description="folder written by `corrnet pack`")
    train_split: str = "train"
    eval_split: str = "val"
    clip: ClipConfig = Field(default_factory=ClipConfig)
    num_workers: NonNegativeInt = Field(
        2, description="decoding processes; 0 decodes in the training process"
    )


class EvalConfig(BaseModel):
    """How accuracy is measured (paper section 5: 10 clips, class probabilities averaged)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_clips: PositiveInt = Field(10, description="clips spaced uniformly over each video")
    batch_size: PositiveInt = Field(4, description="videos a step")
    every_epochs: float = Field(
        1, ge=0, description="epochs between evaluations while training; 0: only at the end"
    )
    num_clips_training: PositiveInt = Field(1, description="clips a video in the evaluations while training")


class RunSettings(BaseModel):
    """Where the run is written and what it runs on; only seed and precision change what is learned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dir: Path = Field(
        Path("runs/default"), description="folder of checkpoints, metrics and TensorBoard events"
    )
    seed: int = 0
    device: str = Field("auto", description="auto (cuda when there is one), cpu, cuda or cuda:N")
    precision: Precision = Field(
        "fp32", description="bf16, fp16: autocast, weights stay in fp32; fp16 scales the loss"
    )
    checkpoint_every: PositiveInt = Field(500, description="steps between checkpoints")
    log_every: PositiveInt = Field(10, description="steps between lines of metrics.jsonl")


class RunConfig(BaseModel):
    """Everything that defines a run. `corrnet train` writes it to `config.yaml` in the run's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    run: RunSettings = Field(default_factory=RunSettings)


# Keys that may differ between a run and its continuation: they do not change what is learned.
RESUMABLE_KEYS = {
    "data.shards", "data.num_workers", "eval.every_epochs", "eval.batch_size", "eval.num_clips",
    "eval.num_clips_training", "run.dir", "run.device", "run.checkpoint_every", "run.log_every",
    "train.channels_last", "train.compile", "train.grad_checkpointing", "train.keep_every",
    "train.timeout", "train.micro_batch",
}  # fmt: skip


def load_config(recipe: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Reads a recipe and applies overrides.

    Args:
        recipe: path of a YAML file, or the name of a recipe that ships with the package (`list_recipes`).
        overrides: `section.key=value` strings; values are read as YAML (`optim.clip_grad_norm=null`).

    Raises:
        ConfigError: an unknown file, key or value; the message names it and what is allowed.
    """
    tree = _read_recipe(recipe)
    for override in overrides or []:
        _apply_override(tree, override)
    return parse_config(tree)


def parse_config(tree: dict[str, Any]) -> RunConfig:
    """Validates a nested dict as a `RunConfig`.

    Raises:
        ConfigError: with one line for every wrong key or value.
    """
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item) for item in error.errors())) from None


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain JSON types (paths as strings)."""
    return config.model_dump(mode="json")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined with dots: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _read_recipe(recipe: str | Path) -> dict[str, Any]:
    path = Path(recipe)
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    elif str(recipe) in list_recipes():
        text = (importlib.resources.files("corrnet_train") / "recipes" / f"{recipe}.yaml").read_text("utf-8")
    else:
        raise ConfigError(f"no recipe {recipe}: neither a file nor one of {', '.join(list_recipes())}")
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{recipe} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{recipe} must hold sections ({', '.join(RunConfig.model_fields)}), got {tree!r}")
    return tree


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} must have the form section.key=value, like optim.lr=0.1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: {text!r} is not valid YAML") from None
    if isinstance(value, str):
        value = _number(value)
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a section")
    node[last] = value


def _number(text: str) -> float | str:
    """YAML 1.1 reads 1e-3 as a string; people mean the number."""
    try:
        return float(text)
    except ValueError:
        return text


def _explain(error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        nearest = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.0)
        hint = ".".join([*location[:-1], nearest[0]]) if nearest else ""
        return f"unknown key {key}: did you mean {hint}? Allowed here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"missing key {key}: give it in the recipe or as {key}=..."
    return f"{key}: {error['msg']}, got {error['input']!r}"


def _known_keys(section: list[str]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for name in section:
        annotation = model.model_fields[name].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)
