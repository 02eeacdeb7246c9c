"""Trained models in other forms: a folder for the Hugging Face Hub, a torch.export program, an ONNX graph.

Programs and graphs take clips as they are cut from videos, uint8, and return probabilities: what `VideoClassifier` does
with clips is inside of them. Each is run beside the model before it counts as exported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import corr_ops
from corrnet_models import PRETRAINED_FILES, VideoModel, save_pretrained
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.utils.errors import InputError, MissingPackageError, WorkError
from corrnet_train.utils.files import check_output, write_json
from video_data import ClipConfig, normalize
from video_data.utils.files import atomic_path

Format = Literal["hub", "torch", "onnx"]
TOLERANCE = 1e-4  # largest difference of a probability
_SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}


class ExportError(WorkError):
    """A model that cannot be exported, or that computes something else afterwards."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The folder of the model, or the file of the program; `<file>.json` beside it says how to use it.
        difference: Largest difference of a probability to that of the model, over clips of noise; None for a folder,
            which holds the weights themselves.
    """

    path: Path
    difference: float | None


class _Program(nn.Module):
    """Clips to probabilities, as `VideoClassifier.clip_probabilities` without autocast."""

    def __init__(self, model: nn.Module, clip: ClipConfig) -> None:
        super().__init__()
        self.model = model
        self._clip = clip

    def forward(self, clips: Tensor) -> Tensor:
        scores: Tensor = self.model(normalize(clips, clip=self._clip))
        return scores.float().softmax(dim=1)


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
    classifier: VideoClassifier, path: str | Path, *, format: Format, overwrite: bool = False
) -> Exported:
    """Write a trained model in another form.

    Args:
        classifier: The model with its classes and the recipe of its clips, on the CPU.
        path: `hub`: the folder; `torch`: a file `.pt2`, loaded with `torch.export.load`, which needs none of these
            packages; `onnx`: a file `.onnx`. The number of clips is free in both.
        format: Which form.
        overwrite: Whether files that are there are replaced.

    Raises:
        ValueError: The path has another ending, or something is there.
        ExportError: The exported program computes something else than the model.
        ImportError: ONNX export without its packages (extra `onnx`).
    """
    assert isinstance(classifier.model, VideoModel)
    path = Path(path)
    check_export(path, format=format, overwrite=overwrite)
    if format == "hub":
        metadata = {
            "clip": classifier.clip.model_dump(mode="json"),
            "num_clips": classifier.num_clips,
            "pixels": classifier.pixels,
            "precision": classifier.precision,
        }
        save_pretrained(classifier.model, path, classes=classifier.classes, metadata=metadata)
        return Exported(path, None)
    if format == "onnx":
        _import_onnx()
    program = _Program(classifier.model.eval(), classifier.clip)
    clip = classifier.clip
    shape = (2, clip.num_channels, clip.num_frames, clip.crop_size, clip.crop_size)
    clips = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(program, (clips,), dynamic_shapes=({0: torch.export.Dim("clips")},))
    exported = exported.run_decompositions(corr_ops.decompositions())
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        # Both writers look at the ending.
        file = temporary.with_name(f"{temporary.name}{path.suffix}")
        try:
            if format == "torch":
                torch.export.save(exported, file)
            else:
                torch.onnx.export(exported, input_names=["clips"], output_names=["probabilities"]).save(file)  # type: ignore[union-attr]
            difference = _difference(program, file, format, clips)
            file.replace(temporary)
        finally:
            file.unlink(missing_ok=True)
    write_json(_usage_path(path), _usage(classifier))
    return Exported(path, difference)


def _difference(program: nn.Module, file: Path, format: Format, clips: Tensor) -> float:
    """Largest difference of a probability between the written file and the model, for one, two and three clips.

    Raises:
        ExportError: It is above the tolerance.
    """
    run = _load_torch(file) if format == "torch" else _load_onnx(file)
    largest = 0.0
    with torch.inference_mode():
        for number in (1, 2, 3):
            some = clips[torch.arange(number) % 2]
            largest = max(largest, float((run(some) - program(some)).abs().max()))
    if not largest <= TOLERANCE:
        raise ExportError(
            f"the exported program differs by {largest:.2g} in a probability, allowed are {TOLERANCE}"
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


def _usage_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _usage(classifier: VideoClassifier) -> dict[str, Any]:
    clip, num_clips = classifier.clip, classifier.num_clips
    of_video = f"average the probabilities of {num_clips} clips spaced uniformly over the video"
    if num_clips == 1:
        of_video = "the probabilities of one clip from the middle of the video"
    channels = {"rgb": "RGB", "flow": "optical flow x, y", "both": "RGB, optical flow x, y"}[clip.modality]
    return {
        "input": {
            "name": "clips",
            "dtype": "uint8",
            "shape": ["clips", clip.num_channels, clip.num_frames, clip.crop_size, clip.crop_size],
            "axes": "clip, channel, frame, row, column",
            "channels": channels,
        },
        "output": {"name": "probabilities", "dtype": "float32", "shape": ["clips", len(classifier.classes)]},
        "video": of_video,
        "clip": clip.model_dump(mode="json"),
        "short_side": clip.short_side_range[0],
        "classes": classifier.classes,
    }
