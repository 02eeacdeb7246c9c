"""Networks of other packages by name: `torchvision/NAME`, `timm/NAME` and `package.module:factory`.

A checkpoint decides neither which code runs nor what is fetched: names of torchvision and timm are looked up in their
lists, and a module that only a checkpoint names is imported when `CORRNET_ALLOW_MODULES` has it.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from corrnet_models import FrameByFrame
from corrnet_train.utils.errors import InputError, MissingPackageError
from corrnet_train.utils.nearest import did_you_mean
from corrnet_train.utils.versions import version_of
from video_data import ClipConfig

ALLOWED_MODULES = "CORRNET_ALLOW_MODULES"
_WEIGHTS = (
    "weights",
    "weights_backbone",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
)
_named: set[str] = set()  # modules that this process was told to import by its user


def make_network(
    name: str, *, num_classes: int, clip: ClipConfig, options: dict[str, Any], from_checkpoint: bool
) -> nn.Module:
    """Build a network of another package, without weights.

    Args:
        name: `torchvision/NAME`, `timm/NAME` or `package.module:factory`. A network of timm, which takes pictures,
            is applied frame by frame.
        num_classes: Outputs of its classifier.
        clip: The clips that it gets.
        options: Keywords for what builds it.
        from_checkpoint: Whether the name comes from a checkpoint, which its user has not written.

    Raises:
        InputError: There is no such network, it cannot be built, or a checkpoint names a module that is not allowed.
        MissingPackageError: The package cannot be imported; the message has the reason.
    """
    package, _, rest = name.partition("/")
    if package not in ("torchvision", "timm"):
        return _of_factory(name, num_classes, clip, options, from_checkpoint=from_checkpoint)
    for option in _WEIGHTS:
        if option in options:
            raise InputError(
                f"model.options.{option} cannot be set for {name}: weights come from a file, model.init_from"
            )
    if package == "torchvision":
        return _of_torchvision(name, rest, num_classes, clip, options)
    return _of_timm(name, rest, num_classes, clip, options)


def check_allowed(name: str) -> None:
    """Check that a network that a checkpoint or the folder of a run names may be built.

    Raises:
        InputError: It is made by a module that the user has neither named in this process nor allowed.
    """
    module = needs_leave(name)
    if module is not None and module not in _named:
        raise InputError(
            f"the network is {name}, code that a checkpoint names, and none is imported without leave: if you trust "
            f"that module, set the environment variable {ALLOWED_MODULES}={module} (several with commas between them)"
        )


def needs_leave(name: str) -> str | None:
    """Return the module that makes a network, where checkpoints that name it are refused in other processes."""
    if "/" in name or ":" not in name:
        return None
    module = name.partition(":")[0]
    allowed = {part.strip() for part in os.environ.get(ALLOWED_MODULES, "").split(",")}
    parents = {".".join(module.split(".")[:number]) for number in range(1, module.count(".") + 2)}
    return None if allowed & parents else module


def _of_torchvision(
    name: str, of_package: str, num_classes: int, clip: ClipConfig, options: dict[str, Any]
) -> nn.Module:
    models = _imported("torchvision.models", name)
    _check_known(name, of_package, models.list_models(module=models.video))
    if clip.modality != "rgb":
        raise InputError(f"{name} takes RGB, data.clip.modality is {clip.modality}")
    network: nn.Module = _built(
        name, lambda: models.get_model(of_package, weights=None, num_classes=num_classes, **options)
    )
    return network


def _of_timm(
    name: str, of_package: str, num_classes: int, clip: ClipConfig, options: dict[str, Any]
) -> nn.Module:
    timm = _imported("timm", name)
    if not timm.is_model(of_package):  # a name may end in the tag of weights
        _check_known(name, of_package, timm.list_models())
    keywords = {"in_chans": clip.num_channels, "num_classes": num_classes} | options
    network = _built(name, lambda: timm.create_model(of_package, pretrained=False, **keywords))
    return FrameByFrame(network, clip.num_frames)


def _of_factory(
    name: str, num_classes: int, clip: ClipConfig, options: dict[str, Any], *, from_checkpoint: bool
) -> nn.Module:
    if from_checkpoint:
        check_allowed(name)
    module_name, _, path = name.partition(":")
    _named.add(module_name)
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        factory: Any = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(
            f"model.name={name}: {module_name} cannot be imported, neither from the current folder {Path.cwd()} nor "
            f"from the environment: {_reason(error)}"
        ) from error
    for part in path.split("."):
        if not hasattr(factory, part):
            where = getattr(factory, "__name__", module_name)
            made = [key for key in dir(factory) if callable(getattr(factory, key, None)) and key[0] != "_"]
            raise InputError(f"model.name={name}: {where} has no {part}{did_you_mean(part, made)}")
        factory = getattr(factory, part)
    if not callable(factory):
        raise InputError(
            f"model.name={name} is of type {type(factory).__name__}, and no function or class that makes networks"
        )
    keywords = {"num_classes": num_classes} | options
    if _takes(factory, "num_frames"):
        keywords["num_frames"] = clip.num_frames
    network = _built(name, lambda: factory(**keywords))
    if not isinstance(network, nn.Module):
        raise InputError(f"model.name={name} made a {type(network).__name__}, and no torch.nn.Module")
    return network


def _imported(module: str, name: str) -> ModuleType:
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except Exception as error:  # a build for another torch fails with whatever it meets first
        raise MissingPackageError(
            f"model.name={name} needs {package}, which cannot be imported: {_reason(error)}. Install the {package} "
            f"that belongs to torch {version_of('torch')}"
        ) from error


def _check_known(name: str, of_package: str, known: Sequence[str]) -> None:
    if of_package not in known:
        package = name.partition("/")[0]
        raise InputError(
            f"model.name={name}: {package} has no such network{did_you_mean(of_package, known)}"
            + (f"; it has {', '.join(known)}" if len(known) < 50 else "")
        )


def _built(name: str, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except Exception as error:
        raise InputError(
            f"model.name={name} cannot be built: {_reason(error)}. Its keywords are those of model.options, also of a "
            "recipe (model.options={} empties them)"
        ) from error


def _takes(factory: Callable[..., Any], keyword: str) -> bool:
    try:
        return keyword in inspect.signature(factory).parameters
    except ValueError:  # of a callable that is not written in Python
        return False


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
