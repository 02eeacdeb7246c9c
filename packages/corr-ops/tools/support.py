"""Runs the tests of what is supported and writes their results into the README's table.

    python packages/corr-ops/tools/support.py

The README is left alone when a test fails or is skipped.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
README = PACKAGE / "README.md"
TESTS = PACKAGE / "tests" / "test_corr_ops_support.py"
BEGIN, END = "<!-- support:begin -->\n", "<!-- support:end -->"

Cell = tuple[str, str, str, str | None]


def render(cells: Iterable[Cell]) -> str:
    """Return the table as Markdown.

    Args:
        cells: Feature, implementation, dtype, and None where it is supported or the reason why it is not.

    Returns:
        A row for each feature, a column for each implementation, and the reasons below.
    """
    table: dict[str, dict[str, dict[str, str | None]]] = {}
    for feature, backend, dtype, reason in cells:
        table.setdefault(feature, {}).setdefault(backend, {})[dtype.removeprefix("torch.")] = reason
    backends = list(dict.fromkeys(backend for row in table.values() for backend in row))
    dtypes = list(dict.fromkeys(dtype for row in table.values() for cell in row.values() for dtype in cell))
    notes: list[str] = []

    def words(cell: dict[str, str | None]) -> str:
        supported = [dtype for dtype in dtypes if cell.get(dtype, "") is None]
        if len(supported) == len(dtypes):
            return "yes"
        reasons = dict.fromkeys(reason for reason in cell.values() if reason)
        notes.extend(reason for reason in reasons if reason not in notes)
        numbers = ", ".join(str(notes.index(reason) + 1) for reason in reasons)
        return f"{', '.join(supported) or 'no'} ({numbers})"

    lines = [f"| | {' | '.join(f'`{backend}`' for backend in backends)} |", "|---|" + "---|" * len(backends)]
    for feature, row in table.items():
        lines.append(f"| {feature} | {' | '.join(words(row.get(backend, {})) for backend in backends)} |")
    lines += ["", f'"yes" stands for {", ".join(dtypes[:-1])} and {dtypes[-1]}.']
    lines += ["", *(f"{number}. {reason}." for number, reason in enumerate(notes, 1))] if notes else []
    return "\n".join(lines) + "\n"


def in_readme() -> str:
    """Return the table that the README has."""
    return README.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]


class _Collector:
    """A pytest plugin that keeps the cells of the tests that passed and counts the others."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.num_missing = 0

    def pytest_runtest_logreport(self, report) -> None:  # type: ignore[no-untyped-def]
        if "test_cell" not in report.nodeid:
            return
        self.num_missing += not report.passed
        if report.when == "call" and report.passed:
            self.cells += [value for name, value in report.user_properties if name == "cell"]


def main() -> None:
    """Run the tests and rewrite the README."""
    import pytest

    collector = _Collector()
    pytest.main(["-q", "-k", "test_cell", str(TESTS)], plugins=[collector])
    if collector.num_missing or not collector.cells:
        sys.exit(f"{collector.num_missing} cells failed or were skipped; the README is left as it was")
    before, after = README.read_text(encoding="utf-8").split(BEGIN)
    text = before + BEGIN + render(collector.cells) + END + after.split(END)[1]
    README.write_text(text, encoding="utf-8")
    print(f"{README}: {len(collector.cells)} cells")


if __name__ == "__main__":
    main()
