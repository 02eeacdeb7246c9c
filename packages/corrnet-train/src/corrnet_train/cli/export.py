"""`corrnet export`."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from corrnet_train.cli.common import (
    Checkpoint,
    Like,
    Overwrite,
    check_checkpoint,
    escape,
    out,
    read_of_checkpoint,
    reports_errors,
)
from corrnet_train.utils.errors import InputError


@reports_errors
def export(
    checkpoint: Checkpoint,
    path: Annotated[Path, typer.Argument(help="A folder, a file .pt2 or a file .onnx.")],
    format: Annotated[
        Literal["hub", "torch", "onnx"] | None,
        typer.Option(help="Default: what the ending of PATH says; without one, hub."),
    ] = None,
    like: Like = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a trained model for use elsewhere.

    hub: a folder with model.safetensors and config.json, as the Hugging Face Hub lays it out, which corrnet eval and
    predict take too, and so do the auto classes of transformers with trust_remote_code=True; its README.md shows how
    and tells the accuracy that corrnet train measured. torch: a torch.export program that needs torch alone. onnx: a
    graph for other runtimes. Programs take uint8 clips and give probabilities; PATH.json says how clips are cut and
    names the classes. They are compared with the model before they count.

    [bold]Examples[/]

    corrnet export runs/first my-model

    corrnet export runs/first my-model.pt2

    corrnet export runs/first/checkpoints/best.pt my-model.onnx
    """
    from corrnet_train.inference.classifier import VideoClassifier
    from corrnet_train.inference.export import TOLERANCE, check_export, export_model

    check_checkpoint(checkpoint, like)
    endings: dict[str, Literal["hub", "torch", "onnx"]] = {".pt2": "torch", ".onnx": "onnx"}
    is_file = path.suffix[1:2].isalpha() and not path.is_dir()  # my-model-v1.2 is no file
    if format is None and is_file and path.suffix not in endings:
        raise InputError(
            f"{path} has an unknown ending: .pt2 is a torch.export program, .onnx a graph, and a name without an "
            "ending a folder; or give --format"
        )
    chosen = format or endings.get(path.suffix, "hub")
    check_export(path, format=chosen, overwrite=overwrite, inputs=read_of_checkpoint(checkpoint, like))
    classifier = VideoClassifier.from_checkpoint(checkpoint, device="cpu", like=like)
    exported = export_model(
        classifier, path, format=chosen, overwrite=overwrite, evaluation=_evaluation_of_run(checkpoint)
    )
    out.print(escape(f"exported: {exported.path}"), highlight=False, soft_wrap=True)
    if exported.difference is not None:
        out.print(
            f"largest difference of a probability to the model: {exported.difference:.2g}, allowed are {TOLERANCE:g}",
            highlight=False,
        )
    name = shlex.quote(str(path))
    uses = {
        "hub": f"use it: corrnet predict {name} VIDEO; {path / 'README.md'} shows how transformers takes it",
        "torch": f"use it: torch.export.load({str(path)!r}).module()(clips)",
        "onnx": f'use it: onnxruntime.InferenceSession({str(path)!r}).run(None, {{"clips": clips}})',
    }
    usage = "" if chosen == "hub" else f"; how clips are cut, and the classes: {path}.json"
    out.print(escape(f"{uses[chosen]}{usage}"), highlight=False, soft_wrap=True)


def _evaluation_of_run(checkpoint: Path) -> dict[str, Any] | None:
    """Return the figures that `corrnet train` measured after the run of a checkpoint; None where there are none."""
    from corrnet_train.cli.own import REPORT

    folder = checkpoint if (checkpoint / "checkpoints").is_dir() else checkpoint.parent.parent
    try:
        figures: dict[str, Any] = json.loads((folder / REPORT / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return figures
