"""`corrnet pack`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from corrnet_train.cli.common import (
    EXIT_VIDEOS_LEFT_OUT,
    Workers,
    err,
    escape,
    out,
    reports_errors,
    workers,
)
from video_data import PackOptions, PackReport, pack_csv, pack_folder

pack_app = typer.Typer(no_args_is_help=True, help="Pack videos into shards for training.")

Mode = Annotated[
    Literal["reencode", "copy"],
    typer.Option(help="reencode: H.264 made for fast random access; copy: keep the original bytes."),
]
ShortSide = Annotated[int, typer.Option(help="Longest allowed shorter side when re-encoding, in pixels.")]
ShardSize = Annotated[int, typer.Option(help="Most videos in a shard.")]
Flow = Annotated[
    bool,
    typer.Option("--flow", help="Compute optical flow too, for two-stream models (about 10 times as long)."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the shards in DEST.")]


@pack_app.command("folder")
@reports_errors
def pack_folder_command(
    src: Annotated[Path, typer.Argument(help="Folder of SPLIT/CLASS/VIDEO or CLASS/VIDEO.")],
    dest: Annotated[Path, typer.Argument(help="Folder for the shards.")],
    mode: Mode = "reencode",
    short_side: ShortSide = 256,
    shard_size: ShardSize = 256,
    num_workers: Workers = 0,
    flow: Flow = False,
    overwrite: Overwrite = False,
) -> None:
    """Pack a folder with one subfolder a class.

    Videos that cannot be read are listed in manifest.json with the reason; then the exit code is 3.

    [bold]Example[/]

    corrnet pack folder my-videos data/shards
    """
    options = _pack_options(mode, short_side, shard_size, num_workers, flow, overwrite)
    _summarise(pack_folder(src, dest, options=options))


@pack_app.command("csv")
@reports_errors
def pack_csv_command(
    src: Annotated[Path, typer.Argument(help="A csv with the header path,label[,split].")],
    dest: Annotated[Path, typer.Argument(help="Folder for the shards.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder that paths refer to; default: that of the csv.")
    ] = None,
    mode: Mode = "reencode",
    short_side: ShortSide = 256,
    shard_size: ShardSize = 256,
    num_workers: Workers = 0,
    flow: Flow = False,
    overwrite: Overwrite = False,
) -> None:
    """Pack the videos that a csv lists.

    Videos that cannot be read are listed in manifest.json with the reason; then the exit code is 3.

    [bold]Example[/]

    corrnet pack csv videos.csv data/shards --root /data/videos
    """
    options = _pack_options(mode, short_side, shard_size, num_workers, flow, overwrite)
    _summarise(pack_csv(src, dest, root=root, options=options))


def _pack_options(
    mode: Literal["reencode", "copy"],
    short_side: int,
    shard_size: int,
    num_workers: int,
    flow: bool,
    overwrite: bool,
) -> PackOptions:
    return PackOptions(
        mode=mode,
        short_side=short_side,
        shard_size=shard_size,
        num_workers=workers(num_workers),
        flow=flow,
        overwrite=overwrite,
    )


def _summarise(report: PackReport) -> None:
    out.print(f"packed {report.num_packed} videos: {report.manifest}", highlight=False, soft_wrap=True)
    if not report.dropped:
        return
    err.print(f"left out {len(report.dropped)} videos (all are listed in the manifest):", highlight=False)
    for source, reason in report.dropped[:10]:
        err.print(f"  {escape(source)}: {escape(reason)}", highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_VIDEOS_LEFT_OUT)
