"""`corrnet models`."""

from typing import Annotated

import typer
from rich.table import Table

from corrnet_train.cli.common import out, reports_errors
from corrnet_train.cli.complete import model_names
from corrnet_train.utils.errors import InputError


@reports_errors
def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names or patterns; none shows all.", autocompletion=model_names),
    ] = None,
    num_frames: Annotated[
        list[int] | None,
        typer.Option(min=1, max=10_000, help="Clip lengths to count; may be given more than once."),
    ] = None,
) -> None:
    """Show the models: parameters and GMACs of a clip beside the paper's figure.

    GMACs (multiply-accumulates / 1e9) are counted by torch's FlopCounterMode and by fvcore; without
    --num-frames at the clip lengths for which the paper prints a figure, else at the model's own.

    [bold]Examples[/]

    corrnet models

    corrnet models 'corrnet*' --num-frames 32
    """
    from corrnet_models import complexity_table, list_models, model_info

    chosen: list[str] = []
    for pattern in names or ["*"]:
        found = list_models(pattern)
        if not found:
            raise InputError(f"no model matches {pattern!r}; there are {', '.join(list_models())}")
        chosen += found
    table = Table("model", "frames", "size", "params (M)", "GMACs", "fvcore", "paper", "diff.", box=None)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for name in chosen:
        info = model_info(name)
        lengths = num_frames or sorted(info.paper_gmacs) or [info.config.num_frames]
        for row in complexity_table([name], num_frames=lengths):
            digits = 2 if row.gmacs >= 1 else 4
            table.add_row(
                row.name,
                str(row.num_frames),
                f"{row.resolution}",
                f"{row.num_parameters / 1e6:.2f}",
                f"{row.gmacs:.{digits}f}",
                "" if row.gmacs_fvcore is None else f"{row.gmacs_fvcore:.{digits}f}",
                "" if row.paper_gmacs is None else f"{row.paper_gmacs:g}",
                "" if row.difference is None else f"{row.difference:+.2f}",
            )
    out.print(table)
