"""Models by name: register, list, look up, build."""

import difflib
import fnmatch
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

from corrnet_models._config import ModelConfig
from corrnet_models._errors import ModelError
from corrnet_models._network import VideoFeatures, VideoModel, VideoResNet
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


_ALIASES = {"in_chans": "in_channels", "drop_rate": "dropout"}
"""Options that timm has under another name."""

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
        **overrides: New values by field name of `ModelConfig`; timm's `in_chans` and `drop_rate` are `in_channels`
            and `dropout`.

    Returns:
        A configuration of its own; the registered one stays as it is.

    Raises:
        ValueError: If there is no such model or field, or a value cannot work.
    """
    info = model_info(name)
    fields = ModelConfig.model_fields
    values: dict[str, Any] = {}
    for key, value in overrides.items():
        own = _ALIASES.get(key, key)
        if own not in fields:
            raise ModelError(
                f"unknown option {key!r} of model {name!r}{_nearest(key, [*fields, *_ALIASES])}; "
                f"allowed: {', '.join(fields)}"
            )
        if own in values:
            raise ModelError(f"{own} is given twice for model {name!r}: {own} and {key} are the same")
        values[own] = value
    return info.config.replace(**values)


def build_model(config: ModelConfig) -> VideoModel:
    """Build the network that a configuration describes, with freshly initialized weights.

    Args:
        config: The configuration; `flow_channels` above 0 makes a two-stream network.

    Returns:
        The network, in training mode.
    """
    return VideoResNet(config) if config.flow_channels == 0 else TwoStreamResNet(config)


@overload
def create_model(
    name: str,
    *,
    pretrained: bool | str | Path = False,
    num_frames: int | None = None,
    num_classes: int | None = None,
    features_only: Literal[False] = False,
    out_indices: int | Sequence[int] | None = None,
    **overrides: Any,
) -> VideoModel: ...


@overload
def create_model(
    name: str,
    *,
    pretrained: bool | str | Path = False,
    num_frames: int | None = None,
    num_classes: int | None = None,
    features_only: Literal[True],
    out_indices: int | Sequence[int] | None = None,
    **overrides: Any,
) -> VideoFeatures: ...


def create_model(
    name: str,
    *,
    pretrained: bool | str | Path = False,
    num_frames: int | None = None,
    num_classes: int | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **overrides: Any,
) -> VideoModel | VideoFeatures:
    """Build a registered model.

    Args:
        name: A name from `list_models`.
        pretrained: Where weights come from: a folder that `save_pretrained` wrote, or `owner/model` of the Hugging Face
            Hub. Filters are interpolated to another `num_frames`, and with another `num_classes` the classifier is
            freshly initialized. False initializes all weights; for True there are none, since none are published.
        num_frames: Frames of a clip; None keeps the model's own number, or that of the weights.
        num_classes: Outputs of the classifier; None keeps the model's own number, or that of the weights; 0 leaves the
            classifier out.
        features_only: Whether to build a `VideoFeatures`, which puts out the feature maps of stages.
        out_indices: With `features_only`, which stages, as in `VideoModel.forward_intermediates`; None is all four.
        **overrides: New values by field name of `ModelConfig`; timm's `in_chans` and `drop_rate` are `in_channels`
            and `dropout`.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: If there is no such model, field or stage, a value cannot work, or weights are of another model.
    """
    if out_indices is not None and not features_only:
        raise ModelError("out_indices says which stages features_only=True puts out; give both or neither")
    if num_frames is not None:
        overrides["num_frames"] = num_frames
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    config = model_config(name, **overrides)
    if pretrained is True:
        raise ModelError(
            f"no weights are published for {name}; give those of a model of your own, pretrained=FOLDER as "
            "save_pretrained writes it or pretrained='owner/model' of the Hugging Face Hub, or leave it False"
        )
    model = _build_pretrained(config, pretrained, overrides) if pretrained else build_model(config)
    return VideoFeatures(model, out_indices) if features_only else model


def _build_pretrained(config: ModelConfig, source: str | Path, given: Mapping[str, Any]) -> VideoModel:
    """Build a model with weights from elsewhere; clip length and classes are theirs where they are not given."""
    from corrnet_models._pretrained import load_pretrained  # it builds models itself

    loaded = load_pretrained(source).model
    kept = {key: getattr(loaded.config, key) for key in ("num_frames", "num_classes") if key not in given}
    config = config.replace(**kept)
    free = {"num_frames", "num_classes", "dropout", "zero_init_residual"}
    differing = [
        f"{key}={theirs!r}, not {own!r}"
        for key, own in config.model_dump(exclude=free).items()
        if (theirs := getattr(loaded.config, key)) != own
    ]
    if differing:
        raise ModelError(f"the weights in {source} are of another model: {'; '.join(differing)}")
    model = build_model(config)
    loaded.set_num_frames(config.num_frames)
    state = loaded.state_dict()
    if loaded.config.num_classes != config.num_classes:
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
        state |= {key: value for key, value in model.state_dict().items() if key.startswith("fc.")}
    model.load_state_dict(state)
    model.pretrained_cfg = loaded.pretrained_cfg
    return model


def _nearest(word: str, allowed: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.7)
    return f"; did you mean {matches[0]!r}?" if matches else ""
