"""What a checkpoint holds, how it is saved and loaded, and whether a run may continue from it."""

import contextlib
import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from corrnet_models import VideoModel, unwrap_names
from corrnet_train.checkpoint.digest import load_checked, seal
from corrnet_train.checkpoint.folders import LAST, checkpoint_names, is_sharded, resume_command, step_in_name
from corrnet_train.checkpoint.foreign import LIKE, WANTED, has_weights, what_content, what_file
from corrnet_train.config.load import config_to_dict, resumable_keys, settings
from corrnet_train.config.recipes import flatten
from corrnet_train.config.schema import RunConfig
from corrnet_train.distributed.parallelize import full_tensor, placed_state
from corrnet_train.utils.errors import InputError
from video_data.utils.files import atomic_path, what_instead_of_file
from video_data.utils.messages import some_of
from video_data.utils.settings import changed_settings

FORMAT_VERSION = 3
_EPOCHS = "optim.epochs"


class CheckpointError(InputError):
    """A checkpoint that cannot be used for what was asked; the message says what differs."""


class PlainWeightsError(CheckpointError):
    """A file holds weights alone, without the recipe and the classes that belong to them."""


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on to the bit, in plain types and tensors.

    Attributes:
        step: Number of finished steps.
        config: The run's configuration (`config_to_dict`).
        classes: Class names in the order of the model's outputs.
        model: State dict of the model.
        optimizer: State dict of the optimizer.
        loader: State of the training loader (manifest hash, split, seed, position).
        rng: The generator states of torch by device name, for each rank.
        best_score: Best `EvalResult.score` of the held-out videos so far; -inf before the first evaluation.
        train_seconds: Time spent training so far, in seconds.
        scaler: State of the loss scaler; empty without fp16.
        ema: State of the averaged weights (`optim.AveragedModel`); empty where they are not kept.
        norm_batch: Clips over which batch norm normalized; None where it is not recorded.
        stale_evaluations: Evaluations since the best one.
        evaluation_due: Whether the evaluation after this step has yet to be made.
        replaced: Training samples so far that could not be read and were replaced, of all ranks.
        meter: Sums of what the next log line will tell (`run_log.Meter`); empty right after a line.
        targets: What the outputs of the model stand for (fields of `Targets`); empty for its defaults.
    """

    step: int
    config: dict[str, Any]
    classes: tuple[str, ...]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    loader: dict[str, Any]
    rng: list[dict[str, torch.Tensor]]
    best_score: float
    train_seconds: float
    scaler: dict[str, Any] = field(default_factory=dict)
    ema: dict[str, Any] = field(default_factory=dict)
    norm_batch: int | None = None
    evaluation_due: bool = False
    stale_evaluations: int = 0
    replaced: int = 0
    meter: dict[str, float] = field(default_factory=dict)
    targets: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Any]:
        """State dict of the model to use: the averaged weights where they are kept."""
        prefix = "module."
        averaged = {k.removeprefix(prefix): v for k, v in self.ema.items() if k.startswith(prefix)}
        return averaged or self.model

    def save(self, path: Path) -> None:
        """Write the checkpoint; `path` holds the old or the new one at every moment."""
        with atomic_path(path) as temporary:
            torch.save(self._content(), temporary)
            seal(temporary)

    def save_shards(self, folder: Path, group: dist.ProcessGroup, *, finish: Callable[[], None]) -> None:
        """Write a checkpoint of which each process has its shards; see `write_shards`."""
        from corrnet_train.checkpoint.sharded import write_shards

        write_shards(self._content(), folder, group=group, finish=finish)

    def _content(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"format_version": FORMAT_VERSION, **values, "classes": list(self.classes)}

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint, in one file or in shards, without running any code from it.

        Raises:
            CheckpointError: `path` is missing, damaged, or no checkpoint of this package; the message names the newest
                intact checkpoint beside it and all others.
        """
        try:
            return cls._read(path)
        except CheckpointError as error:
            raise type(error)(f"{error}{_others(path)}") from None

    @classmethod
    def _read(cls, path: Path) -> "Checkpoint":
        sharded = is_sharded(path)
        if not path.is_file() and not sharded:
            what = what_instead_of_file(path)
            gone = f": it leads to {path.readlink()}, which is gone" if path.is_symlink() and not what else ""
            raise CheckpointError(f"no checkpoint at {path}{f': it is {what}' if what else gone}")
        folder = path.resolve()
        try:
            if sharded:
                from corrnet_train.checkpoint.sharded import read_shards

                content = read_shards(folder)
            else:
                content = load_checked(path)
        except Exception as error:  # a damaged file may raise anything
            if sharded and path.resolve() != folder:  # training has moved the link on meanwhile
                return cls._read(path)
            reason = f"{type(error).__name__} {error}".splitlines()[0]
            if isinstance(error, InputError):
                reason = f"{error}"
            elif isinstance(error, pickle.UnpicklingError):  # torch advises to run the code in it
                reason = "it is no file of torch, is damaged, or holds more than tensors and plain values"
            if path.is_file() and (what := what_file(path, error)):
                reason = f"{what}; {WANTED}"
            if path.is_file() and has_weights(path):
                raise PlainWeightsError(f"{path} is not a readable checkpoint: {reason}{LIKE}") from None
            raise CheckpointError(f"{path} is not a readable checkpoint: {reason}") from None
        if not isinstance(content, dict) or "format_version" not in content:
            what = f"{path} is a torch file, but no checkpoint of corrnet: {what_content(content)}; {WANTED}"
            raise PlainWeightsError(f"{what}{LIKE}") if has_weights(path, content) else CheckpointError(what)
        version = content.pop("format_version")
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{path} has format {version}, this version reads format {FORMAT_VERSION}")
        for name in ("config", "model", "ema"):
            if not isinstance(content.get(name, {}), dict):
                raise CheckpointError(f"{path} is not a whole checkpoint: {name} must be a mapping")
        try:
            return cls(**content | {"classes": tuple(content["classes"])})
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is not a whole checkpoint: {error}") from None


