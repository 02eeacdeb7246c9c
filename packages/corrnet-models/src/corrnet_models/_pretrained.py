"""Models in folders, as the Hugging Face Hub lays them out: `model.safetensors`, `config.json` and a model card."""

import hashlib
import json
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from corrnet_models._config import ModelConfig, PretrainedCfg
from corrnet_models._errors import MissingPackageError, ModelError
from corrnet_models._network import VideoModel
from corrnet_models._registry import build_model

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
CODE, PROCESSOR = "modeling_corrnet.py", "preprocessor_config.json"  # for transformers
PRETRAINED_FILES = (WEIGHTS, CONFIG, CARD, CODE, PROCESSOR)
"""What `save_pretrained` writes into its folder."""
_WRAPPERS = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_LIBRARY, _FORMAT_VERSION = "corrnet-models", 1


@dataclass(frozen=True)
class Pretrained:
    """A model with what is needed to use it.

    Attributes:
        model: The network, in evaluation mode.
        classes: Class names in the order of its outputs; empty where they are not known.
        metadata: What else was saved with it, in plain JSON types: how clips are cut, for example.
    """

    model: VideoModel
    classes: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


def unwrap_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict with the names that its tensors have in the model alone.

    DistributedDataParallel and DataParallel put `module.` into the names, `torch.compile` puts `_orig_mod.`, FSDP and
    Lightning have others, and they may stand in one another.

    Args:
        state: What `state_dict()` of the wrapped model returned; it stays as it is.

    Raises:
        ValueError: If two tensors would get one name.
    """
    plain: dict[str, str] = {}
    for name in state:
        own = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if plain.setdefault(own, name) != name:
            raise ModelError(f"{plain[own]} and {name} are both {own} without the names of wrappers")
    return {own: state[name] for own, name in plain.items()}


def is_pretrained(folder: str | Path) -> bool:
    """Return whether a folder holds what `save_pretrained` writes.

    Args:
        folder: The folder; it need not exist.

    Returns:
        True when both the weights and the configuration are there.
    """
    return all((Path(folder) / name).is_file() for name in (WEIGHTS, CONFIG))


def save_pretrained(
    model: VideoModel,
    folder: str | Path,
    *,
    classes: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    card: str | None = None,
    pretrained_cfg: PretrainedCfg | None = None,
    transformers_config: Mapping[str, Any] | None = None,
) -> None:
    """Write a model into a folder that can be uploaded to the Hugging Face Hub as it is.

    Args:
        model: The network.
        folder: It is made when it does not exist; files of an earlier model are replaced.
        classes: Class names in the order of the outputs; empty where they are not known.
        metadata: What else to keep, in plain JSON types.
        card: Text of the model card; None writes a short one that says how to load the model.
        pretrained_cfg: What the weights were trained on; None takes the model's own. Frames, classes and fingerprint
            are filled in.
        transformers_config: Further fields of `corrnet_models.huggingface.CorrNetConfig`, as `problem_type`.

    Raises:
        ValueError: If the number of classes is not that of the outputs.
    """
    config, head = model.config, model.fc
    if _is_own(head, model):
        config = config.replace(num_classes=_num_outputs(head, model))
    if classes and len(classes) != config.num_classes:
        raise ModelError(f"got {len(classes)} class names for a model with {config.num_classes} outputs")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in unwrap_names(model.state_dict()).items()
    }
    _write_weights(tensors, target / WEIGHTS)
    fingerprint = _sha256(target / WEIGHTS)
    known = {
        "num_frames": config.num_frames,
        "num_classes": config.num_classes,
        "classes": tuple(classes),
        "fingerprint": fingerprint,
    }
    described = (pretrained_cfg or model.pretrained_cfg or PretrainedCfg()).model_copy(update=known)
    content = {
        "library_name": _LIBRARY,
        "format_version": _FORMAT_VERSION,
        "model": config.model_dump(mode="json"),
        "head": repr(head) if _is_own(head, model) else None,
        "classes": list(classes),
        "metadata": dict(metadata or {}),
        "weights_sha256": fingerprint,
        "pretrained_cfg": described.model_dump(mode="json"),
    }
    processor = _processor(described)
    content |= _for_transformers(classes, has_processor=processor is not None) | dict(
        transformers_config or {}
    )
    (target / CODE).write_text(_REMOTE_CODE, encoding="utf-8")
    (target / PROCESSOR).unlink(missing_ok=True)
    if processor is not None:
        (target / PROCESSOR).write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    (target / CONFIG).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (target / CARD).write_text(
        card if card is not None else _card(config, classes, described.license), encoding="utf-8"
    )


def _write_weights(tensors: dict[str, Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.touch()  # the umask says who may read it; of a file of safetensors nobody else may
        mode = stat.S_IMODE(temporary.stat().st_mode)
        save_file(tensors, temporary, metadata={"format": "pt"})
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)
        temporary.replace(path)
    except SafetensorError as error:  # a full disk
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


_REMOTE_CODE = '''"""Lets transformers load this folder. It needs corrnet-models, which is on no package index.

