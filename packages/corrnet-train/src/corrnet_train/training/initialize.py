"""Starting a run from trained weights, also for other clip lengths and, when asked, for other classes."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from corrnet_models import CorrelationBlock, FrameByFrame, VideoModel
from corrnet_train.checkpoint.foreign import weights_for
from corrnet_train.checkpoint.state import CheckpointError, PlainWeightsError, load_weights
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.inference.targets import MULTICLASS, Targets
from corrnet_train.networks.head import find_head
from corrnet_train.utils.errors import InputError
from video_data.utils.messages import some_of


def initialize(
    model: nn.Module,
    source: Path,
    *,
    classes: tuple[str, ...],
    new_head: bool,
    targets: Targets = MULTICLASS,
) -> str:
    """Give a model the weights of a trained one, in place; averaged weights where those are kept.

    Correlation filters are interpolated when the clips have another length. Correlation blocks in a network of another
    package start as they are where the trained one has none.

    Args:
        model: A freshly made model.
        source: A checkpoint, the folder of a run, that of an exported model, or a file with a state dict alone, which
            must be of the same clip length and names no classes.
        classes: Class names of the new run.
        new_head: Keep the fresh classifier.
        targets: What the new run learns. For numbers the classifier is scaled from the mean and deviation of the old
            ones to those of the new, so that it predicts the same.

    Returns:
        What was loaded and what starts fresh, for people.

    Raises:
        CheckpointError: The weights do not fit, or belong to other classes or another task and `new_head` is not set.
        InputError: The network has no classifier that could be found, and `new_head` is set.
    """
    own = model.state_dict()
    head = find_head(model, len(classes))
    if new_head and head is None:
        raise InputError(
            f"model.new_head=true: the network has no linear layer and no convolution of 1x1x1 with {len(classes)} "
            "outputs that could be its classifier"
        )
    fresh = {name: tensor for name, tensor in own.items() if new_head and name.startswith(f"{head}.")}
    note = ""
    try:
        trained = VideoClassifier.from_checkpoint(source, device="cpu")
    except PlainWeightsError:
        state = _plain_weights(model, own, source)
        if not new_head:
            _check_num_classes(model, state, f"{head}.weight", len(classes), source)
            note = (
                "; it names no unit: its output counts as (value - mean) / standard deviation of the shards"
                if targets.task == "regression"
                else "; it names no classes: its outputs count as those of the shards, in their order"
            )
    else:
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
        if isinstance(model, VideoModel) and isinstance(trained.model, VideoModel):
            trained.model.set_num_frames(model.config.num_frames)
        state = trained.model.state_dict()
        if not new_head and trained.targets != targets:
            state |= _rescaled_head(state, head, trained.targets, targets, source)
            note = (
                f"; its classifier is scaled from numbers of mean {trained.targets.mean:.5g} and standard deviation "
                f"{trained.targets.std:.5g} to {targets.mean:.5g} and {targets.std:.5g}"
            )
    blocks = _new_blocks(model, state)
    started = [*fresh, *blocks]
    fresh |= {name: own[name] for name in own if any(name.startswith(f"{block}.") for block in blocks)}
    load_weights(model, state | fresh, source=str(source))
    new = f"; new: {some_of(started)}" if started else ""
    return f"weights from {source}: {len(own) - len(fresh)} of {len(own)} tensors loaded{new}{note}"


def _rescaled_head(
    state: Mapping[str, Tensor], head: str | None, before: Targets, now: Targets, source: Path
) -> dict[str, Tensor]:
    """Return the weights of a classifier of numbers that predicts the same with another mean and deviation."""
    weight, bias = (state.get(f"{head}.{name}") for name in ("weight", "bias"))
    if weight is None or bias is None:
        raise CheckpointError(
            f"{source} has no classifier with a bias that could be scaled to the numbers of these videos: "
            "model.new_head=true starts with a new one"
        )
    return {
        f"{head}.weight": weight * (before.std / now.std),
        f"{head}.bias": (bias * before.std + before.mean - now.mean) / now.std,
    }


def _plain_weights(model: nn.Module, own: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Return the weights in a file, also those of a network for pictures that the model applies frame by frame."""
    if isinstance(model, FrameByFrame):
        inner = weights_for(model.network.state_dict(), source)
        if model.network.state_dict().keys() & inner.keys():
            return {f"network.{name}": tensor for name, tensor in inner.items()}
    return weights_for(own, source)


def _new_blocks(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Return the paths of the correlation blocks of which the weights have nothing."""
    blocks = [path for path, module in model.named_modules() if isinstance(module, CorrelationBlock)]
    return [block for block in blocks if not any(name.startswith(f"{block}.") for name in state)]


def _check_num_classes(
    model: nn.Module, state: Mapping[str, Tensor], name: str, num_classes: int, source: Path
) -> None:
    """Say of a network of another package what it means that its classifier has another shape."""
    if isinstance(model, VideoModel):  # of which `load_weights` says it
        return
    if name in state and state[name].shape[0] != num_classes:
        raise CheckpointError(
            f"{source} tells apart {state[name].shape[0]} classes ({name}), the shards have {num_classes}: "
            "model.new_head=true starts with a new classifier"
        )


def _classes(names: tuple[str, ...]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
