"""What the commands share: consoles, exit codes, options, errors as one message."""

import functools
import os
import platform
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich import markup
from rich.console import Console

from corrnet_train.utils.errors import InputError, kind_of, message_of
from corrnet_train.utils.nearest import did_you_mean
from corrnet_train.utils.versions import version_of
from video_data.utils.interrupts import interrupts, put_off_until_end
from video_data.utils.messages import hide_secrets

if TYPE_CHECKING:
    from video_data.shards.format import PassedOver

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_VIDEOS_LEFT_OUT = 3
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130

out = Console()
err = Console(stderr=True)
F = TypeVar("F", bound=Callable[..., Any])

# Control characters, but not the ends of lines and tabs.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CHECKPOINT = "A checkpoint, the folder of a run (its last.pt), or that of an exported model"
Checkpoint = Annotated[Path, typer.Argument(help=f"{_CHECKPOINT}.")]
# Commands that take a checkpoint and videos take it as an option too.
CheckpointOrVideo = Annotated[
    str | None,
    typer.Argument(metavar="CHECKPOINT", help=f"{_CHECKPOINT}; with --checkpoint the first video."),
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint", metavar="CHECKPOINT", help="Give it here instead; then all arguments are videos."
    ),
]
Like = Annotated[
    str | None,
    typer.Option(
        "--like",
        metavar="CHECKPOINT",
        help="For a CHECKPOINT that is a state dict alone: one whose recipe and classes it has.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
NumClips = Annotated[
    int | None,
    typer.Option(
        help="Clips spaced uniformly over each video. Default: eval.num_clips of its recipe.",
        min=1,
        max=10_000,
    ),
]
# One meaning everywhere: so many processes do the work; with 0, and where 1 is enough, this one does. Not given it is
# one for each core where all work is done in them, else the default of data.num_workers.
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        show_default="one for each core",
        help="Processes that do the work; 0: none, this one does it.",
    ),
]
DecodingWorkers = Annotated[
    int | None,
    typer.Option(
        "--num-workers",
        min=0,
        show_default="that of data.num_workers",
        help="Decoding processes of each process with a model; 0: none, that one decodes.",
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layer", help="Correlation layer, for example res2.corr; another --layer adds one, where allowed."
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace what is there, finished or begun with other settings; else it is an error.",
    ),
]


def reports_errors(command: F) -> F:
    """Turn what users can cause into one message and an exit code, and say of anything else that it is a bug.

    SIGTERM acts as Ctrl-C does, but not under torchrun: it ends processes that wait for one that is gone.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with interrupts(sigterm="RANK" not in os.environ):
            try:
                with put_off_until_end():
                    return command(*args, **kwargs)
            except (typer.Exit, typer.Abort, typer.BadParameter):  # typer has messages for these
                raise
            except Exception as error:
                print_error(error)
                raise typer.Exit(_EXIT_CODES[kind_of(error)]) from None
            except KeyboardInterrupt:
                err.print("interrupted; the same command starts again")
                raise typer.Exit(EXIT_INTERRUPTED) from None

    return wrapped  # type: ignore[return-value]


_EXIT_CODES = {"bad input": EXIT_BAD_INPUT, "failed work": EXIT_FAILED, "bug": EXIT_BUG}
_always_trace = False


def set_debug(debug: bool) -> None:
    """Say whether the traceback is shown of errors that users can cause, too."""
    global _always_trace
    _always_trace = debug


def print_error(error: Exception) -> None:
    """Print one line on standard error, for a bug the traceback and what to report.

    Of several processes that fail alike the first one prints it.
    """
    if os.environ.get("RANK", "0") != "0" and getattr(error, "on_every_rank", False):
        return
    is_bug = kind_of(error) == "bug"
    if is_bug or _always_trace:
        _print("".join(traceback.format_exception(error)).rstrip())
    if not is_bug:
        err.print(
            f"[bold red]error:[/] {escape(hide_secrets(message_of(error)))}", highlight=False, soft_wrap=True
        )
        return
    err.print(
        "[bold red]error:[/] this is a bug in corrnet; please report it with the lines above and these two:",
        highlight=False,
        soft_wrap=True,
    )
    _print(f"version: {versions()}")
    _print(f"command: {shlex.join(['corrnet', *sys.argv[1:]])}")


def _print(text: str) -> None:
    err.print(escape(hide_secrets(text)), highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Print a line on standard error as it is: without markup, and broken by the terminal alone."""
    err.print(escape(line), highlight=False, soft_wrap=True)


