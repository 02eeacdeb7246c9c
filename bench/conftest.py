"""Rows of the record: benchmarks hand them over, the session prints them as tables at its end."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from bench import gate, machine
from bench.data import data_report
from bench.models import step_report
from bench.ops import ops_report
from bench.train import train_report

_REPORTS = {
    "ops": ops_report.markdown,
    "training_step": step_report.markdown,
    "data": data_report.markdown,
    "train": train_report.markdown,
}
_ROWS = pytest.StashKey[dict[str, list[dict[str, Any]]]]()
_MACHINE = machine.describe()


@dataclass
class Verdicts:
    """What the gate found, and beside what."""

    base: gate.Baseline | None = None
    found: list[gate.Verdict] = field(default_factory=list)


_VERDICTS = pytest.StashKey[Verdicts]()


@pytest.fixture
def verdicts(request):
    """The findings of the gate, which the session prints at its end."""
    return request.config.stash.setdefault(_VERDICTS, Verdicts())


@pytest.fixture
def record(benchmark, request):
    """A function that takes the name of a record and rows for it, and returns them with the machine's columns."""

    def add(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows = [{**row, **_MACHINE} for row in rows]
        benchmark.extra_info[name] = rows
        request.config.stash.setdefault(_ROWS, {}).setdefault(name, []).extend(rows)
        return rows

    return add


def pytest_terminal_summary(terminalreporter, config):
    judged = config.stash.get(_VERDICTS, Verdicts())
    if judged.base is not None:
        terminalreporter.section(f"gate: times of the working tree divided by those of {judged.base}")
        terminalreporter.write_line(gate.report(judged.found, gate.recorded_here()) or "nothing was compared")
    for name, rows in config.stash.get(_ROWS, {}).items():
        terminalreporter.section(f"{name}: times and ratios")
        terminalreporter.write_line(_REPORTS[name](rows))
