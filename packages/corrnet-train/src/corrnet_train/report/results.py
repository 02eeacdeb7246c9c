"""What `results.json` holds: the schema of one comparison of models on one dataset."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0.0)]


_SCORES = {"video_top1": "top-1", "map": "mAP", "mae": "MAE"}  # of the lines of evaluations


class _Record(BaseModel):
    """Frozen, closed to unknown fields, and free of NaN and infinity, which JSON cannot hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CurvePoint(_Record):
    """One logged training step.

    Attributes:
        step: Optimizer steps done.
        epoch: Epochs done, may be fractional.
        loss: Training loss.
        top1: Training top-1 accuracy, a fraction in 0..1; None where a video has not one class.
        lr: Learning rate of the step.
    """

    step: Count
    epoch: NonNegative
    loss: float
    top1: Fraction | None = None
    lr: NonNegative


class EvalPoint(_Record):
    """One evaluation on held-out videos during training.

    Attributes:
        step: Optimizer steps done.
        score: Top-1 accuracy of the videos, or mean average precision, fractions in 0..1, or mean absolute error.
    """

    step: Count
    score: NonNegative


class Curves(_Record):
    """What a run has logged.

    Attributes:
        curve: Its training steps.
        evals: Its evaluations.
        score_name: What the scores of the evaluations are, for people.
    """

    curve: list[CurvePoint]
    evals: list[EvalPoint]
    score_name: str = "top-1"

    @classmethod
    def from_metrics(cls, lines: Sequence[dict[str, Any]]) -> Self:
        """Take them from the lines of a run's metrics, as `read_metrics` returns them."""
        names = ("step", "epoch", "loss", "top1", "lr")
        evals = [line for line in lines if line["kind"] == "eval"]
        score = next((name for name in _SCORES if evals and name in evals[0]), "video_top1")
        return cls(
            curve=[
                CurvePoint(**{name: line[name] for name in names if name in line})
                for line in lines
                if line["kind"] == "train"
            ],
            evals=[EvalPoint(step=line["step"], score=line[score]) for line in evals],
            score_name=_SCORES[score],
        )


class DatasetSummary(_Record):
    """The dataset every model of the comparison was trained and tested on.

    Attributes:
        name: Name shown to the reader.
        manifest_hash: Hash of the packed dataset's manifest.
        classes: Class names in label order.
        num_train: Training videos.
        num_test: Test videos.
        num_clips: Clips sampled uniformly from each test video (paper, section 5).
    """

    name: str
    manifest_hash: str
    classes: Annotated[list[str], Field(min_length=1)]
    num_train: Count
    num_test: Count
    num_clips: PositiveCount


class ModelResult(_Record):
    """One trained and tested model.

    Attributes:
        name: Unique name within the comparison.
        run_dir: Folder of the run, relative to `results.json`.
        params: Trainable parameters.
        gmacs: Multiply-accumulates of one clip's forward pass, in units of 1e9.
        clip_top1: Top-1 accuracy of single test clips, a fraction in 0..1.
        video_top1: Top-1 accuracy of videos, class probabilities averaged over clips, in 0..1.
        clip_top5: As `clip_top1`, for the five most probable classes.
        video_top5: As `video_top1`, for the five most probable classes.
        num_videos: Test videos counted, each once.
        clips_per_second: Training throughput in clips per second.
        train_seconds: Wall-clock training time in seconds.
        num_steps: Optimizer steps.
        batch_size: Clips per step over all ranks.
        confusion: Videos by true class (rows) and predicted class (columns).
        fingerprint: What a reported accuracy depends on: decoder, resize policy, views, hashes.
        curve: Training log.
        evals: Evaluations during training.
    """

    name: Annotated[str, Field(min_length=1)]
    run_dir: str
    params: Count
    gmacs: NonNegative
    clip_top1: Fraction
    video_top1: Fraction
    clip_top5: Fraction
    video_top5: Fraction
    num_videos: PositiveCount
    clips_per_second: NonNegative
    train_seconds: NonNegative
    num_steps: Count
    batch_size: PositiveCount
    confusion: list[list[Count]]
    fingerprint: dict[str, str | int | float]
    curve: list[CurvePoint]
    evals: list[EvalPoint]

    @model_validator(mode="after")
    def _confusion_counts_each_video_once(self) -> Self:
        num_counted = sum(sum(row) for row in self.confusion)
        if num_counted != self.num_videos:
            raise ValueError(
                f"confusion of {self.name!r} counts {num_counted} videos, num_videos is {self.num_videos}"
            )
        return self


class Results(_Record):
    """A comparison of models, exactly as `results.json` stores it.

    Attributes:
        title: Heading of the report.
        created: Time of creation in ISO 8601.
        environment: Versions and machine, for instance torch, python, cpu, threads.
        dataset: What was trained and tested on.
        seed: Seed of the runs.
        seconds_total: Wall-clock time of the whole comparison in seconds.
        models: The models in the order to show them.
    """

    title: str
    created: str
    environment: dict[str, str]
    dataset: DatasetSummary
    seed: int
    seconds_total: NonNegative
    models: Annotated[list[ModelResult], Field(min_length=1)]

    @field_validator("created")
    @classmethod
    def _created_is_iso(cls, value: str) -> str:
        datetime.fromisoformat(value)
        return value

    @model_validator(mode="after")
    def _models_fit_the_dataset(self) -> Self:
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise ValueError(f"model names must be unique, got {names}")
        size = len(self.dataset.classes)
        for model in self.models:
            if len(model.confusion) != size or any(len(row) != size for row in model.confusion):
                shape = [len(row) for row in model.confusion]
                raise ValueError(
                    f"confusion of {model.name!r} must be {size} x {size}, one row and column per class, "
                    f"got rows of length {shape}"
                )
        return self
