"""What is taken for what, on the terminal."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from corrnet_train.cli import evaluate


@pytest.fixture
def shown(monkeypatch):
    def show(confusion, classes, width=80):
        console = Console(file=io.StringIO(), width=width)
        monkeypatch.setattr(evaluate, "out", console)
        evaluate._print_mistakes(SimpleNamespace(confusion=confusion), classes)
        return console.file.getvalue().splitlines()

    return show


def test_the_matrix_of_few_classes_has_every_count_at_80_columns(shown):
    classes = [f"a long name of class number {number}" for number in range(12)]
    confusion = [[1234 if row == column else row * column % 7 for column in range(12)] for row in range(12)]
    _, header, *rows = shown(confusion, classes)
    assert header.split() == [str(number) for number in range(1, 13)]
    for number, (line, counts) in enumerate(zip(rows, confusion, strict=False)):
        assert len(line) <= 80 and line.startswith(f"{number + 1} a lo")
        assert [int(count) for count in line[-60:].split() if count.isdigit()] == counts


def test_the_most_frequent_mistakes_are_named_first(shown):
    lines = shown([[5, 1, 0], [0, 2, 3], [2, 0, 4]], ["[red]", "b", "c"])
    assert lines[-3:] == [
        "b taken for c: 3 of 5 videos", "c taken for [red]: 2 of 6 videos", "[red] taken for b: 1 of 6 videos",
    ]  # fmt: skip
    assert lines[2].split() == ["1", "[red]", "5", "1", "0"]
    many = [[0] * 13 for _ in range(13)]
    many[0][1] = 2
    assert shown(many, [str(number) for number in range(13)]) == ["0 taken for 1: 2 of 2 videos"]
    assert shown([[3, 0], [0, 2]], ["a", "b"]) == []