From a clone of its repository: pip install ./packages/corr-ops ./packages/corrnet-models
"""

from corrnet_models.huggingface import CorrNetConfig, CorrNetForVideoClassification, CorrNetProcessor

__all__ = ["CorrNetConfig", "CorrNetForVideoClassification", "CorrNetProcessor"]
'''


_AUTO_CLASSES = {
    "AutoConfig": "modeling_corrnet.CorrNetConfig",
    "AutoModelForVideoClassification": "modeling_corrnet.CorrNetForVideoClassification",
}
# In both files: transformers takes a config.json with pretrained_cfg for one of timm, and asks it for the processor.
_AUTO_PROCESSOR = {"AutoImageProcessor": "modeling_corrnet.CorrNetProcessor"}


def _for_transformers(classes: Sequence[str], *, has_processor: bool) -> dict[str, Any]:
    """Return the entries of `config.json` by which the auto classes of transformers know what to make of it."""
    named = {
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
    }
    return {
        "model_type": "corrnet",
        "architectures": ["CorrNetForVideoClassification"],
        "auto_map": _AUTO_CLASSES | (_AUTO_PROCESSOR if has_processor else {}),
        **(named if classes else {}),
    }


def _processor(described: PretrainedCfg) -> dict[str, Any] | None:
    """Return what `preprocessor_config.json` holds; None where it is not known how clips of RGB are made."""
    values = {
        "num_frames": described.num_frames,
        "frame_stride": described.frame_stride,
        "short_side": described.short_side,
        "crop_size": described.input_size and described.input_size[1],
        "image_mean": described.mean and list(described.mean),
        "image_std": described.std and list(described.std),
    }
    if None in values.values() or described.input_size is None or described.input_size[0] != 3:
        return None
    names = {"image_processor_type": "CorrNetProcessor", "auto_map": _AUTO_PROCESSOR}
    return {**names, **values, "fps": described.fps}


def load_pretrained(
    source: str | Path, *, revision: str | None = None, head: nn.Module | None = None
) -> Pretrained:
    """Load what `save_pretrained` wrote. No code from the folder is run.

    Args:
        source: A folder, or the name `owner/model` of a repository of the Hugging Face Hub (extra `hub`).
        revision: Branch, tag or commit of the repository; None takes its newest state.
        head: For a model that was saved with a head of its own as `fc`, a module of that kind; it gets the weights.

    Returns:
        The model in evaluation mode, its classes and what else was saved with it; `model.pretrained_cfg` says what the
        weights were trained on.

    Raises:
        ValueError: If the folder holds no such model, or weights that are damaged or not those of its configuration;
            the message names them.
        ImportError: If `source` is no folder and huggingface-hub is not installed.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _download(str(source), revision)
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder} holds no model: {' and '.join(missing)} missing")
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if content["library_name"] != _LIBRARY or content["format_version"] != _FORMAT_VERSION:
            found = f"{content['library_name']} {content['format_version']}"
            raise ModelError(f"it is of {found}, this version reads {_LIBRARY} {_FORMAT_VERSION}")
        config = ModelConfig(**content["model"])
        classes, metadata = tuple(content["classes"]), dict(content["metadata"])
        described = PretrainedCfg(**(content.get("pretrained_cfg") or {}))
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ModelError(f"{folder / CONFIG} is not the configuration of a model: {reason}") from error
    model = build_model(config)
    if head is not None:
        model.fc = head
    elif content.get("head"):
        raise ModelError(
            f"{folder} holds a model with a head of its own, {' '.join(content['head'].split())}: give a module "
            "of that kind, load_pretrained(..., head=...)"
        )
    model.pretrained_cfg = described
    try:
        tensors = unwrap_names(load_file(folder / WEIGHTS))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    if content.get("weights_sha256") not in (None, _sha256(folder / WEIGHTS)):
        raise ModelError(
            f"{folder / WEIGHTS} is damaged, or not the file that was written with {CONFIG}: it does not match its "
            "digest, weights_sha256; save or fetch the model again"
        )
    own = model.state_dict()
    shapes = {name: (_shape(tensors, name), _shape(own, name)) for name in own.keys() | tensors.keys()}
    differing = [
        f"{name}: {found}, and {wanted} by the configuration"
        for name, (found, wanted) in sorted(shapes.items())
        if found != wanted
    ]
    if differing:
        raise ModelError(
            f"{folder / WEIGHTS} does not fit {CONFIG}: {len(differing)} tensors are missing, unexpected or of another "
            f"shape, for example {'; '.join(differing[:3])}"
        )
    model.load_state_dict(tensors)
    return Pretrained(model.eval(), classes, metadata)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return str(list(tensors[name].shape)) if name in tensors else "nothing"