def newest_intact(folder: Path, *, without: Path | None = None) -> tuple[Path, Checkpoint] | None:
    """Find the checkpoint of the latest step among those in a folder that are whole, shards without a name among them.

    Args:
        folder: That of a run's checkpoints; it need not exist.
        without: A checkpoint in it that does not count, under any name.

    Returns:
        Its path and what is in it; None where none is intact.
    """
    left_out = None if without is None else without.resolve()
    steps = {path: _step(path) for path in checkpoint_names(folder) if path.resolve() != left_out}
    for path in sorted(steps, key=lambda path: -steps[path]):
        with contextlib.suppress(CheckpointError):
            return path, Checkpoint._read(path)
    return None


def _step(path: Path) -> int:
    """Return of which step a checkpoint seems to be, without reading all of it; -1 where nothing tells."""
    step = step_in_name(path) or step_in_name(path.resolve())
    if step is not None:
        return step
    if what_instead_of_file(path):
        return -1
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"])
    except Exception:  # a damaged file may raise anything
        return -1


def _others(path: Path) -> str:
    """Return which checkpoints are beside one that cannot be read, as the end of a message."""
    names = [other for other in checkpoint_names(path.parent) if other != path]
    found = newest_intact(path.parent, without=path)
    if found is None:
        return f"; none beside it is intact: {some_of([other.name for other in names])}" if names else ""
    newest, checkpoint = found
    others = some_of([other.name for other in names if other != newest])
    also = f" (there are also {others})" if others else ""
    remedy = (
        f": once {LAST} is removed, {resume_command(path.parent.parent)} goes on from that"
        if path.name == LAST
        else ""
    )
    return f"; the newest intact one beside it is {newest.name}, of step {checkpoint.step}{also}{remedy}"


