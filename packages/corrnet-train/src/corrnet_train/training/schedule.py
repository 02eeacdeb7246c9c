"""The schedule of a run: the steps of log lines, evaluations and checkpoints, and the learning rate of each step."""

from corrnet_train.config.schema import RunConfig
from corrnet_train.training.optim import learning_rate


class Schedule:
    """The steps of a run; all of it follows from the settings and the number of samples.

    Args:
        config: The run.
        num_samples: Samples of the training split.

    Attributes:
        num_steps: Steps of the whole run.
        num_warmup_steps: Those of the warm-up.
    """

    def __init__(self, config: RunConfig, num_samples: int) -> None:
        optim = config.optim
        self._config = config
        self._epoch_steps = optim.epoch_samples(num_samples) / optim.batch_size
        self.num_steps = optim.num_steps(num_samples)
        self.num_warmup_steps = optim.num_warmup_steps(num_samples)

    def rate(self, step: int) -> float:
        """Learning rate of a 0-based step."""
        return learning_rate(
            step,
            peak=self._config.optim.peak_lr,
            num_steps=self.num_steps,
            num_warmup_steps=self.num_warmup_steps,
        )

    def epoch(self, done: int) -> float:
        """Epochs after `done` steps."""
        return done / self._epoch_steps

    def logs(self, done: int) -> bool:
        """Whether a log line follows `done` steps."""
        return done % self._config.run.log_every == 0 or done == self.num_steps

    def evaluates(self, done: int) -> bool:
        """Whether an evaluation follows `done` steps."""
        if self._config.data.eval_split is None:
            return False
        if done == self.num_steps:
            return True
        period = self._config.eval.every_epochs * self._epoch_steps
        return bool(period) and done // period > (done - 1) // period

    def saves(self, done: int) -> bool:
        """Whether a checkpoint follows `done` steps."""
        return done % self._config.run.checkpoint_every == 0 or self.keeps(done)

    def keeps(self, done: int) -> bool:
        """Whether the checkpoint after `done` steps is kept beside the last and the best one."""
        every = self._config.train.keep_every
        return every is not None and done % every == 0