def versions() -> str:
    """Return in one line what a report of a bug names: versions of this package, torch and Python, and the system."""
    python = f"Python {platform.python_version()}"
    return f"corrnet-train {version_of('corrnet-train')}, torch {version_of('torch')}, {python}, {platform.platform()}"


def with_environment(overrides: Sequence[str]) -> list[str]:
    """Return settings with those of the environment before them, and say which these are.

    Args:
        overrides: Those of the command line, `section.key=value`.

    Raises:
        InputError: A variable is none, or two of the command line set the same key.
    """
    from corrnet_train.config.environment import environment_overrides
    from corrnet_train.config.load import text_keys
    from corrnet_train.config.recipes import check_given_once

    check_given_once(overrides, text_keys=text_keys())
    found = environment_overrides(os.environ)
    if found and os.environ.get("RANK", "0") == "0":
        say(f"from the environment: {', '.join(f'{name} ({text})' for name, text in found.items())}")
    return [*found.values(), *overrides]


def escape(text: str) -> str:
    """Return text without meaning as markup; what no terminal takes, or what would steer it, is spelled out."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return markup.escape(_STEERING.sub(lambda found: f"\\x{ord(found[0]):02x}", text))


def checkpoint_and_videos(
    first: str | None, videos: list[str] | None, option: str | None
) -> tuple[str, list[str]]:
    """Return the checkpoint and the videos of a command, whichever way the checkpoint was given.

    Raises:
        InputError: There is no checkpoint.
    """
    given = [] if first is None else [first, *(videos or [])]
    if option is not None:
        return option, given
    if not given:
        raise InputError("give a checkpoint: a file, the folder of a run, or that of an exported model")
    return given[0], given[1:]


def show_passed_over(
    passed_over: "Sequence[PassedOver]",
    console: Console,
    title: str = "passed over:",
    *,
    most: int | None = None,
) -> None:
    """Show what was found and not taken, by reason: the first `most` of them, or all."""
    if not passed_over:
        return
    most = len(passed_over) if most is None else most
    console.print(title, highlight=False)
    for entry in passed_over[:most]:
        text = f"  {entry.reason}: {entry.count:,}, the first is {entry.first[0]}"
        console.print(escape(text), highlight=False, soft_wrap=True)
    if more := sum(entry.count for entry in passed_over[most:]):
        console.print(f"  {more:,} for {len(passed_over) - most} more reasons", highlight=False)


def check_checkpoint(*checkpoints: str | Path | None) -> None:
    """Check that checkpoints are there, before anything else that is given with them.

    Raises:
        InputError: One is not; the message has names beside it that are spelled almost so, or the newest checkpoint.
    """
    from corrnet_train.checkpoint.folders import checkpoint_names

    for path in (Path(checkpoint) for checkpoint in checkpoints if checkpoint is not None):
        # Of a file among checkpoints who reads it says which are intact.
        if not os.path.lexists(path) and not checkpoint_names(path.parent):
            beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
            raise InputError(f"no checkpoint at {path}{did_you_mean(path.name, beside, folder=path.parent)}")


def read_of_checkpoint(*checkpoints: str | Path | None) -> list[Path]:
    """Return the files and folders that are read of checkpoints, folders of runs and those of exported models."""
    from corrnet_models import PRETRAINED_FILES

    read: list[Path] = []
    for path in (Path(checkpoint) for checkpoint in checkpoints if checkpoint is not None):
        folder = path if path.is_dir() else path.parent if path.name in PRETRAINED_FILES else None
        read += [path] if folder is None else [folder / name for name in ("checkpoints", *PRETRAINED_FILES)]
    return read


def workers(num_workers: int | None) -> int:
    """Return the processes of the option `--num-workers`; one that works alone is this one."""
    from video_data.utils.workers import available_cores

    return available_cores() if num_workers is None else max(1, num_workers)


def decoding_workers(num_workers: int | None) -> int:
    """Return the decoding processes of the option `--num-workers`, by default that of data.num_workers."""
    from corrnet_train.config.schema import DataConfig

    default: int = DataConfig.model_fields["num_workers"].default
    return default if num_workers is None else num_workers
