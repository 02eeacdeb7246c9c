"""Trained models in other forms: a folder for the Hugging Face Hub, a torch.export program, an ONNX graph.

Programs and graphs take clips as they are cut from videos, uint8, and return probabilities or numbers: what
`VideoClassifier` does with clips is inside of them. Each is run beside the model before it counts as exported.
"""

import logging
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor, nn

import corr_ops
from corrnet_models import PRETRAINED_FILES, PretrainedCfg, VideoModel, save_pretrained
from corrnet_train.checkpoint.state import weights_hash
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.utils.errors import InputError, MissingPackageError, WorkError
from corrnet_train.utils.files import check_output, write_json
from video_data import normalize
from video_data.loading.batches import PIXEL_MEAN, PIXEL_STD
from video_data.utils.files import atomic_path

Format = Literal["hub", "torch", "onnx"]
TOLERANCE = 1e-4  # largest difference of a probability, or of a number in standard deviations
_SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}


class ExportError(WorkError):
    """A model that cannot be exported, or that computes something else afterwards."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The folder of the model, or the file of the program; `<file>.json` beside it says how to use it.
        difference: Largest difference of a probability (or number, in standard deviations) to that of the model, over
            clips of noise; None for a folder, which holds the weights themselves.
    """

    path: Path
    difference: float | None


class _Program(nn.Module):
    """Clips to scores, as `VideoClassifier.clip_scores` without autocast."""

    def __init__(self, classifier: VideoClassifier) -> None:
        super().__init__()
        self.model = classifier.model.eval()
        self._clip = classifier.clip
        self._targets = classifier.targets

    def forward(self, clips: Tensor) -> Tensor:
        outputs: Tensor = self.model(normalize(clips, clip=self._clip))
        return self._targets.scores(outputs.float())


def check_export(
    path: Path, *, format: Format, overwrite: bool = False, inputs: Sequence[str | Path] = ()
) -> None:
    """Check, before any work, that a model may be exported to a path; see `export_model` and `check_output`.

    Raises:
        InputError: It may not.
    """
    if format == "hub":
        check_output(path, overwrite=overwrite, inputs=inputs, files=PRETRAINED_FILES)
        return
    if format not in _SUFFIXES:
        raise InputError(f"format must be hub, {', '.join(_SUFFIXES)}; got {format!r}")
    if path.suffix != _SUFFIXES[format]:
        raise InputError(f"{path}: expected the ending {_SUFFIXES[format]} for --format {format}")
    for file in (path, _usage_path(path)):
        check_output(file, overwrite=overwrite, inputs=inputs)


