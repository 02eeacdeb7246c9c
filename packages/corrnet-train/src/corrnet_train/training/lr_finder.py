"""A range test for the learning rate (Smith, 2017): a few steps at rates that grow, and the loss at each."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from corrnet_train.training.prefetch import Prefetcher
from corrnet_train.training.trainer import Trainer
from corrnet_train.utils.errors import InputError
from corrnet_train.utils.kernels import chosen_kernels

_KEPT = 0.9  # of the smoothed loss, in a step
_DIVERGED = 3.0  # times the smallest smoothed loss so far
_FEWEST = 10  # steps before which the loss says nothing
_BELOW = 10  # times smaller than the rate of the smallest loss is the suggestion
_SMALL_CHANGE = 0.02  # of the loss, which is none
_SURE = 4.0  # standard deviations that are no chance


@dataclass(frozen=True)
class RateTrial:
    """One step of the test.

    Attributes:
        rate: Its learning rate.
        loss: Mean loss of its batch, before the step.
        smoothed: The mean of the losses so far, of which the weight falls by a tenth from step to step.
    """

    rate: float
    loss: float
    smoothed: float


def try_rates(
    trainer: Trainer, *, lowest: float = 1e-6, highest: float = 10.0, num_steps: int = 100
) -> Iterator[RateTrial]:
    """Train at rates that grow exponentially from step to step, until the loss diverges or the last rate is reached.

    The model, its augmentation, batches, optimizer and precision are those of the run. The weights of the trainer
    change, so that it is good for nothing else afterwards; nothing is written.

    Args:
        trainer: A trainer of one process that has not begun.
        lowest: The first rate.
        highest: The last one.
        num_steps: Steps from one to the other.

    Yields:
        Each step. The last one is that at which the smoothed loss is three times its smallest value, or no finite
        number.

    Raises:
        ValueError: A number is out of its range.
    """
    if not 0 < lowest < highest < math.inf:
        raise InputError(f"rates must grow from above 0, got lowest={lowest:g}, highest={highest:g}")
    if num_steps <= _FEWEST:
        raise InputError(f"num_steps must be more than {_FEWEST}, got {num_steps}")
    growth = (highest / lowest) ** (1 / (num_steps - 1))
    mean, smallest = 0.0, math.inf
    loader = trainer.loader(num_samples=num_steps * trainer.config.optim.batch_size)
    batches = Prefetcher(iter(loader), trainer.device)
    with chosen_kernels(deterministic=trainer.config.run.deterministic):
        for step in range(num_steps):
            rate = lowest * growth**step
            loss = trainer.train_step(batches, step=step, rate=rate).values().loss
            mean = _KEPT * mean + (1 - _KEPT) * loss
            smoothed = mean / (1 - _KEPT ** (step + 1))
            yield RateTrial(rate, loss, smoothed)
            smallest = min(smallest, smoothed)
            if not math.isfinite(loss) or (step >= _FEWEST and smoothed > _DIVERGED * smallest):
                return


@dataclass(frozen=True)
class RateSuggestion:
    """A rate to begin with.

    Attributes:
        rate: The rate.
        reason: Why this one, for people.
    """

    rate: float
    reason: str


def suggest_rate(trials: Sequence[RateTrial]) -> RateSuggestion | None:
    """Return a tenth of the rate at which the smoothed loss is smallest, the rule of thumb of fastai.

    At that rate the loss is about to rise; it has fallen on the way there. Where it did not fall, which is so for tasks
    on which the first hundred steps teach nothing, it is a tenth of the rate at which the loss begins to rise. Both
    mean by more than the noise of the losses.

    Args:
        trials: Steps of `try_rates`, also of a test that was stopped.

    Returns:
        None where the loss neither falls nor rises.
    """
    if len(trials) <= _FEWEST:
        return None
    first = [trial.loss for trial in trials[: max(_FEWEST, len(trials) // 3)] if math.isfinite(trial.loss)]
    start = statistics.fmean(first[:_FEWEST])
    noise = statistics.pstdev(first) * math.sqrt((1 - _KEPT) / (1 + _KEPT))  # of smoothed losses
    margin = max(_SMALL_CHANGE * abs(start), _SURE * noise)
    later = trials[_FEWEST:]
    best = min(
        (trial for trial in later if math.isfinite(trial.smoothed)), key=lambda t: t.smoothed, default=None
    )
    if best is not None and best.smoothed < start - margin:
        return RateSuggestion(best.rate / _BELOW, "a tenth of the rate at which the loss is smallest")
    rising = next((trial for trial in later if not trial.smoothed <= start + margin), None)
    if rising is None:
        return None
    reason = "the loss did not fall in so few steps; it is a tenth of the rate at which it begins to rise"
    return RateSuggestion(rising.rate / _BELOW, reason)
