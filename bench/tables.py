"""Small help for reports: rows of a record become Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_BUSY = 0.5  # load before a run from which its times are those of a shared machine


def find(rows: Sequence[Row], **wanted: Any) -> Row:
    """Return the first row with the wanted values, an empty one where there is none."""
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), {})


def machine(row: Row) -> str:
    """Say what a row was measured on, and at which commit where that is on record."""
    commit = f", at {row['commit'][:10]}" if "commit" in row else ""
    clock = f" at {row['ghz']} GHz" if row.get("ghz") else ""
    instructions = row.get("instruction_set") or "none"
    return (
        f"torch {row['torch']}, {row['cpu']}{clock}, {row['cores']} cores, kernels for {instructions}{commit}"
    )


def measured_on(row: Row) -> str:
    """Say on what machine and at which commit a row was measured, and whether other programs ran."""
    text = f"{machine(row)}, {'1 thread' if row['threads'] == 1 else str(row['threads']) + ' threads'}."
    if row["threads"] == 1:
        text += " Times are those of the processor."
    if row["load"] >= _BUSY:
        text += f" Other programs used the machine (load {row['load']:.1f}): absolute times may be longer than alone."
    return text


def milliseconds(row: Row) -> str:
    """Return the median of a row's times with the 20 and 80 % quantiles."""
    if "ms50" not in row:
        return ""
    return f"{number(row['ms50'])} ({number(row['ms20'])}-{number(row['ms80'])})"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with three significant digits, or an empty cell."""
    if value is None:
        return ""
    return f"{value:.{digits}g}" if value < 10**digits else f"{value:.0f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return a Markdown table, its first columns aligned to the left; nothing where there are no rows."""
    if not rows:
        return ""
    rule = ["---"] * left + ["--:"] * (len(header) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def write_between_markers(readme: Path, module: str, text: str) -> None:
    """Put what a report makes between the two comments that a README has for it."""
    begin, end = f"<!-- written by python -m {module} -->", "<!-- end -->"
    before, found, rest = readme.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{readme} has no lines {begin} and {end}")
    readme.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
