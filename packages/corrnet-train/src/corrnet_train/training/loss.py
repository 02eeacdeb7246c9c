"""The loss of a training step, and the figure that is told beside it, for each kind of targets."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from corrnet_train.config.schema import RunConfig
from corrnet_train.inference.targets import Targets
from corrnet_train.utils.errors import InputError
from video_data.shards.format import Task

FIGURES: dict[Task, tuple[str, str]] = {
    "multiclass": ("top1", "top-1"),
    "multilabel": ("hit1", "Hit@1"),
    "regression": ("mae", "MAE"),
}
"""The figure beside the loss, as `metrics.jsonl` and as people call it: what `tally` sums, as a mean over the clips."""


def check_settings(config: RunConfig, task: Task) -> None:
    """Refuse settings that mean nothing for what is learned.

    Raises:
        ValueError: Names the setting.
    """
    augment = config.augment
    if task == "multiclass":
        return
    unfit: dict[str, float | str | None] = {"augment.label_smoothing": augment.label_smoothing}
    unfit["data.sampling"] = config.data.sampling if config.data.sampling == "balanced" else None
    if task == "regression":
        unfit |= {"augment.mixup": augment.mixup, "augment.cutmix": augment.cutmix}
        unfit["optim.class_weights"] = config.optim.class_weights
    for key, value in unfit.items():
        if value:
            shown = f"{value:g}" if isinstance(value, float) else value
            kinds = "several labels for each video" if task == "multilabel" else "a number for each video"
            raise InputError(
                f"{key}={shown} is for videos of one class each, and these shards have {kinds} ({task})"
            )


def make_loss(
    targets: Targets, *, label_smoothing: float = 0, class_weights: Tensor | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the mean loss of outputs [N, classes], float32, for the targets of clips.

    Of one class it is the cross entropy with labels [N] or probabilities [N, classes]; of several labels the binary
    cross entropy with 0, 1 or a probability for each, [N, classes], mean over the classes; of numbers [N, 1] the
    squared error in units of their standard deviation.

    Args:
        targets: What is learned.
        label_smoothing: Share of the target that goes to all classes alike.
        class_weights: For one class the weight of each [classes]; the mean is over the clips, and not over their
            weights as PyTorch has it, so that micro-batches and processes add up to the whole batch. For several
            labels the weight of a label where a clip has it.
    """
    if targets.task == "regression":
        return lambda outputs, values: F.mse_loss(outputs, (values - targets.mean) / targets.std)
    if targets.task == "multilabel":
        return partial(F.binary_cross_entropy_with_logits, pos_weight=class_weights)
    if class_weights is None:
        return partial(F.cross_entropy, label_smoothing=label_smoothing)

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        each = F.cross_entropy(
            logits, target, class_weights, reduction="none", label_smoothing=label_smoothing
        )
        return each.mean()

    return loss


def balanced_weights(class_sizes: Sequence[int], *, num_samples: int | None = None) -> Tensor:
    """Return the weight of each class [classes]; a class without samples has the weight 0.

    Of one class they are in inverse proportion to its size, with a mean of one over the samples, those of
    scikit-learn's `class_weight="balanced"`. Of several labels a label where it is there weighs as much as it does
    where it is not; one that all samples have has the weight 1.

    Args:
        class_sizes: Samples that have each class.
        num_samples: Samples in all, of several labels each; None: each sample is of one class.
    """
    sizes = torch.tensor(class_sizes, dtype=torch.float64)
    if num_samples is None:
        weights = sizes.sum() / ((sizes > 0).sum() * sizes)
    else:
        weights = ((num_samples - sizes) / sizes).where(sizes < num_samples, 1.0)
    return weights.where(sizes > 0, 0.0).float()


def tally(targets: Targets) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what sums over clips the figure beside the loss, given outputs [N, classes] and labels as loaded.

    It counts the clips whose most probable class is their label, or one of them; of numbers it adds up the errors.
    """
    if targets.task == "regression":
        return lambda outputs, values: (targets.scores(outputs.float()) - values).abs().sum()
    if targets.task == "multilabel":
        return lambda outputs, labels: labels.gather(1, outputs.argmax(dim=1, keepdim=True)).sum()
    return count_correct


def count_correct(outputs: Tensor, label: Tensor) -> Tensor:
    """Count the clips of which the largest output [N, classes] is that of their label [N]."""
    return (outputs.argmax(dim=1) == label).sum()
