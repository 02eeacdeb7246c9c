"""`VideoClassifier`: a trained model with its classes and clips, the one path from videos to scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from corrnet_models import (
    StageName,
    VideoModel,
    is_pretrained,
    load_pretrained,
)
from corrnet_train.checkpoint.folders import LAST, is_sharded
from corrnet_train.checkpoint.foreign import weights_for
from corrnet_train.checkpoint.state import Checkpoint, PlainWeightsError, load_weights
from corrnet_train.config.load import parse_config
from corrnet_train.distributed.ranks import resolve_device
from corrnet_train.inference.inputs import VideoInput
from corrnet_train.inference.targets import MULTICLASS, Targets
from corrnet_train.networks.build import build_from_config
from corrnet_train.utils.errors import InputError
from corrnet_train.utils.precision import Precision, autocast, clip_dtype
from video_data import ClipConfig, normalize
from video_data.loading.batches import PixelFormat
from video_data.loading.views import decode_timed_views
from video_data.media.planes import YuvClips
from video_data.sampling.clips import DEFAULT_NUM_CLIPS
from video_data.shards.format import Task

_OF_A_MODEL = ("config.json", "model.safetensors")  # files that stand for the folder of an exported model


@dataclass(frozen=True)
class Prediction:
    """What a model says of one video.

    Attributes:
        classes: Class names, the most probable one first; for regression the name of the number.
        scores: Their probabilities, or the number, averaged over the clips.
        task: What the model has learned of videos; of several labels the probabilities do not add up to 1.
    """

    classes: tuple[str, ...]
    scores: list[float]
    task: Task = "multiclass"

    @property
    def texts(self) -> list[str]:
        """The scores for people, as `93%` or `12.5`."""
        return [f"{score:.5g}" if self.task == "regression" else f"{score:.0%}" for score in self.scores]


class VideoClassifier:
    """A trained model with everything needed to classify a video.

    Args:
        model: Maps normalized clips [N, C, L, H, W] to logits [N, classes].
        classes: Class names in the order of the logits.
        clip: How clips are cut.
        device: Where the model runs.
        precision: "fp32", or the type of autocast.
        num_clips: Clips of a video that the recipe evaluates with, `eval.num_clips`; all that takes videos takes as
            many unless it is told another number.
        pixels: How clips of videos come to the device, `data.pixels` of the training.
        targets: What the outputs of the model stand for.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        classes: Sequence[str],
        clip: ClipConfig,
        device: torch.device,
        precision: Precision = "fp32",
        num_clips: int = DEFAULT_NUM_CLIPS,
        pixels: PixelFormat = "rgb",
        targets: Targets = MULTICLASS,
    ) -> None:
        self.model = model.to(device)
        self.classes = tuple(classes)
        self.clip = clip
        self.device = device
        self.precision = precision
        self.num_clips = num_clips
        self.pixels = pixels
        self.targets = targets

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, *, device: str = "auto", like: str | Path | None = None
    ) -> "VideoClassifier":
        """Build the model a checkpoint describes and load its weights.

        Args:
            path: A checkpoint, the folder of a run (its last one), or one that `corrnet export --format hub` wrote;
                with `like` a file of torch or safetensors that holds the state dict of a model, also of one in
                DistributedDataParallel or `torch.compile`.
            device: As `run.device`.
            like: For weights without a recipe: what has the recipe and the classes that belong to them, as `path`
                names it without `like`.

        Raises:
            CheckpointError: The file is no checkpoint, or its weights do not fit its own configuration.
            ValueError: The folder holds no model, or one without classes or the recipe of clips.
        """
        path = Path(path)
        if path.is_file() and path.name in _OF_A_MODEL and is_pretrained(path.parent):
            path = path.parent
        if like is not None:
            if path.is_dir():
                raise InputError(f"{path} has a recipe of its own: leave out --like (like=)")
            return cls._from_weights(path, cls.from_checkpoint(like, device=device))
        if path.is_dir() and not is_sharded(path):
            if is_pretrained(path):
                return cls._from_folder(path, device)
            path = path / "checkpoints" / LAST
        checkpoint = Checkpoint.load(path)
        config = parse_config(checkpoint.config)
        model = build_from_config(config, len(checkpoint.classes), from_checkpoint=True)
        load_weights(model, checkpoint.weights, source=str(path))
        return cls(
            model,
            classes=checkpoint.classes,
            clip=config.data.clip,
            device=resolve_device(device),
            precision=config.run.precision,
            num_clips=config.eval.num_clips,
            pixels=config.data.pixels_on("cpu"),  # a run has written what it took
            targets=Targets(**checkpoint.targets),
        )

    @classmethod
    def _from_weights(cls, path: Path, classifier: "VideoClassifier") -> "VideoClassifier":
        """Give a classifier the weights in a file."""
        try:
            Checkpoint.load(path)
        except PlainWeightsError:
            weights = weights_for(classifier.model.state_dict(), path)
            load_weights(classifier.model, weights, source=str(path))
            return classifier
        raise InputError(f"{path} has a recipe of its own: leave out --like (like=)")

    @classmethod
    def _from_folder(cls, folder: Path, device: str) -> "VideoClassifier":
        pretrained = load_pretrained(folder)
        if not pretrained.classes or "clip" not in pretrained.metadata:
            raise InputError(f"{folder} holds a model without classes or without the recipe of its clips")
        return cls(
            pretrained.model,
            classes=pretrained.classes,
            clip=ClipConfig.model_validate(pretrained.metadata["clip"]),
            device=resolve_device(device),
            precision=pretrained.metadata.get("precision", "fp32"),
            num_clips=pretrained.metadata.get("num_clips", DEFAULT_NUM_CLIPS),
            pixels=pretrained.metadata.get("pixels", "rgb"),
            targets=Targets(**pretrained.metadata.get("targets", {})),
        )

    def clip_scores(self, video: Tensor | YuvClips) -> Tensor:
        """Scores of clips, `Targets.scores`: uint8 [..., C, L, H, W] or planes -> float32 [N, classes] on the CPU."""
        return self.targets.scores(self.run(video, self.model)).cpu()

    def clip_features(self, video: Tensor | YuvClips, *, stage: StageName = "res5") -> Tensor:
        """Features of clips, averaged over time and space.

        Args:
            video: uint8 [..., C, L, H, W], or planes.
            stage: The stage that puts them out; of the last one they are what the classifier gets.

        Returns:
            float32 [N, channels of the stage] on the CPU.
        """
        model = self.video_model
        return self.run(video, lambda clips: model.forward_features(clips, stage).mean(dim=(2, 3, 4))).cpu()

    @property
    def video_model(self) -> VideoModel:
        """The model as one of `corrnet_models`.

        Raises:
            InputError: It is a network of another package.
        """
        if not isinstance(self.model, VideoModel):
            raise InputError(
                f"the model is a network of another package ({type(self.model).__name__}), and this is for those of "
                "`corrnet models`: their stages and layers have names that are known"
            )
        return self.model

    @torch.no_grad()  # split weights come and go, and training could not use those of inference mode
    def run(self, video: Tensor | YuvClips, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what a function makes of normalized clips, in the model's precision and in evaluation mode.

        Args:
            video: uint8 [..., C, L, H, W], or planes.
            function: The model, or something that calls a part of it.

        Returns:
            float32, on the model's device.
        """
        self.model.eval()
        video = video.to(self.device, non_blocking=True)
        clips = normalize(video, clip_dtype(self.precision), clip=self.clip).flatten(0, -5)
        with autocast(self.device, self.precision):
            return function(clips).float()

    def video_scores(self, views: Tensor | YuvClips) -> tuple[Tensor, Tensor]:
        """Average over views (paper section 5).

        Args:
            views: uint8 [B, V, C, L, H, W], V clips of each of B videos, or planes of shape (B, V).

        Returns:
            Scores of the clips [B, V, classes] and of the videos [B, classes].
        """
        clips = self.clip_scores(views).unflatten(0, views.shape[:2])
        return clips, clips.mean(dim=1)

    def predict(self, source: str | Path | bytes, *, num_clips: int | None = None) -> Prediction:
        """Classify one video.

        Args:
            source: Path of a video file or of a folder of frames, URL, or content of a file.
            num_clips: Clips spaced uniformly over the video; None takes those of the classifier.

        Raises:
            ValueError: The video cannot be read; the message says why.
        """
        name = ""
        if isinstance(source, str):
            name = VideoInput(source).shown
            source = VideoInput(source).read()
        num_clips = self.num_clips if num_clips is None else num_clips
        views, _ = decode_timed_views(source, self.clip, num_clips, pixels=self.pixels, name=name)
        return self.ranked(self.clip_scores(views).mean(dim=0))

    def ranked(self, scores: Tensor) -> Prediction:
        """Classes by their scores [classes], largest first."""
        values, order = scores.sort(descending=True)
        return Prediction(tuple(self.classes[i] for i in order.tolist()), values.tolist(), self.targets.task)
