"""The commands in the order of use, each of which is imported when it is called."""

import importlib
import inspect
import os
import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from corrnet_train.cli.common import reports_errors

# Name, where it is, and what the list of commands says of it: at most a line of 80 columns.
COMMANDS = {
    "Machine and data": {
        "doctor": ("doctor.doctor", "Check a machine, or all processes of a run."),
        "pack": ("pack.pack_app", "Pack the videos of a data set into shards."),
        "pack-merge": ("pack.pack_merge", "Join what was packed in parts."),
        "inspect": ("inspect.inspect", "Show what is in shards."),
        "verify": ("verify.verify", "Check that shards are what was packed."),
    },
    "Training": {
        "recipe": ("recipe.recipe_app", "Look at recipes: what there is, what they set."),
        "models": ("models.models", "Show the models with parameters and GMACs."),
        "lr-find": ("lr_find.lr_find", "Find a learning rate to begin with."),
        "train": ("train.train", "Train a model on your videos: corrnet train my-videos"),
        "resume": ("resume.resume", "Go on with a run, or train it longer."),
    },
    "Use of a trained model": {
        "eval": ("evaluate.evaluate_command", "Measure accuracy over a split."),
        "predict": ("predict.predict", "Classify videos, a camera or a stream."),
        "features": ("features.features", "Write the features of videos to a file."),
        "visualize": ("visualize.visualize_app", "Draw learned filters, or the motion that a model matches."),
        "export": ("export.export", "Write a trained model for use elsewhere."),
    },
    "Without videos of one's own": {
        "demo": ("demo.demo", "Train three models on generated videos and compare them."),
        "motionbench": ("demo.motionbench", "Generate videos whose class is only how something moves."),
    },
}
_HOME_OF_OPTION = re.compile(r"^(--[a-z-]+=)~(?=/|$)")
_PLACES = {name: entry[0] for commands in COMMANDS.values() for name, entry in commands.items()}


class Menu(TyperGroup):
    """The group `corrnet`: lists its commands without importing them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {
            name: TyperCommand(name, help=text, rich_help_panel=panel)
            for panel, commands in COMMANDS.items()
            for name, (_, text) in commands.items()
        }

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line; in `--option=~/path` the home folder is put in, as shells do for `--option ~/path`."""
        home = os.path.expanduser("~")  # noqa: PTH111  (Path.home fails for a user without one)
        return super().parse_args(
            ctx, [_HOME_OF_OPTION.sub(lambda found: found[1] + home, arg) for arg in args]
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is called, which is imported now."""
        name, command, rest = super().resolve_command(ctx, args)
        # Importing takes long enough for a signal to come.
        return name, command if name is None else reports_errors(load_command)(name), rest


class _Command(TyperCommand):
    """Says how settings are given where one of them is given as an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # of click, of which newer versions of typer have a copy
            option = getattr(error, "option_name", "")
            if type(error).__name__ == "NoSuchOption" and any(
                entry.name == "overrides" for entry in self.params
            ):
                error.message += _how_it_is_given(option, given)  # type: ignore[attr-defined]
            raise


def _how_it_is_given(option: str, given: list[str]) -> str:
    """Return how the setting is given that was taken for an option, as a further sentence; empty for other options."""
    from corrnet_train.config.load import keys_named

    keys = keys_named(option.lstrip("-").replace("-", "_"))
    if not keys:
        return ""
    place = next(number for number, arg in enumerate(given) if arg.partition("=")[0] == option)
    value = given[place].partition("=")[2] or next(iter(given[place + 1 : place + 2]), "VALUE")
    return f". Settings are given without dashes: {' or '.join(f'{key}={value}' for key in keys)}"


def load_command(name: str) -> Any:
    """Import a command or a group of commands.

    Args:
        name: One of `COMMANDS`.
    """
    module, attribute = _PLACES[name].split(".")
    found = getattr(importlib.import_module(f"{__package__}.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        app = typer.Typer(rich_markup_mode="rich", add_completion=False)
        app.command(name, cls=_Command)(found)
        found = app
    _reflow(found)
    command = typer.main.get_command(found)
    command.name = name
    return command


def _reflow(app: typer.Typer) -> None:
    """Make each paragraph of help one line, which a terminal of any width can break; examples keep their lines."""
    for command in app.registered_commands:
        assert command.callback is not None
        text = inspect.cleandoc(command.callback.__doc__ or "")
        prose, *rest = re.split(r"(?=\[bold\]Examples?\[/\])", text, maxsplit=1)
        command.help = "".join([re.sub(r"(?<!\n)\n(?!\n)", " ", prose), *rest])
