"""The configuration of a run: one pydantic tree, filled from a YAML recipe and `key=value` overrides."""

import difflib
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from corrnet_train.augment import AugmentConfig
from corrnet_train.optim import OptimConfig
from corrnet_train.recipes import ConfigError, apply_override, default_run_dir, read_recipe
from corrnet_train.step import Precision, TrainConfig
from video_data import ClipConfig

_DERIVED_OPTIONS = {"num_classes": "the classes of data.shards", "num_frames": "data.clip.num_frames"}


class ModelConfig(BaseModel):
    """Which model; its clip length comes from `data.clip`, its classes from the shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("corrnet26", description="a name of `corrnet models`")
    options: dict[str, Any] = Field(
        default_factory=dict, description="fields of the model's own configuration, like dropout"
    )
    init_from: Path | None = Field(
        None,
        description="a checkpoint, the folder of a run or of an exported model whose weights to start from; "
        "unlike --resume, nothing else is taken",
    )
    new_head: bool = Field(
        False, description="with init_from: start with a new classifier, for other classes than the old ones"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for option, source in _DERIVED_OPTIONS.items():
            if option in self.options:
                raise ValueError(f"model.options.{option} cannot be set: it follows from {source}")
        if self.new_head and self.init_from is None:
            raise ValueError("model.new_head is for model.init_from, which is not given")
        return self


class DataConfig(BaseModel):
    """Where the clips come from and how they are cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: Path = Field(description="folder written by `corrnet pack`")
    train_split: str = Field("train", description="split to learn from")
    eval_split: str = Field("val", description="split that accuracy is measured on while training")
    clip: ClipConfig = Field(default_factory=ClipConfig)
    num_workers: NonNegativeInt = Field(
        2, description="decoding processes; 0 decodes in the training process"
    )


class EvalConfig(BaseModel):
    """How accuracy is measured (paper section 5: 10 clips, class probabilities averaged)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_clips: PositiveInt = Field(
        10, description="clips spaced uniformly over each video by `corrnet eval`, `predict` and `features`"
    )
    batch_size: PositiveInt = Field(4, description="videos a step of each process, while training")
    every_epochs: float = Field(
        1, ge=0, description="epochs between evaluations while training; 0: only at the end"
    )
    num_clips_training: PositiveInt = Field(1, description="clips a video in the evaluations while training")
    precise_bn: NonNegativeInt = Field(
        0, description="clips from which batch norm's statistics are estimated anew before each evaluation"
    )


class RunSettings(BaseModel):
    """Where the run is written and what it runs on; only seed and precision change what is learned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dir: Path = Field(
        Path("runs/default"), description="folder of checkpoints, metrics and TensorBoard events"
    )
    seed: int = Field(0, description="seed of weights, order and augmentation")
    device: str = Field("auto", description="auto (cuda when there is one), cpu, cuda or cuda:N")
    precision: Precision = Field(
        "fp32", description="bf16, fp16: autocast, weights stay in fp32; fp16 scales the loss"
    )
    checkpoint_every: PositiveInt = Field(500, description="steps between checkpoints")
    log_every: PositiveInt = Field(10, description="steps between lines of metrics.jsonl")
    wandb: str | None = Field(
        None, description="project of Weights & Biases to log to as well (extra wandb); none: no such log"
    )


class RunConfig(BaseModel):
    """Everything that defines a run. `corrnet train` writes it to `config.yaml` in the run's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    run: RunSettings = Field(default_factory=RunSettings)

    @model_validator(mode="after")
    def _check_augment(self) -> Self:
        if self.augment.rand_augment and self.data.clip.modality != "rgb":
            raise ValueError(
                f"augment.rand_augment is for RGB: data.clip.modality is {self.data.clip.modality}, and turning a "
                "picture would have to turn its optical flow"
            )
        return self


# Keys that may differ between a run and its continuation: they do not change what is learned.
RESUMABLE_KEYS = {
    "model.init_from", "data.shards", "data.num_workers", "eval.every_epochs", "eval.batch_size", "eval.num_clips",
    "eval.num_clips_training", "run.dir", "run.device", "run.checkpoint_every", "run.log_every", "run.wandb",
    "train.channels_last", "train.compile", "train.grad_checkpointing", "train.keep_every",
    "train.timeout", "train.micro_batch", "train.parallel",
}  # fmt: skip


def load_config(recipe: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Reads a recipe and applies overrides.

    Args:
        recipe: path of a YAML file, the name of a recipe that ships with the package, or several of them joined
            with `+` (`corrnet recipe list`). Without a `run.dir` the run gets one after it.
        overrides: `section.key=value` strings; values are read as YAML (`optim.clip_grad_norm=null`).

    Raises:
        ConfigError: an unknown file, key or value; the message names it and what is allowed.
    """
    tree = read_recipe(recipe)
    for override in overrides or []:
        apply_override(tree, override)
    if isinstance(tree.setdefault("run", {}), dict):
        tree["run"].setdefault("dir", default_run_dir(recipe))
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


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of recipes: all of `RunConfig`, none of it required, and `extends`."""
    schema = RunConfig.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)  # another recipe may give it
    schema["properties"]["extends"] = {
        "description": "recipes to start from, by name or path; the later ones win",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    return schema


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
    message = error["msg"].removeprefix("Value error, ")
    return message if isinstance(error["input"], dict) else f"{key}: {message}, got {error['input']!r}"


def _known_keys(section: list[str]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for name in section:
        annotation = model.model_fields[name].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)
