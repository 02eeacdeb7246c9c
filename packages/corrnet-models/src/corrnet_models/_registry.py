"""Models by name: register, list, look up, build."""

import difflib
import fnmatch
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from corrnet_models._config import ModelConfig
from corrnet_models._errors import ModelError
from corrnet_models._network import VideoModel, VideoResNet
from corrnet_models._twostream import TwoStreamResNet


@dataclass(frozen=True)
class ModelInfo:
    """A registered model.

    Attributes:
        name: The name it is registered under.
        summary: One sentence that says what it is.
        config: Its configuration.
        resolution: Height and width of the frames it is meant for, in pixels.
        paper_gmacs: Billions of multiply-accumulates per clip as the paper prints them ("GFLOPs"),
            by clip length; empty where the paper gives none.
    """

    name: str
    summary: str
    config: ModelConfig
    resolution: int
    paper_gmacs: Mapping[int, float] = field(default_factory=dict)


_MODELS: dict[str, ModelInfo] = {}


def register_model(
    *, resolution: int = 224, paper_gmacs: Mapping[int, float] | None = None
) -> Callable[[Callable[[], ModelConfig]], Callable[[], ModelConfig]]:
    """Register a model under the name of the decorated function, which returns its configuration.

    The first line of the function's docstring becomes the model's summary.

    Args:
        resolution: Height and width of the frames the model is meant for, in pixels.
        paper_gmacs: Billions of multiply-accumulates as printed in the paper, by clip length.

    Returns:
        The decorator, which gives the function back as it is.

    Raises:
        ValueError: If the name is taken.
    """

    def register(make_config: Callable[[], ModelConfig]) -> Callable[[], ModelConfig]:
        name = make_config.__name__
        if name in _MODELS:
            raise ValueError(f"a model named {name!r} is registered already")
        summary = (inspect.getdoc(make_config) or "").partition("\n")[0]
        _MODELS[name] = ModelInfo(name, summary, make_config(), resolution, dict(paper_gmacs or {}))
        return make_config

    return register


def list_models(pattern: str | None = None) -> list[str]:
    """List the names of the registered models, sorted.

    Args:
        pattern: Shell-style pattern such as `"corrnet*"`; None lists all.

    Returns:
        Names for `create_model`, `model_config` and `model_info`.
    """
    return sorted(name for name in _MODELS if pattern is None or fnmatch.fnmatchcase(name, pattern))


def model_info(name: str) -> ModelInfo:
    """Look up a registered model.

    Args:
        name: A name from `list_models`.

    Returns:
        What it was registered with.

    Raises:
        ValueError: If there is no such model; the message has the nearest name and all that are allowed.
    """
    if name not in _MODELS:
        raise ModelError(
            f"unknown model {name!r}{_nearest(name, _MODELS)}; allowed: {', '.join(list_models())}"
        )
    return _MODELS[name]


def model_config(name: str, **overrides: Any) -> ModelConfig:
    """Return the configuration of a registered model, with some fields changed.

    Args:
        name: A name from `list_models`.
        **overrides: New values by field name of `ModelConfig`.

    Returns:
        A configuration of its own; the registered one stays as it is.

    Raises:
        ValueError: If there is no such model or field, or a value cannot work.
    """
    info = model_info(name)
    fields = ModelConfig.model_fields
    for key in overrides:
        if key not in fields:
            raise ModelError(
                f"unknown option {key!r} of model {name!r}{_nearest(key, fields)}; "
                f"allowed: {', '.join(fields)}"
            )
    return info.config.replace(**overrides)


def build_model(config: ModelConfig) -> VideoModel:
    """Build the network that a configuration describes, with freshly initialized weights.

    Args:
        config: The configuration; `flow_channels` above 0 makes a two-stream network.

    Returns:
        The network, in training mode.
    """
    return VideoResNet(config) if config.flow_channels == 0 else TwoStreamResNet(config)


def create_model(
    name: str, *, num_frames: int | None = None, num_classes: int | None = None, **overrides: Any
) -> VideoModel:
    """Build a registered model with freshly initialized weights.

    Args:
        name: A name from `list_models`.
        num_frames: Frames of a clip; None keeps the model's own number.
        num_classes: Outputs of the classifier; None keeps the model's own number.
        **overrides: New values by field name of `ModelConfig`.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: If there is no such model or field, or a value cannot work.
    """
    if num_frames is not None:
        overrides["num_frames"] = num_frames
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    return build_model(model_config(name, **overrides))


def _nearest(word: str, allowed: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.4)
    return f"; did you mean {matches[0]!r}?" if matches else ""
