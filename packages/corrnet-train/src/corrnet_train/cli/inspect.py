"""`corrnet inspect`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from corrnet_train.cli.common import Overwrite, Workers, escape, out, reports_errors, workers
from corrnet_train.cli.layout import print_entry
from corrnet_train.utils.files import check_output, write_text

if TYPE_CHECKING:
    from video_data.shards.inspect import Inspection

_MOST_DUPLICATES = 10
_MOST_FLAWED = 10


@reports_errors
def inspect(
    shards: Annotated[str, typer.Argument(help="Folder written by `corrnet pack`, or its URL.")],
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a contact sheet of sampled clips: FILE.html or FILE.png."),
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Show the number of samples of every class.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything that was counted as JSON.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Splits the sheet is sampled from; default: all.")
    ] = None,
    num_classes: Annotated[int, typer.Option(min=1, help="Most classes on the sheet.")] = 50,
    clips: Annotated[int, typer.Option(min=1, help="Most clips of a class on the sheet.")] = 2,
    frames: Annotated[int, typer.Option(min=1, max=64, help="Frames of a clip on the sheet.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the choice of classes and clips.")] = 0,
    num_workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Show what is in shards: splits, classes, sizes, lengths, what was left out, duplicates, samples.

    Reads the manifest and the indexes; videos are read for the sheet alone, and hashed. Samples that cannot be read are
    shown as such.

    [bold]Examples[/]

    corrnet inspect data/shards

    corrnet inspect data/shards --sheet sheet.html --clips 4

    corrnet inspect data/shards --per-class --json shards.json
    """
    from corrnet_train.report.pages.contact_sheet import (
        SHEET_SUFFIXES,
        THUMBNAIL_HEIGHT,
        check_sheet,
        summary_rows,
        write_sheet,
    )
    from video_data import inspect_shards, open_shards, sample_thumbnails

    if json_file is not None:
        check_output(json_file, overwrite=overwrite, inputs=[shards])
    if sheet is not None:
        check_output(sheet, overwrite=overwrite, inputs=[shards], endings=SHEET_SUFFIXES)
    shard_set = open_shards(shards, verify=True)
    if sheet is not None:
        check_sheet(sheet, num_classes=min(num_classes, len(shard_set.classes)), clips_per_class=clips)
    inspection = inspect_shards(shard_set)
    for name, value in summary_rows(inspection):
        print_entry(out, name, value, indent=23)
    same_videos = sorted([*inspection.duplicates, *inspection.repeats], key=lambda same: not same.labels)
    for duplicate in same_videos[:_MOST_DUPLICATES]:
        same = "; ".join(f"{split}: {source}" for split, source in duplicate.samples)
        labels = " and ".join(inspection.classes[label] for label in duplicate.labels)
        other = f" with the labels {labels}" if duplicate.labels else ""
        if duplicate.labels and inspection.task == "regression":
            other = " with different values"
        out.print(f"the same video{escape(other)}: {escape(same)}", highlight=False, soft_wrap=True)
    more = inspection.num_duplicates + inspection.num_repeats - _MOST_DUPLICATES
    if more > 0:
        out.print(f"and {more} more", highlight=False)
    for flawed in inspection.flawed[:_MOST_FLAWED]:
        out.print(
            f"{flawed.split}: {escape(flawed.source)}: {flawed.delivery}", highlight=False, soft_wrap=True
        )
    if inspection.num_flawed > _MOST_FLAWED:
        out.print(f"and {inspection.num_flawed - _MOST_FLAWED} more", highlight=False)
    if per_class:
        out.print(_class_table(inspection))
    if json_file is not None:
        write_text(json_file, inspection.model_dump_json(indent=2) + "\n")
    if sheet is not None:
        thumbnails = sample_thumbnails(
            shard_set,
            num_classes=num_classes,
            clips_per_class=clips,
            num_frames=frames,
            height=THUMBNAIL_HEIGHT,
            seed=seed,
            splits=split,
            num_workers=workers(num_workers),
        )
        write_sheet(inspection, thumbnails, sheet)
        out.print(escape(f"sheet: {sheet}"), highlight=False, soft_wrap=True)


def _class_table(inspection: "Inspection") -> Table:
    table = Table("label", "class", *inspection.splits)
    for column in (table.columns[0], *table.columns[2:]):
        column.justify = "right"
    for label, name in enumerate(inspection.classes):
        counts = (str(split.per_class.get(name, 0)) for split in inspection.splits.values())
        table.add_row(str(label), escape(name), *counts)
    return table
