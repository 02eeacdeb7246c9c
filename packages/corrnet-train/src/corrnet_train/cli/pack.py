"""`corrnet pack` and `corrnet pack-merge`: one command for each data set, with the same options for packing."""

import shlex
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from corrnet_train.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_VIDEOS_LEFT_OUT,
    Overwrite,
    Workers,
    err,
    escape,
    out,
    reports_errors,
    show_passed_over,
    workers,
)
from corrnet_train.cli.options import Spelling, takes_model
from corrnet_train.utils.errors import InputError
from video_data.shards.pack_options import PackOptions

if TYPE_CHECKING:
    from video_data import PackReport
    from video_data.datasets import Listing

_MOST_LINES = 10


class _DataSets(TyperGroup):
    """Says what to write where the name of a data set is missing."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            command = "csv" if args[0].endswith(".csv") else "folder"
            known = ", ".join(self.list_commands(ctx))
            raise typer.BadParameter(
                f"no data set {args[0]!r}; there are {known}. "
                f"To pack your own videos: {shlex.join(['corrnet', 'pack', command, *args])}"
            )
        return super().resolve_command(ctx, args)


pack_app = typer.Typer(
    cls=_DataSets,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Pack the videos of a data set into shards for training.\n\n"
    "Packing that was stopped goes on with the same command. Videos that cannot be read are listed in manifest.json "
    "with the reason; then the exit code is 3.",
)

Source = Annotated[
    Path, typer.Argument(help="Folder of the videos, at any depth, and of the annotation files.")
]
Annotations = Annotated[Path | None, typer.Option(help="Another folder of the annotation files.")]
Fold = Annotated[int, typer.Option(help="Which of the three ways to split, 1 to 3.")]
FrameRate = Annotated[
    str | None,
    typer.Option(
        help="Take folders of pictures for videos too, with so many frames a second (25, 30000/1001)."
    ),
]
Pictures = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN",
        help="Which pictures of such a folder are the frames, where it holds several sequences: 'img_*.jpg', with * "
        "for the number.",
    ),
]


_GROUP_BY = "With --val-fraction: videos of one recording stay on one side. "
GroupByPath = Annotated[
    str | None,
    typer.Option(
        "--group-by",
        metavar="PATTERN",
        help=_GROUP_BY
        + "A regular expression over the path below SRC; what its first group in parentheses matches, or "
        "without any all of it, names the recording: 'session[0-9]+', '([^/]+)_cut'.",
    ),
]
GroupByColumn = Annotated[
    str | None,
    typer.Option(
        "--group-by", metavar="COLUMN", help=_GROUP_BY + "The column of the csv that names the recording."
    ),
]
Dest = Annotated[Path, typer.Argument(help="Folder for the shards.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be packed, and stop.")]


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise InputError(f"--part {text}: expected I/N with I from 1 to N, for example 2/8")
    return int(number), int(count)


_with_options = takes_model(
    "options",
    PackOptions,
    fields=tuple(PackOptions.model_fields),
    spellings={
        "mode": Spelling(
            "copy",
            Annotated[
                bool,
                typer.Option(
                    "--copy", help="Keep the original bytes instead of encoding for fast random access."
                ),
            ],
            False,
            lambda copy: "copy" if copy else "reencode",
        ),
        "num_workers": Spelling("num_workers", Workers, None, workers),
        "part": Spelling(
            "part",
            Annotated[
                str | None,
                typer.Option(
                    metavar="I/N",
                    help="Pack part I of N, in jobs side by side; corrnet pack-merge joins them.",
                ),
            ],
            None,
            _part,
        ),
        "overwrite": Spelling("overwrite", Overwrite, False),
    },
)


def _pack(make_listing: "Callable[[], Listing]", dest: Path, options: PackOptions, dry_run: bool) -> None:
    """Pack what is listed, or show it."""
    from video_data.datasets.validation import split_validation
    from video_data.packing.pack import check_destination

    if not dry_run:
        check_destination(dest, options)
    listing = make_listing()
    shown = listing
    if options.val_fraction is not None:
        shown = split_validation(listing, options.val_fraction, seed=options.seed)
    for note in shown.notes:
        err.print(escape(note), highlight=False, soft_wrap=True)
    if dry_run:
        show_listing(shown)
        return
    if pack_and_summarize(listing, dest, options):
        raise typer.Exit(EXIT_VIDEOS_LEFT_OUT)


def pack_and_summarize(listing: "Listing", dest: Path, options: PackOptions) -> bool:
    """Pack, say what was packed and what was not, and return whether videos were left out that are there."""
    from video_data.packing.pack import pack_listing

    try:
        report = pack_listing(listing, dest, options=options)
    except KeyboardInterrupt:
        err.print("interrupted: shards that are finished stay, the same command goes on")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if report.manifest is None:
        number, count = options.part or (1, 1)
        out.print(f"part {number} of {count}: packed {report.num_packed} videos", highlight=False)
        err.print(
            escape(f"when all parts are done: {shlex.join(['corrnet', 'pack-merge', str(dest)])}"),
            highlight=False,
            soft_wrap=True,
        )
    return _summarize(report)


def _frame_rate(text: str | None) -> Fraction | None:
    if text is None:
        return None
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise InputError(f"--frame-rate {text}: expected frames a second, for example 25 or 30000/1001")
    return rate


def show_listing(listing: "Listing") -> None:
    """Show what would be packed: a table of splits, the classes with the fewest videos, the first missing videos."""
    found = Counter(entry.split for entry in listing.entries)
    dropped = Counter((entry.split, reason) for entry, reason in listing.dropped)
    reasons = list(dict.fromkeys(reason for _, reason in listing.dropped))
    table = Table("split", "listed", "found", *reasons, box=None)
    for split in ("train", "val", "test"):
        counts = [dropped[split, reason] for reason in reasons]
        if found[split] or any(counts):
            cells = (found[split] + sum(counts), found[split], *counts)
            table.add_row(split, *(f"{number:,}" for number in cells))
    sizes = Counter(entry.label for entry in listing.entries)
    classes = listing.class_names
    smallest = sorted(classes, key=lambda name: (sizes[name], name))[:5]
    out.print(escape(f"{listing.dataset}: {len(classes)} classes"), highlight=False)
    out.print(table)
    fewest = ", ".join(f"{name} {sizes[name]}" for name in smallest)
    out.print(f"fewest videos: {escape(fewest)}", highlight=False, soft_wrap=True)
    for entry, reason in listing.dropped[:_MOST_LINES]:
        out.print(f"  {escape(entry.source)}: {escape(reason)}", highlight=False, soft_wrap=True)
    if len(listing.dropped) > _MOST_LINES:
        out.print(f"  and {len(listing.dropped) - _MOST_LINES} more", highlight=False)
    show_passed_over(listing.passed_over, out)


def _summarize(report: "PackReport") -> bool:
    """Say what was packed, and what was not; return whether videos were left out that are there."""
    from video_data.datasets import MISSING

    if report.manifest is not None:
        out.print(
            escape(f"packed {report.num_packed} videos: {report.manifest}"), highlight=False, soft_wrap=True
        )
    if report.num_conflicts:
        err.print(
            f"[bold yellow]warning:[/] {report.num_conflicts} videos are there with different labels (corrnet inspect "
            "names them first)",
            highlight=False,
            soft_wrap=True,
        )
    if report.num_duplicates:
        err.print(
            f"[bold yellow]warning:[/] {report.num_duplicates} videos are in more than one split (corrnet inspect "
            "names them): accuracy on them tells nothing",
            highlight=False,
            soft_wrap=True,
        )
    title = "passed over (manifest.json has all reasons):"
    show_passed_over(report.passed_over, err, title, most=_MOST_LINES)
    if report.flawed:
        err.print(
            f"[bold yellow]warning:[/] {len(report.flawed)} packed videos have damaged frames, gaps or end early "
            "(corrnet inspect names them):",
            highlight=False,
            soft_wrap=True,
        )
        for video in report.flawed[:_MOST_LINES]:
            err.print(f"  {escape(video.source)}: {video.delivery}", highlight=False, soft_wrap=True)
    if not report.dropped:
        return False
    err.print(f"left out {len(report.dropped)} videos (all are listed in the manifest):", highlight=False)
    for source, reason in report.dropped[:_MOST_LINES]:
        err.print(f"  {escape(source)}: {escape(reason)}", highlight=False, soft_wrap=True)
    return any(reason != MISSING for _, reason in report.dropped)


@pack_app.command("folder")
@reports_errors
@_with_options
def pack_folder_command(
    src: Annotated[Path, typer.Argument(help="Folder of SPLIT/CLASS/VIDEO or CLASS/VIDEO.")],
    dest: Dest,
    *,
    group_by: GroupByPath = None,
    frame_rate: FrameRate = None,
    pictures: Pictures = None,
    options: PackOptions,
    dry_run: DryRun = False,
) -> None:
    r"""Pack a folder with one subfolder a class.

    Where the folders at the top are named as splits are (train, training, val, dev, test, ...), they are taken for
    splits and hold those of the classes; else all videos belong to train. What was taken for what is printed, and what
    was passed over is counted; --dry-run shows both and stops. With --val-fraction a share of each class becomes the
    split val: the same videos each time, and almost the same where some were added. A folder of pictures holds one
    sequence with numbers without gaps, or --pictures names the one that is meant.

    [bold]Examples[/]

    corrnet pack folder my-videos data/shards --val-fraction 0.2

    corrnet pack folder my-videos data/shards --val-fraction 0.2 \
      --group-by 'session[0-9]+'
    """
    from video_data.datasets import list_folder
    from video_data.packing.pack import check_group_by

    rate = _frame_rate(frame_rate)
    check_group_by(group_by, options)
    _pack(
        lambda: list_folder(src, frame_rate=rate, pictures=pictures, group_by=group_by),
        dest,
        options,
        dry_run,
    )


@pack_app.command("csv")
@reports_errors
@_with_options
def pack_csv_command(
    src: Annotated[Path, typer.Argument(help="A csv with the header path,label[,split][,start,end].")],
    dest: Dest,
    *,
    root: Annotated[
        Path | None, typer.Option(help="Folder that paths refer to; default: that of the csv.")
    ] = None,
    group_by: GroupByColumn = None,
    frame_rate: FrameRate = None,
    pictures: Pictures = None,
    options: PackOptions,
    dry_run: DryRun = False,
) -> None:
    """Pack the videos that a csv lists.

    A label with a comma needs quotes. Labels that are numbers from 0 on are kept as they are, and -1 is no label. A
    path may be that of a folder of pictures, or of some of its pictures: clip/img_*.jpg. start and end are seconds or
    minutes:seconds, as 12.5 or 1:02:03, of the part that is meant, both empty for all of a video. With a column labels
    in the place of label a video may have several, as run|jump; with a column value it has a number.

    [bold]Example[/]

    corrnet pack csv videos.csv data/shards --root /data/videos
    """
    from video_data.datasets import list_csv
    from video_data.packing.pack import check_group_by

    rate = _frame_rate(frame_rate)
    check_group_by(group_by, options)
    _pack(
        lambda: list_csv(src, root, frame_rate=rate, pictures=pictures, group_by=group_by),
        dest,
        options,
        dry_run,
    )


@pack_app.command("kinetics")
@reports_errors
@_with_options
def pack_kinetics(
    src: Source, dest: Dest, *, annotations: Annotations = None, options: PackOptions, dry_run: DryRun = False
) -> None:
    """Pack Kinetics-400, 600 or 700.

    From csv files with the header label,youtube_id,time_start,time_end,split, and videos named ID_START_END.mp4 (six
    digits each) in one folder, by split or by class.

    [bold]Example[/]

    corrnet pack kinetics /data/kinetics400 data/kinetics400 --num-workers 32
    """
    from video_data.datasets import list_kinetics

    _pack(lambda: list_kinetics(src, annotations=annotations), dest, options, dry_run)


@pack_app.command("something")
@reports_errors
@_with_options
def pack_something(
    src: Source,
    dest: Dest,
    *,
    annotations: Annotations = None,
    pictures: Pictures = None,
    options: PackOptions,
    dry_run: DryRun = False,
) -> None:
    """Pack Something-Something v1 or v2.

    v1: something-something-v1-labels.csv, -train.csv, -validation.csv and folders of frames ID/00001.jpg, which are
    kept bit for bit. v2: labels.json, train.json, validation.json, also with their long names, and ID.webm.

    [bold]Example[/]

    corrnet pack something /data/something-v2 data/something-v2 --num-workers 32
    """
    from video_data.datasets import list_something

    _pack(lambda: list_something(src, annotations=annotations, pictures=pictures), dest, options, dry_run)


@pack_app.command("diving48")
@reports_errors
@_with_options
def pack_diving48(
    src: Source,
    dest: Dest,
    *,
    version: Annotated[
        str | None, typer.Option(help="V1 (that of the paper) or V2, where annotations of both are there.")
    ] = None,
    annotations: Annotations = None,
    options: PackOptions,
    dry_run: DryRun = False,
) -> None:
    """Pack Diving48.

    From Diving48_train.json and Diving48_test.json (V1) or Diving48_V2_train.json and Diving48_V2_test.json (V2),
    Diving48_vocab.json where it is there, and videos named as vid_name says.

    [bold]Example[/]

    corrnet pack diving48 /data/diving48 data/diving48 --version V2
    """
    from video_data.datasets import list_diving48

    _pack(lambda: list_diving48(src, version=version, annotations=annotations), dest, options, dry_run)


@pack_app.command("sports1m")
@reports_errors
@_with_options
def pack_sports1m(
    src: Source,
    dest: Dest,
    *,
    clip_seconds: Annotated[
        float,
        typer.Option(help="Length of the clips into which videos are cut; 0 packs whole videos.", min=0),
    ] = 10.0,
    clips_per_video: Annotated[
        int | None, typer.Option(help="Most clips of a video, spread uniformly; default: all.", min=1)
    ] = None,
    annotations: Annotations = None,
    options: PackOptions,
    dry_run: DryRun = False,
) -> None:
    """Pack Sports-1M, cut into clips.

    From labels.txt, train_partition.txt, test_partition.txt and videos named by their YouTube id.

    [bold]Example[/]

    corrnet pack sports1m /data/sports1m shards --clips-per-video 10 --part 3/64
    """
    from video_data.datasets import list_sports1m

    _pack(
        lambda: list_sports1m(
            src,
            clip_seconds=clip_seconds or None,
            clips_per_video=clips_per_video,
            annotations=annotations,
            num_workers=options.num_workers,
        ),
        dest,
        options,
        dry_run,
    )


@pack_app.command("ucf101")
@reports_errors
@_with_options
def pack_ucf101(
    src: Source,
    dest: Dest,
    *,
    fold: Fold = 1,
    annotations: Annotations = None,
    options: PackOptions,
    dry_run: DryRun = False,
) -> None:
    """Pack UCF101.

    From classInd.txt, trainlist0N.txt, testlist0N.txt and the videos, in folders for each class or in one.

    [bold]Example[/]

    corrnet pack ucf101 /data/UCF101 data/ucf101 --fold 1
    """
    from video_data.datasets import list_ucf101

    _pack(lambda: list_ucf101(src, fold=fold, annotations=annotations), dest, options, dry_run)


@pack_app.command("hmdb51")
@reports_errors
@_with_options
def pack_hmdb51(
    src: Source,
    dest: Dest,
    *,
    fold: Fold = 1,
    annotations: Annotations = None,
    options: PackOptions,
    dry_run: DryRun = False,
) -> None:
    """Pack HMDB51.

    From the files CLASS_test_splitN.txt and the videos in folders for each class.

    [bold]Example[/]

    corrnet pack hmdb51 /data/hmdb51 data/hmdb51 --fold 1
    """
    from video_data.datasets import list_hmdb51

    _pack(lambda: list_hmdb51(src, fold=fold, annotations=annotations), dest, options, dry_run)


@reports_errors
def pack_merge(
    dest: Annotated[
        Path, typer.Argument(help="Folder of the finished set; parts may have been packed into it.")
    ],
    folders: Annotated[list[Path] | None, typer.Argument(help="Other folders with parts.")] = None,
) -> None:
    """Join what was packed with --part into one set of shards.

    [bold]Examples[/]

    corrnet pack-merge data/shards

    corrnet pack-merge data/shards /scratch/part1 /scratch/part2
    """
    from video_data import merge_parts

    if _summarize(merge_parts(dest, *(folders or []))):
        raise typer.Exit(EXIT_VIDEOS_LEFT_OUT)
