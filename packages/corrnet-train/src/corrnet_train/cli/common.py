"""What the commands share: consoles, exit codes, options, errors as one message."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_VIDEOS_LEFT_OUT = 3
EXIT_INTERRUPTED = 130

out = Console()
err = Console(stderr=True)
F = TypeVar("F", bound=Callable[..., Any])

CHECKPOINT_HELP = "A checkpoint, the folder of a run (its last.pt), or that of an exported model."
Checkpoint = Annotated[Path, typer.Argument(help=CHECKPOINT_HELP)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
NumClips = Annotated[
    int | None,
    typer.Option(
        help="Clips spaced uniformly over each video. Default: eval.num_clips of its recipe.", min=1
    ),
]
Workers = Annotated[int, typer.Option(help="Processes; 0 means one for each core.")]


def reports_errors(command: F) -> F:
    """Turns what users can cause into one message and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (ValueError, ImportError) as error:  # the latter names the extra to install
            print_error(error)
            raise typer.Exit(EXIT_BAD_INPUT) from None
        except (OSError, RuntimeError) as error:
            # typer.Exit is a RuntimeError of click.
            if isinstance(error, typer.Exit):
                raise
            print_error(error)
            raise typer.Exit(EXIT_FAILED) from None
        except KeyboardInterrupt:
            err.print("interrupted; the same command starts again")
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return wrapped  # type: ignore[return-value]


def print_error(error: Exception) -> None:
    """One line on standard error; of several processes that fail alike the first one prints it."""
    if os.environ.get("RANK", "0") != "0" and getattr(error, "on_every_rank", False):
        return
    err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)


def escape(text: str) -> str:
    """Text without meaning as markup; what no terminal takes, as in file names of other encodings, is spelled out."""
    return text.encode("utf-8", "backslashreplace").decode().replace("[", r"\[")


def workers(num_workers: int) -> int:
    """Number of processes of the option `--num-workers`."""
    return num_workers or os.cpu_count() or 1