def export_model(
    classifier: VideoClassifier,
    path: str | Path,
    *,
    format: Format,
    overwrite: bool = False,
    evaluation: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a trained model in another form.

    Args:
        classifier: The model with its classes and the recipe of its clips, on the CPU.
        path: `hub`: the folder; `torch`: a file `.pt2`, loaded with `torch.export.load`, which needs none of these
            packages; `onnx`: a file `.onnx`. The number of clips is free in both.
        format: Which form.
        overwrite: Whether files that are there are replaced.
        evaluation: What `result.json` of an evaluation holds. The model card tells its accuracy if it is one of these
            weights.

    Raises:
        ValueError: The path has another ending, or something is there.
        ExportError: The exported program computes something else than the model.
        ImportError: ONNX export without its packages (extra `onnx`).
    """
    path = Path(path)
    check_export(path, format=format, overwrite=overwrite)
    if format == "hub":
        if not isinstance(classifier.model, VideoModel):
            raise InputError(
                f"a folder is for models of `corrnet models`, and this is a network of another package "
                f"({type(classifier.model).__name__}): export it to a file .pt2 or .onnx"
            )
        metadata = {
            "clip": classifier.clip.model_dump(mode="json"),
            "num_clips": classifier.num_clips,
            "pixels": classifier.pixels,
            "precision": classifier.precision,
            "targets": asdict(classifier.targets),
        }
        save_pretrained(
            classifier.model,
            path,
            classes=classifier.classes,
            metadata=metadata,
            card=model_card(classifier, path.name, evaluation),
            pretrained_cfg=_pretrained_cfg(classifier),
            transformers_config={
                "problem_type": _PROBLEM_TYPES[classifier.targets.task],
                "value_mean": classifier.targets.mean,
                "value_std": classifier.targets.std,
            },
        )
        return Exported(path, None)
    if format == "onnx":
        _import_onnx()
    with warnings.catch_warnings(), _without_word_of_torchvision():
        # torch warns of its own code.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        return _export_program(classifier, path, format)


@contextmanager
def _without_word_of_torchvision() -> Iterator[None]:
    """Enter a block in which torch does not warn that it will not export what no model has."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")

    def is_of_use(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("torchvision is not installed")

    logger.addFilter(is_of_use)
    try:
        yield
    finally:
        logger.removeFilter(is_of_use)


def _export_program(classifier: VideoClassifier, path: Path, format: Format) -> Exported:
    """Write a program or a graph, and compare it with the model."""
    program = _Program(classifier)
    clip = classifier.clip
    shape = (2, clip.num_channels, clip.num_frames, clip.crop_size, clip.crop_size)
    clips = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    try:
        exported = torch.export.export(program, (clips,), dynamic_shapes=({0: torch.export.Dim("clips")},))
    except Exception as error:
        if isinstance(classifier.model, VideoModel):
            raise
        reason = f"{error}".strip().partition("\n")[0]
        raise ExportError(
            f"torch.export cannot take the network apart ({type(classifier.model).__name__}): {reason}"
        ) from error
    exported = exported.run_decompositions(corr_ops.decompositions())
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        # The writer of graphs looks at the ending.
        file = temporary.with_name(f"{temporary.name}{path.suffix}")
        try:
            if format == "torch":
                with file.open(
                    "wb"
                ) as stream:  # given a name it writes that, which is temporary, into the file
                    torch.export.save(exported, stream)
            else:
                torch.onnx.export(
                    exported, input_names=["clips"], output_names=[_output_name(classifier)], verbose=False
                ).save(file)  # type: ignore[union-attr]
            difference = _difference(program, file, format, clips, classifier.targets.std)
            file.replace(temporary)
        finally:
            file.unlink(missing_ok=True)
    write_json(_usage_path(path), _usage(classifier))
    return Exported(path, difference)


def _pretrained_cfg(classifier: VideoClassifier) -> PretrainedCfg:
    clip, model = classifier.clip, classifier.video_model
    known: dict[str, Any] = {
        "input_size": (clip.num_channels, clip.crop_size, clip.crop_size),
        "frame_stride": clip.frame_stride,
        "fps": clip.fps,
        "short_side": clip.short_side_range[0],
    }
    if clip.modality == "rgb":
        known |= {"mean": (PIXEL_MEAN,) * 3, "std": (PIXEL_STD,) * 3}
    return (model.pretrained_cfg or PretrainedCfg()).model_copy(update=known)


def model_card(classifier: VideoClassifier, name: str, evaluation: Mapping[str, Any] | None = None) -> str:
    """Return the text of `README.md` in the folder of a model.

    Args:
        classifier: The model with its classes and the recipe of its clips.
        name: Of the folder, in the example.
        evaluation: As for `export_model`.
    """
    clip, cfg = classifier.clip, classifier.video_model.pretrained_cfg
    front: dict[str, Any] = {
        "library_name": "corrnet-models",
        "pipeline_tag": "video-classification",
        "tags": ["corrnet", "video-classification"],
    }
    if cfg is not None and cfg.license is not None:
        front["license"] = cfg.license
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {name}",
        _WHAT[classifier.targets.task].format(number=len(classifier.classes)),
        f"| | |\n|---|---|\n| clips | {clip.num_frames} frames, {clip.spacing} |\n"
        f"| frames | shorter side {clip.short_side_range[0]} pixels, of which the middle {clip.crop_size} x "
        f"{clip.crop_size} are taken; {clip.modality} |\n"
        f"| normalization | (pixel / 255 - {PIXEL_MEAN}) / {PIXEL_STD} |\n"
        f"| fingerprint of the weights | `{weights_hash(classifier.model)}`, which `corrnet eval` prints, too: equal "
        "weights have equal fingerprints |",
        "## Accuracy",
        _accuracy(classifier, evaluation),
        "## Use",
        "`corr-ops`, `corrnet-models`, `video-data` and `corrnet-train` are on no package index: install them from a "
        "clone of their repository.",
    ]
    if clip.modality == "rgb":
        lines += [
            "With `transformers`, whose `AutoImageProcessor` needs no torchvision, as `AutoVideoProcessor` does:",
            _install("corr-ops", "corrnet-models", others="av transformers"),
            _SNIPPET.format(
                name=name,
                rate="" if clip.fps is None else ", video_fps=rate",
                use=_USE[classifier.targets.task],
            ),
        ]
    lines += [
        f"With `corrnet`, from {classifier.num_clips} clips of each video:",
        _install("corr-ops", "video-data", "corrnet-models", "corrnet-train"),
        f"```sh\ncorrnet predict {shlex.quote(name)} video.mp4\n```",
    ]
    if len(classifier.classes) <= 50 and classifier.targets.task != "regression":
        lines += ["## Classes", ", ".join(classifier.classes) + "."]
    return "\n\n".join(lines) + "\n"


def _install(*packages: str, others: str = "") -> str:
    return (
        f"```sh\npip install {' '.join(f'./packages/{name}' for name in packages)} {others}".rstrip()
        + "\n```"
    )