def _download(name: str, revision: str | None) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ModelError(f"no folder {name}; models of the Hugging Face Hub are named owner/model")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingPackageError(
            f"no folder {name}; to load it from the Hugging Face Hub: pip install 'corrnet-models[hub]'"
        ) from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[WEIGHTS, CONFIG]))
    except OSError:
        raise
    except Exception as error:  # a wrong name, no such repository, no network: each has its own
        raise ModelError(f"{name} cannot be fetched from the Hugging Face Hub: {error}") from error


def _is_own(head: nn.Module, model: VideoModel) -> bool:
    """Return whether a model has a head that its configuration does not describe."""
    if isinstance(head, nn.Identity):
        return model.config.num_classes != 0
    return type(head) is not nn.Linear or head.out_features != model.config.num_classes or head.bias is None


def _num_outputs(head: nn.Module, model: VideoModel) -> int:
    weight = next(model.parameters())
    training = head.training
    with torch.no_grad():
        outputs: Tensor = head.eval()(weight.new_zeros(1, model.num_features))
    head.train(training)
    return outputs.shape[-1]


def _card(config: ModelConfig, classes: Sequence[str], license: str | None) -> str:
    named = f"\nClasses: {', '.join(classes)}.\n" if classes and len(classes) <= 50 else ""
    licensed = f"\nlicense: {license}" if license else ""
    return f"""---
library_name: {_LIBRARY}
pipeline_tag: video-classification{licensed}
---

A video classifier for {config.num_classes} classes, from clips of {config.num_frames} frames with \
{config.in_channels} channels.
{named}
corrnet-models is on no package index; from a clone of its repository:

```sh
pip install ./packages/corr-ops ./packages/corrnet-models
```

```python
from corrnet_models import load_pretrained

pretrained = load_pretrained("path/to/this/folder")
logits = pretrained.model(clips)  # float32 [N, {config.in_channels}, {config.num_frames}, H, W]
```
"""
