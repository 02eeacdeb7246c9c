"""Starting a run from trained weights, also for other clip lengths and, when asked, for other classes."""

from pathlib import Path

from torch import Tensor

from corrnet_models import VideoModel
from corrnet_train.checkpoint.foreign import weights_for
from corrnet_train.checkpoint.state import CheckpointError, PlainWeightsError, load_weights
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.inference.targets import MULTICLASS, Targets

HEAD = "fc."


def initialize(
    model: VideoModel,
    source: Path,
    *,
    classes: tuple[str, ...],
    new_head: bool,
    targets: Targets = MULTICLASS,
) -> str:
    """Give a model the weights of a trained one, in place; averaged weights where those are kept.

    Correlation filters are interpolated when the clips have another length. A classifier of numbers is scaled to the
    mean and standard deviation of the new run, so that it says the same numbers as before.

    Args:
        model: A freshly made model.
        source: A checkpoint, the folder of a run, that of an exported model, or a file with a state dict alone, which
            must be of the same clip length and names no classes.
        classes: Class names of the new run.
        new_head: Keep the fresh classifier.
        targets: What the new run learns.

    Returns:
        What was loaded and what starts fresh, for people.

    Raises:
        CheckpointError: The weights do not fit, or belong to another task or other classes and `new_head` is not set.
    """
    own = model.state_dict()
    fresh = {name: tensor for name, tensor in own.items() if new_head and name.startswith(HEAD)}
    started = f"; new: {', '.join(fresh)}" if fresh else ""
    try:
        trained = VideoClassifier.from_checkpoint(source, device="cpu")
    except PlainWeightsError:
        state = weights_for(own, source)
        load_weights(model, state | fresh, source=str(source))
        if not new_head:
            started = (
                "; it names no unit: its output counts as (value - mean) / standard deviation of the shards"
                if targets.task == "regression"
                else "; it names no classes: its outputs count as those of the shards, in their order"
            )
        return (
            f"weights from {source}: {len(state.keys() - fresh.keys())} of {len(own)} tensors loaded{started}"
        )
    if not new_head and trained.targets.task != targets.task:
        raise CheckpointError(
            f"the task of {source} is {trained.targets.task}, that of the shards {targets.task}: "
            "model.new_head=true starts with a new classifier"
        )
    if not new_head and trained.classes != classes:
        raise CheckpointError(
            f"{source} tells apart {_classes(trained.classes)}, the shards have {_classes(classes)}: "
            "model.new_head=true starts with a new classifier"
        )
    assert isinstance(trained.model, VideoModel)
    if trained.model.config.num_frames != model.config.num_frames:
        trained.model.set_num_frames(model.config.num_frames)
    state = trained.model.state_dict()
    if not fresh and trained.targets != targets:
        state |= _rescaled(state, trained.targets, targets)
        started = (
            f"; its classifier is scaled from numbers of mean {trained.targets.mean:.5g} and standard deviation "
            f"{trained.targets.std:.5g} to {targets.mean:.5g} and {targets.std:.5g}"
        )
    load_weights(model, state | fresh, source=str(source))
    return f"weights from {source}: {len(state) - len(fresh)} of {len(state)} tensors loaded{started}"


def _rescaled(state: dict[str, Tensor], old: Targets, new: Targets) -> dict[str, Tensor]:
    """Return weight and bias of a linear classifier that says the same numbers in the scale of `new`."""
    scale, shift = old.std / new.std, (old.mean - new.mean) / new.std
    return {
        f"{HEAD}weight": state[f"{HEAD}weight"] * scale,
        f"{HEAD}bias": state[f"{HEAD}bias"] * scale + shift,
    }


def _classes(names: tuple[str, ...]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