_SNIPPET = """```python
import av
import torch
from transformers import AutoImageProcessor, AutoModelForVideoClassification

processor = AutoImageProcessor.from_pretrained({name!r}, trust_remote_code=True)
model = AutoModelForVideoClassification.from_pretrained({name!r}, trust_remote_code=True)
with av.open("video.mp4") as video:
    rate = float(video.streams.video[0].average_rate)
    frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
with torch.no_grad():
    scores = model(**processor(frames{rate})).logits[0]  # of one clip from the middle of the video
{use}
```"""

_PROBLEM_TYPES = {  # of transformers
    "multiclass": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
_WHAT = {
    "multiclass": "A video classifier for {number} classes, trained with corrnet.",
    "multilabel": "A video classifier for {number} labels, of which a video may have several, trained with corrnet.",
    "regression": "A network that tells a number of a video, trained with corrnet.",
}
_USE = {
    "multiclass": """probability, label = scores.softmax(dim=0).max(dim=0)
print(model.config.id2label[label.item()], f"{probability:.1%}")""",
    "multilabel": """for label, probability in enumerate(scores.sigmoid()):
    print(model.config.id2label[label], f"{probability:.1%}")""",
    "regression": "print(scores.item())",
}


def _accuracy(classifier: VideoClassifier, evaluation: Mapping[str, Any] | None) -> str:
    of_these = evaluation is not None and evaluation["fingerprint"]["weights"] == weights_hash(
        classifier.model
    )
    if evaluation is None or not of_these:
        return "Not measured."
    mark = evaluation["fingerprint"]
    if "mae" in evaluation:
        what = (
            f"Mean absolute error {evaluation['mae']:.4g} (one guess for all, their median: "
            f"{evaluation['guess_mae']:.4g}), root mean squared error {evaluation['rmse']:.4g}"
        )
    elif "mean_average_precision" in evaluation:
        what = (
            f"Mean average precision {evaluation['mean_average_precision']:.1%} (one guess for all: "
            f"{evaluation['guess_map']:.1%}), F1 at 0.5 {evaluation['f1']:.1%}"
        )
    else:
        what = (
            f"Top-1 {evaluation['video_top1']:.1%} (one guess for all: {evaluation['guess_top1']:.1%}), mean over "
            f"classes {evaluation['mean_class_accuracy']:.1%}"
        )
    return (
        f"{what}, on {evaluation['num_videos']:,} videos of the split {mark['split']} of {mark['data set']} "
        f"({mark['views']} of each). The fingerprint of these packed videos, their manifest's, is `{mark['manifest']}`."
    )


def _difference(program: nn.Module, file: Path, format: Format, clips: Tensor, scale: float) -> float:
    """Largest difference of a score between the written file and the model, divided by `scale`, for 1, 2 and 3 clips.

    Raises:
        ExportError: It is above the tolerance.
    """
    run = _load_torch(file) if format == "torch" else _load_onnx(file)
    largest = 0.0
    with torch.inference_mode():
        for number in (1, 2, 3):
            some = clips[torch.arange(number) % 2]
            largest = max(largest, float((run(some) - program(some)).abs().max()) / scale)
    if not largest <= TOLERANCE:
        raise ExportError(
            f"the exported program differs by {largest:.2g} in a score, allowed are {TOLERANCE}"
        )
    return largest


def _load_torch(file: Path) -> Any:
    return torch.export.load(file).module()


def _load_onnx(file: Path) -> Any:
    session = _import_onnx().InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(None, {"clips": clips.numpy()})[0])


def _import_onnx() -> Any:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise MissingPackageError(f"{error}; ONNX export needs: pip install 'corrnet-train[onnx]'") from error
    return onnxruntime


def _output_name(classifier: VideoClassifier) -> str:
    return "values" if classifier.targets.task == "regression" else "probabilities"


def _usage_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _usage(classifier: VideoClassifier) -> dict[str, Any]:
    clip, num_clips = classifier.clip, classifier.num_clips
    name = _output_name(classifier)
    of_video = f"average the {name} of {num_clips} clips spaced uniformly over the video"
    if num_clips == 1:
        of_video = f"the {name} of one clip from the middle of the video"
    channels = {"rgb": "RGB", "flow": "optical flow x, y", "both": "RGB, optical flow x, y"}[clip.modality]
    return {
        "input": {
            "name": "clips",
            "dtype": "uint8",
            "shape": ["clips", clip.num_channels, clip.num_frames, clip.crop_size, clip.crop_size],
            "axes": "clip, channel, frame, row, column",
            "channels": channels,
        },
        "output": {"name": name, "dtype": "float32", "shape": ["clips", len(classifier.classes)]},
        "video": of_video,
        "clip": clip.model_dump(mode="json"),
        "short_side": clip.short_side_range[0],
        "classes": classifier.classes,
    }
