"""The figures of a log line: sums over the steps since the last one."""

from corrnet_train.step import StepValues


class Meter:
    """Sums up steps; `values` starts anew.

    Args:
        clip_flops: floating-point operations to train on one clip.
        peak_flops: those that all devices together can do in a second.
    """

    def __init__(self, *, clip_flops: float, peak_flops: float) -> None:
        self._utilisation = clip_flops / peak_flops
        self._clear()

    def add(self, step: StepValues, num_clips: int) -> None:
        """Counts what a step gave."""
        self._steps += 1
        self._clips += num_clips
        self._correct += step.num_correct
        self._loss += step.loss
        self._grad_norm = step.grad_norm

    def add_time(self, seconds: float, *, waited: float = 0.0, stalled: float = 0.0) -> None:
        """Counts time: all of it, what was spent waiting for data, and for checkpoints."""
        self._seconds += seconds
        self._waited += waited
        self._stalled += stalled

    def values(self) -> dict[str, float]:
        """Means over the steps since the last call; `grad_norm` is that of the last step."""
        clips_per_second = self._clips / self._seconds
        values = {
            "loss": self._loss / self._steps,
            "top1": self._correct / self._clips,
            "clips_per_second": clips_per_second,
            "mfu": clips_per_second * self._utilisation,
            "data_wait": self._waited / self._seconds,
            "checkpoint_stall": self._stalled / self._seconds,
            "grad_norm": self._grad_norm,
        }
        self._clear()
        return values

    def _clear(self) -> None:
        self._steps, self._clips, self._correct = 0, 0, 0
        self._loss, self._grad_norm = 0.0, 0.0
        self._seconds, self._waited, self._stalled = 0.0, 0.0, 0.0
