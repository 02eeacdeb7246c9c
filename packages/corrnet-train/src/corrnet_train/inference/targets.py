"""What the outputs of a model stand for: classes, of which a video has one or several, or a number."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from corrnet_train.utils.errors import InputError
from video_data import ShardSet
from video_data.shards.format import Task

_SAME = 0.01  # standard deviations by which rounding may change a value


@dataclass(frozen=True)
class Targets:
    """What a model learns of a video.

    Attributes:
        task: Its one class, all of its classes, or a number.
        mean: For regression, of the numbers of the training videos.
        std: Their standard deviation; the model puts out (value - mean) / std, whatever the unit of the numbers.
    """

    task: Task = "multiclass"
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of_split(cls, shards: ShardSet, split: str) -> "Targets":
        """Return what a model is to learn from a split of shards.

        Raises:
            ValueError: There is no such split, all of its videos have one class, value or set of labels, or float32,
                in which values are loaded, does not hold them or tell them apart.
        """
        if shards.task == "multiclass" and len(shards.classes) == 1:
            raise InputError(
                f"{shards.path} has only one class, {shards.classes[0]}: there is nothing to learn"
            )
        if shards.task == "multilabel":
            sets = {frozenset(sample.labels(shards.task)) for sample in shards.samples(split)}
            if len(sets) == 1:
                names = ", ".join(shards.classes[label] for label in sorted(sets.pop()))
                raise InputError(
                    f"all videos of split {split} in {shards.path} have the same labels ({names}): there is nothing to "
                    "learn"
                )
        if shards.task != "regression":
            return cls(shards.task)
        values = np.array([sample.value for sample in shards.samples(split)])
        if (values == values[0]).all():
            raise InputError(
                f"all videos of split {split} in {shards.path} have the value {values[0]:g}: there is nothing to learn"
            )
        with np.errstate(all="ignore"):
            mean, std = values.mean(), values.std()
            single = ((values.astype(np.float32) - np.float32(mean)) / np.float32(std)).astype(np.float64)
            exact = np.abs(single - (values - mean) / std).max() <= _SAME
        if not exact:
            raise InputError(
                f"the values of split {split} in {shards.path}, from {values.min():g} to {values.max():g}, are too "
                "large, too small or too much alike for numbers of 32 bits: choose another unit, or subtract a number "
                "from all of them"
            )
        return cls("regression", float(mean), float(std))

    def scores(self, outputs: Tensor) -> Tensor:
        """Return what outputs of the model [N, classes] say: class probabilities, or of regression values [N, 1].

        The probabilities of a multiclass model add up to 1; those of a multilabel model are independent.
        """
        if self.task == "regression":
            return outputs * self.std + self.mean
        return outputs.sigmoid() if self.task == "multilabel" else outputs.softmax(dim=1)


MULTICLASS = Targets()