def load_weights(model: nn.Module, state: dict[str, Any], *, source: str) -> None:
    """Load `state` into `model`, all or nothing; of whole tensors a sharded model takes its shards.

    Names that a wrapper like DistributedDataParallel or `torch.compile` has put around are taken off.

    Raises:
        CheckpointError: Names the tensors that are missing, unexpected or of another shape, and says of shapes what
            they mean.
    """
    own = model.state_dict()
    if state.keys() != own.keys():
        state = unwrap_names(state)
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    differing = [name for name in own if name in state and state[name].shape != own[name].shape]
    shapes = [
        f"{name}: {list(state[name].shape)} in the checkpoint, {list(own[name].shape)} in the model"
        for name in differing
    ]
    if missing or unexpected or shapes:
        meanings = (_meaning(model, name, state[name].shape, own[name].shape) for name in differing)
        parts = [
            _some("missing", missing),
            _some("unexpected", unexpected),
            _some("of another shape", shapes),
            *dict.fromkeys(meanings),
        ]
        raise CheckpointError(f"{source} belongs to another model: " + "; ".join(p for p in parts if p))
    model.load_state_dict(placed_state(state, own))


def _meaning(model: nn.Module, name: str, found: Sequence[int], wanted: Sequence[int]) -> str:
    """Return what one number in the shape of a tensor means and what helps; empty where that is not known."""
    places = [place for place, (new, old) in enumerate(zip(found, wanted, strict=False)) if new != old]
    if not isinstance(model, VideoModel) or len(found) != len(wanted) or len(places) != 1:
        return ""
    new, old = found[places[0]], wanted[places[0]]
    match name.rpartition(".")[0].split(".")[-1], places[0]:
        case "correlation", 0:
            frames = model.config.num_frames * new // old
            return (
                f"it is for clips of {frames} frames, the model for {model.config.num_frames}: take a recipe, or a "
                f"checkpoint for --like, with data.clip.num_frames={frames}; what has a recipe of its own starts runs "
                "of any length (model.init_from)"
            )
        case "fc", 0:
            return (
                f"it tells apart {new} classes, the model {old}: take a checkpoint for --like with as many, or start "
                "a run with a new classifier (model.init_from, model.new_head=true)"
            )
        case "conv", 1 if ".stem." in name:
            return f"it takes clips of {new} channels, the model of {old}: data.clip.modality decides on them"
    return ""


def check_resumable(checkpoint: Checkpoint, config: RunConfig, *, source: str, extend: bool = False) -> None:
    """Refuse to continue a run under settings that would change what is learned.

    Args:
        checkpoint: Where it would go on.
        config: The settings.
        source: What the checkpoint is called in errors.
        extend: Whether it may go on for more epochs than it began with.

    Raises:
        CheckpointError: Lists every setting that differs, with both values.
    """
    old, new = flatten(checkpoint.config), flatten(config_to_dict(config))
    # What a version did not know that wrote the checkpoint was as the default is.
    old = {
        key: field.get_default() for key, field in settings().items() if key in new and key not in old
    } | old
    changed = changed_settings(old, new, names=sorted((old.keys() | new.keys()) - resumable_keys()))
    before, now = changed.get(_EPOCHS, (0, 0))
    if extend and now > before:
        del changed[_EPOCHS]
    if changed:
        lines = [
            f"  {key}: {before!r} in the checkpoint, {now!r} now" for key, (before, now) in changed.items()
        ]
        raise CheckpointError(
            f"{source} was trained under other settings:\n" + "\n".join(lines) + "\n"
            "give the old values to continue it, or another run.dir to start a new run"
            + ("" if extend or now <= before else "; corrnet resume trains for more epochs")
            + ("; epochs cannot become fewer: the run can be used as far as it is" if now < before else "")
        )


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of the model's state, as 16 hex digits.

    Sharded weights have the hash that they have as a whole; all processes call it.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
        digest.update(full_tensor(tensor.detach()).cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _some(what: str, names: list[str]) -> str:
    return f"{what}: {some_of(names, most=4)}" if names else ""
