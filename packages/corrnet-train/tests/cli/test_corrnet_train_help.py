"""Help of every command: the order of the commands, lines that fit, examples that can be copied."""

import inspect
import re
from itertools import pairwise

import pytest
from typer.testing import CliRunner

from corrnet_train.cli import app
from corrnet_train.cli.menu import COMMANDS, load_command

runner = CliRunner()
ORDER = [
    "doctor", "pack", "pack-merge", "inspect", "verify", "recipe", "models", "lr-find", "train", "resume",
    "eval", "predict", "features", "visualize", "export", "demo", "motionbench",
]  # fmt: skip


def every_command(name, command):
    """Words and command of a command and of all below it."""
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from every_command(f"{name} {word}", below)


ALL = dict(entry for name in ORDER for entry in every_command(name, load_command(name)))


def show(name, width):
    result = runner.invoke(app, [*name.split(), "--help"], env={"COLUMNS": str(width), "TERMINAL_WIDTH": ""})
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.output.splitlines()]


def test_commands_are_listed_in_the_order_of_use():
    assert [name for commands in COMMANDS.values() for name in commands] == ORDER
    text = "\n".join(show("", 80))
    places = [re.search(rf"│ {name} ", text).start() for name in ORDER]
    assert places == sorted(places)
    for panel, commands in COMMANDS.items():
        assert f"─ {panel} ─" in text
        for name, (_, line) in commands.items():
            assert re.search(rf"│ {name} +{re.escape(line)} +│", text), name


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["", *ALL])
def test_no_line_of_help_is_too_long_or_broken_too_early(name, width):
    lines = show(name, width)
    assert max(map(len, lines)) <= width
    prose = [line.strip() for line in lines[: next(i for i, line in enumerate(lines) if "─" in line)]]
    stop = next((i for i, line in enumerate(prose) if re.fullmatch("Examples?", line)), len(prose))
    for line, following in pairwise(prose[2:stop]):
        if line and following:  # within a paragraph: the next word had no place
            assert len(line) + 1 + len(following.split()[0]) > width - 2, line


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", [name for name, command in ALL.items() if not hasattr(command, "commands")])
def test_examples_keep_their_lines(name, width):
    shown = [line.strip() for line in show(name, width)]
    _, _, examples = inspect.cleandoc(ALL[name].callback.__doc__).partition("[bold]Example")
    lines = [line.strip() for line in examples.splitlines()[1:] if line]
    assert [line for line in lines if line not in shown] == []
    assert any(line.startswith(("corrnet ", "torchrun ")) for line in lines) or name in (
        "demo",
        "recipe list",
        "recipe options",
    )
