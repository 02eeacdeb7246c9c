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

Checkpoint = Annotated[
    Path,
    typer.Argument(help="A checkpoint, the folder of a run (its last.pt), or that of an exported model."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
NumClips = Annotated[
    int | None,
    typer.Option(
        help="Clips spaced uniformly over each video. Default: eval.num_clips of its recipe.", min=1
    ),
]
# One meaning everywhere: so many processes beside this one, none with 0. What is not given is one for each core where
# all work is done in them, else as many as a recipe has.
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


def workers(num_workers: int | None) -> int:
    """Return the processes of the option `--num-workers`; one that works alone is this one."""
    from video_data.utils.workers import available_cores

    return available_cores() if num_workers is None else max(1, num_workers)


def decoding_workers(num_workers: int | None) -> int:
    """Return the decoding processes of the option `--num-workers`, by default those of a recipe."""
    from corrnet_train.config.schema import DataConfig

    default: int = DataConfig.model_fields["num_workers"].default
    return default if num_workers is None else num_workers
