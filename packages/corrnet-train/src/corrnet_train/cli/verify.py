"""`corrnet verify`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corrnet_train.cli.common import EXIT_FAILED, Overwrite, Workers, escape, out, reports_errors, workers
from corrnet_train.utils.files import check_output, write_text

if TYPE_CHECKING:
    from video_data.shards.verify import Problem

_MOST_LINES = 100


@reports_errors
def verify(
    shards: Annotated[str, typer.Argument(help="Folder written by `corrnet pack`, or its URL.")],
    decode: Annotated[
        bool,
        typer.Option("--decode/--no-decode", help="Decode every video, or compare hashes alone."),
    ] = True,
    num_workers: Workers = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the report with all problems as JSON."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Check that shards are what was packed: hash every file and sample, decode every video.

    Compares files with the manifest and videos with the indexes: bytes, size, number and times of frames. Nothing is
    changed. The exit code is 0 when all is well and 1 when there are problems, which are listed.

    [bold]Examples[/]

    corrnet verify data/shards

    corrnet verify s3://bucket/shards --no-decode --json problems.json
    """
    from video_data import verify_shards

    if json_file is not None:
        check_output(json_file, overwrite=overwrite, inputs=[shards])
    report = verify_shards(shards, decode=decode, num_workers=workers(num_workers))
    if json_file is not None:
        write_text(json_file, report.model_dump_json(indent=2) + "\n")
    if report.problems:
        for problem in report.problems[:_MOST_LINES]:
            out.print(_line(problem), highlight=False, soft_wrap=True)
        hidden = len(report.problems) - _MOST_LINES
        if hidden > 0:
            out.print(f"and {hidden} more; --json FILE writes all of them", highlight=False)
        for reason, count in Counter(problem.reason for problem in report.problems).most_common():
            out.print(f"{count} x {escape(reason)}", highlight=False, soft_wrap=True)
    how = f"decoded {report.num_frames} frames" if decode else "not decoded"
    out.print(
        f"{len(report.problems)} problems in {report.num_shards} shards; checked {report.num_checked} of "
        f"{report.num_samples} samples, {how}\nmanifest {report.manifest_hash}",
        highlight=False,
        soft_wrap=True,
    )
    if report.problems:
        raise typer.Exit(EXIT_FAILED)


def _line(problem: "Problem") -> str:
    """File, sample and what is wrong, on one line whatever the width of the terminal."""
    sample = f" {problem.key}" if problem.key else ""
    source = f" (packed from {problem.source})" if problem.source else ""
    return escape(f"{problem.file}{sample}: {problem.message}{source}")
