"""`corrnet doctor`."""

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from corrnet_train.cli.common import (
    EXIT_FAILED,
    DecodingWorkers,
    Device,
    Overwrite,
    decoding_workers,
    err,
    escape,
    out,
    reports_errors,
)
from corrnet_train.cli.complete import model_names
from corrnet_train.cli.layout import fitting_table, print_entry
from corrnet_train.utils.errors import InputError
from corrnet_train.utils.files import check_output, write_text

if TYPE_CHECKING:
    from corrnet_train.doctor import CheckResult, Context

_COLORS = {"ok": "green", "skipped": "dim", "warning": "yellow", "failed": "bold red"}
_MOST_PROCESSES = 64  # in the table
_PLAIN_WIDTH = 160  # of the table where there is no terminal


@reports_errors
def doctor(
    shards: Annotated[
        str | None, typer.Option(help="Shards to train on: a folder written by `corrnet pack`, or its URL.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--dir", help="Folder for the run, as run.dir; nothing is left in it.")
    ] = None,
    device: Device = "auto",
    num_workers: DecodingWorkers = None,
    model: Annotated[
        str,
        typer.Option(
            help="Model whose gradients and checkpoints are counted, see `corrnet models`.",
            autocompletion=model_names,
        ),
    ] = "corrnet26",
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds after which a check that has not ended has failed.")
    ] = 60,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all findings as JSON; - for standard output."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    r"""Check a machine, or all processes of a run, before an expensive one.

    Looks at versions, devices, the operator's kernels (against the reference), the decoder and the limits of the
    machine; with --shards and --dir also at what a run would read and write. Started by torchrun it checks all
    processes together: that they are there and alike, that sums over them are right, how fast, and that they share
    their files. A check that hangs is told after --timeout seconds, with the ranks that did not answer.

    The exit code is 0 when nothing has failed and 1 when something has; warnings do not change it.

    [bold]Examples[/]

    corrnet doctor

    corrnet doctor --shards data/shards --dir runs/first --num-workers 8

    torchrun --nproc-per-node 8 -m corrnet_train.cli doctor \
      --shards data/shards --dir runs/first --model corrnet50

    corrnet doctor --json - | jq .checks
    """
    from corrnet_models import model_config
    from corrnet_train.doctor import Options, examine

    if json_file is not None and json_file != Path("-"):
        check_output(json_file, overwrite=overwrite)
    if not math.isfinite(timeout):
        raise InputError(f"--timeout {timeout}: expected a finite number of seconds")
    model_config(model)  # names the nearest model there is
    options = Options(
        device=device,
        shards=shards,
        run_dir=run_dir,
        num_workers=decoding_workers(num_workers),
        model=model,
        timeout=timeout,
    )
    console = err if json_file == Path("-") else out
    is_first = os.environ.get("RANK", "0") == "0"

    def show(result: "CheckResult") -> None:
        status = result.summary.status
        for number, line in enumerate(result.summary.result.splitlines()):
            label = "" if number else f"{status:<8} {result.name}"
            print_entry(console, label, line, indent=24, style=_COLORS[status])
        for line in result.summary.advice.splitlines():
            print_entry(console, "", f"-> {line}", indent=24)

    with console.status("checking") as spinner:
        context, results = examine(
            options,
            on_start=lambda name: spinner.update(f"checking {name}"),
            on_result=show if is_first else lambda result: None,
        )
    if is_first:
        if context.ranks.launched:
            wide = console if console.is_terminal else Console(file=console.file, width=_PLAIN_WIDTH)
            wide.print(_processes(wide, results))
        if json_file is not None:
            _write(json_file, _report(context, results))
    _part(context, results)
    if any(result.failed for result in results):
        raise typer.Exit(EXIT_FAILED)


def _processes(console: Console, results: "list[CheckResult]") -> Table:
    """Return a row a process: who it is and what it runs on."""
    titles = ("rank", "host", "local", "pid", "device", "name", "memory", "free", "capability")
    rows: list[list[str]] = []
    by_name = {result.name: result.ranks for result in results}
    pairs = list(zip(by_name["processes"], by_name["device"], strict=True))
    for rank, (process, device) in enumerate(pairs[:_MOST_PROCESSES]):
        if process is None:
            rows.append([str(rank), "[bold red]did not answer[/]"])
            continue
        figures = process.figures | ({} if device is None else device.figures)
        memory = [f"{figures[key]} GiB" if key in figures else "" for key in ("memory_gib", "free_gib")]
        cells = [figures.get(key, "") for key in ("host", "local_rank", "pid", "device", "name")]
        rows.append(
            [str(rank), *(escape(str(cell)) for cell in cells), *memory, str(figures.get("capability", ""))]
        )
    if len(pairs) > _MOST_PROCESSES:
        rows.append(["...", f"and {len(pairs) - _MOST_PROCESSES} more, see --json"])
    return fitting_table(console, titles, rows, droppable=("capability", "pid", "local", "free", "memory"))


def _report(context: "Context", results: "list[CheckResult]") -> dict[str, Any]:
    return {
        "ok": not any(result.failed for result in results),
        "world_size": context.ranks.world_size,
        "checks": [result.model_dump(mode="json") for result in results],
    }


def _write(path: Path, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=2) + "\n"
    if path == Path("-"):
        sys.stdout.write(text)
    else:
        write_text(path, text)


def _part(context: "Context", results: "list[CheckResult]") -> None:
    """End the processes together, so that torchrun stops none before the first one has printed."""
    if not context.ranks.launched:
        return
    timeout = context.options.timeout
    if context.ranks.is_first:
        context.board.post("printed", "yes")
    elif context.board.read("printed", 0, timeout=timeout) is None:
        for result in results:
            if result.failed:
                err.print(
                    f"{context.ranks.name}: {result.name}: {escape(result.summary.result)}", soft_wrap=True
                )
    context.board.post("leaving", "yes")
    if context.ranks.is_first:
        context.board.collect("leaving", timeout=5)
    if any(result.failed for result in results):
        # A collective that hangs would hold the interpreter's exit up.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_FAILED)
    context.stack.close()
