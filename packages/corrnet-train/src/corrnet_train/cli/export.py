"""`corrnet export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from corrnet_train.cli.common import Checkpoint, escape, out, reports_errors
from corrnet_train.utils.errors import InputError


@reports_errors
def export(
    checkpoint: Checkpoint,
    path: Annotated[Path, typer.Argument(help="A folder, a file .pt2 or a file .onnx.")],
    format: Annotated[
        Literal["hub", "torch", "onnx"] | None,
        typer.Option(help="Default: what the ending of PATH says; without one, hub."),
    ] = None,
) -> None:
    """Write a trained model for use elsewhere.

    hub: a folder with model.safetensors and config.json, as the Hugging Face Hub lays it out, which corrnet eval and
    predict take too. torch: a torch.export program that needs torch alone. onnx: a graph for other runtimes. Programs
    take uint8 clips and give probabilities; PATH.json says how clips are cut and names the classes. They are compared
    with the model before they count.

    [bold]Examples[/]

    corrnet export runs/first my-model

    corrnet export runs/first my-model.pt2

    corrnet export runs/first/checkpoints/best.pt my-model.onnx
    """
    from corrnet_train.inference.classifier import VideoClassifier
    from corrnet_train.inference.export import TOLERANCE, export_model

    endings: dict[str, Literal["hub", "torch", "onnx"]] = {".pt2": "torch", ".onnx": "onnx"}
    if format is None and path.suffix in {".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".ep"}:
        raise InputError(
            f"{path} ends like a file of weights: .pt2 is a torch.export program, .onnx a graph, and a name without "
            "such an ending a folder; or give --format"
        )
    chosen = format or endings.get(path.suffix, "hub")
    classifier = VideoClassifier.from_checkpoint(checkpoint, device="cpu")
    exported = export_model(classifier, path, format=chosen)
    out.print(escape(f"exported: {exported.path}"), highlight=False, soft_wrap=True)
    if exported.difference is not None:
        out.print(
            f"largest difference of a probability to the model: {exported.difference:.2g}, allowed are {TOLERANCE:g}",
            highlight=False,
        )
