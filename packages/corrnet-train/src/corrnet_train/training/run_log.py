"""The log of a run: figures over the last steps, written to files of metrics and to the console."""

from collections import defaultdict
from datetime import timedelta

import torch
from rich.console import Console

from corrnet_train.config.load import config_to_dict, recipe_text
from corrnet_train.config.schema import RunConfig
from corrnet_train.evaluation.evaluate import EvalResult
from corrnet_train.training.metrics_log import MetricsLog
from corrnet_train.training.mfu import memory_gib
from corrnet_train.training.schedule import Schedule
from corrnet_train.training.step import StepValues
from corrnet_train.utils.files import write_text

CONFIG = "config.yaml"
RECORDS = (CONFIG, "metrics.jsonl")
"""What every run writes into its folder before its first step."""
_LONG_SILENCE = 30  # seconds to the first line of figures, from which on an estimate comes before it


class Meter:
    """Sums up steps; `values` starts anew.

    Args:
        utilization: MFU at one clip a second; None where it is not known.
        figure: Name of the figure beside the loss.
    """

    def __init__(self, utilization: float | None, figure: str = "top1") -> None:
        self._utilization = utilization
        self._figure = figure
        self._sums: dict[str, float] = defaultdict(float)
        self._grad_norm = 0.0

    def add(self, step: StepValues, num_clips: int) -> None:
        """Count what a step gave."""
        self._sums["steps"] += 1
        self._sums["clips"] += num_clips
        self._sums["tally"] += step.tally
        self._sums["loss"] += step.loss
        self._grad_norm = step.grad_norm

    def add_time(self, seconds: float, *, waited: float = 0.0, stalled: float = 0.0) -> None:
        """Count time: all of it, what was spent waiting for data, and for checkpoints."""
        self._sums["seconds"] += seconds
        self._sums["waited"] += waited
        self._sums["stalled"] += stalled

    def values(self) -> dict[str, float]:
        """Means over the steps since the last call; `grad_norm` is that of the last step, `mfu` where it is known."""
        sums = self._sums
        clips_per_second = sums["clips"] / sums["seconds"]
        values = {
            "loss": sums["loss"] / sums["steps"],
            self._figure: sums["tally"] / sums["clips"],
            "clips_per_second": clips_per_second,
            "data_wait": sums["waited"] / sums["seconds"],
            "checkpoint_stall": sums["stalled"] / sums["seconds"],
            "grad_norm": self._grad_norm,
        }
        if self._utilization is not None:
            values["mfu"] = clips_per_second * self._utilization
        self._sums.clear()
        return values

    def state_dict(self) -> dict[str, float]:
        """Return the sums over the steps since the last call of `values`."""
        return dict(self._sums)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from sums of `state_dict`."""
        self._sums = defaultdict(float, state)


class RunLog:
    """Writes `config.yaml` and metrics into the run's folder, and lines for people where there is no bar.

    Args:
        config: The run.
        schedule: Its steps.
        console: Where lines go.
        device: Whose memory is told.
        step: The step the run continues from.
        evaluation_due: Whether the evaluation after that step is yet to be made.
        writes: Whether this process writes files.
        figure: The figure beside the loss: its name in the figures, and that for people.
    """

    def __init__(
        self,
        config: RunConfig,
        schedule: Schedule,
        *,
        console: Console,
        device: torch.device,
        step: int,
        evaluation_due: bool,
        writes: bool,
        figure: tuple[str, str] = ("top1", "top-1"),
    ) -> None:
        self._figure = figure
        self._config = config
        self._schedule = schedule
        self._console = console
        self._device = device
        self._metrics: MetricsLog | None = None
        if writes:
            write_text(config.run.dir / CONFIG, recipe_text(config))
            self._metrics = MetricsLog(
                config.run.dir,
                step=step,
                evaluation_due=evaluation_due,
                wandb=config.run.wandb,
                config=config_to_dict(config),
            )

    def train(self, step: int, figures: dict[str, float]) -> None:
        """Tell the figures of the steps since the last line, after `step` steps."""
        figures = {
            **figures,
            "epoch": self._schedule.epoch(step),
            "lr": self._schedule.rate(step - 1),
            "memory_gib": memory_gib(self._device),
        }
        self._write("train", step, **figures)
        if not self._console.is_terminal:
            clips = (self._schedule.num_steps - step) * self._config.optim.batch_size
            left = timedelta(seconds=round(clips / figures["clips_per_second"]))
            name, shown = self._figure
            mfu = f"MFU {figures['mfu']:.0%} " if "mfu" in figures else ""
            self._say(
                f"{self._config.model.name} step {step}/{self._schedule.num_steps} loss {figures['loss']:.3f} "
                f"{shown} {figures[name]:.3g} {figures['clips_per_second']:.0f} clips/s {mfu}"
                f"data wait {figures['data_wait']:.0%} gradient {figures['grad_norm']:.2g} "
                f"memory {figures['memory_gib']:.1f} GiB, {left} left"
            )

    def estimate(self, step: int, seconds: float) -> None:
        """Tell how long the run may take by the time of one of its first steps, where the first figures are far."""
        every = self._config.run.log_every
        is_near = self._schedule.logs(step) or seconds * (every - step % every) < _LONG_SILENCE
        if self._console.is_terminal or is_near:
            return
        left = timedelta(seconds=round(seconds * (self._schedule.num_steps - step)))
        self._say(
            f"step {step}/{self._schedule.num_steps} took {seconds:.2g} s: about {left} are left, without evaluation; "
            f"figures follow every {every} steps"
        )

    def evaluation(
        self, step: int, split: str, result: EvalResult, *, averaged_steps: int | None = None
    ) -> None:
        """Tell the accuracy after `step` steps, and over how many of them the weights were averaged, if they were."""
        self._write(
            "eval",
            step,
            epoch=self._schedule.epoch(step),
            **result.figures,
            num_videos=result.num_videos,
        )
        weights = ""
        if averaged_steps is not None:
            steps = "step" if averaged_steps == 1 else f"{averaged_steps} steps"
            weights = f" with weights averaged over about the last {steps}"
        clips = "one clip" if result.num_clips == 1 else f"{result.num_clips} clips"
        self._say(f"step {step}: {split} {result.headline}, from {clips} of each video{weights}")

    def close(self) -> None:
        """Close the files."""
        if self._metrics is not None:
            self._metrics.close()

    def _write(self, kind: str, step: int, **values: float | None) -> None:
        if self._metrics is not None:
            self._metrics.write(kind, step, **values)

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
