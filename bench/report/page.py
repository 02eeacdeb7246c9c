"""The page: what is on record, as figures and tables."""

import json
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

from bench import history, record
from bench.data import data_report
from bench.models import step_report, table3
from bench.ops import ops_report, roofline, table1
from bench.report.figures import Kernel, history_figure, roofline_figure
from bench.tables import number
from bench.train import train_report
from bench.trees import ROOT, git
from corrnet_train.report.pages.render import render_page
from corrnet_train.utils.files import write_text

PAGE = ROOT / "docs" / "bench" / "index.html"
_SHORT = 10  # letters of a commit's name
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


@dataclass(frozen=True)
class Record:
    """Tables of what is in one file of `bench/results`.

    Attributes:
        name: The name of the file.
        title: Heading of the section.
        command: What measures it anew.
        markdown: Makes the tables of its rows.
    """

    name: str
    title: str
    command: str
    markdown: Callable[[list[dict[str, Any]]], str]


RECORDS = (
    Record("table1", "Table 1: the operator and 3D convolution", "bench.ops.table1 --time", table1.markdown),
    Record("table3", "Tables 3 and 6: what models cost", "bench.models.table3", table3.markdown),
    Record("ops", "The operator on a CPU", "bench.record ops", ops_report.markdown),
    Record("training_step", "Training steps on a CPU", "bench.record training_step", step_report.markdown),
    Record("data", "Reading and packing videos", "bench.record data", data_report.markdown),
    Record("train", "The trainer beside a bare loop", "bench.record train", train_report.markdown),
)


def write(page: Path = PAGE, *, folder: Path = history.HISTORY) -> None:
    """Write the page of what is on record.

    Args:
        page: The file; missing folders are made.
        folder: Where the history is.
    """
    rows = history.read(folder)
    subjects = _subjects({row.commit for found in rows.values() for row in found})
    described = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    write_text(
        page,
        render_page(
            "page.html",
            folders=[Path(__file__).parent],
            title="Benchmarks",
            machines=[
                _machine(name, facts, rows.get(name, []), subjects) for name, facts in described.items()
            ],
            records=[_tables(one) for one in RECORDS if record.read(one.name)],
        ),
    )


def _subjects(commits: Iterable[str]) -> dict[str, str]:
    """Return the first lines of commits; those that are not in this clone have none."""
    command = ["log", "--no-walk", "--ignore-missing", "--format=%H %s", *sorted(commits)]
    try:
        lines = git(*command).splitlines() if len(command) > 4 else []
    except (OSError, subprocess.CalledProcessError):  # a copy of the files without their history
        return {}
    return dict(line.split(" ", 1) for line in lines)


def _machine(
    machine: str, facts: dict[str, Any], rows: list[history.Row], subjects: dict[str, str]
) -> dict[str, Any]:
    commits = list(dict.fromkeys(row.commit for row in rows))
    by_name = {
        name: [row for row in rows if row.benchmark == name]
        for name in sorted({row.benchmark for row in rows})
    }
    roof = facts.get("roofline")
    return {
        "id": f"machine-{machine}",
        "title": _title(facts),
        "benchmarks": [
            _benchmark(f"machine-{machine}-{name}", found, commits, subjects)
            for name, found in by_name.items()
        ],
        "roofline": None if roof is None else _roofline(f"machine-{machine}-roofline", roof),
    }


def _title(facts: dict[str, Any]) -> str:
    threads = "1 thread" if facts["threads"] == 1 else f"{facts['threads']} threads"
    parts = [facts["gpu"] or facts["cpu"], f"{facts['cores']} cores", threads, f"torch {facts['torch']}"]
    return ", ".join([*parts, f"Python {facts['python']}"])


def _benchmark(
    prefix: str, rows: Sequence[history.Row], commits: Sequence[str], subjects: dict[str, str]
) -> dict[str, Any]:
    measured = [row for row in rows if not row.note]
    titles = [
        f"{row.commit[:_SHORT]}, {_day(row.date)}: {_ratio(row)}\n{subjects.get(row.commit, '')}".strip()
        for row in measured
    ]
    return {
        "name": rows[0].benchmark,
        "yardstick": measured[-1].yardstick if measured else "",
        "summary": _summary(measured),
        "svg": Markup(history_figure(measured, commits, titles, prefix=prefix)) if measured else "",
        "rows": [
            {
                "commit": row.commit[:_SHORT],
                "date": _day(row.date),
                "subject": subjects.get(row.commit, ""),
                "ratio": "" if row.note else _ratio(row),
                "ms": "" if row.note else _range(row.ms50, row.ms20, row.ms80),
                "note": row.note,
            }
            for row in reversed(rows)
        ],
    }


def _summary(measured: Sequence[history.Row]) -> str:
    if not measured:
        return "It could not run at any of the commits."
    last = f"{_ratio(measured[-1])} at {measured[-1].commit[:_SHORT]}"
    if len(measured) == 1:
        return f"{last}."
    return f"{_ratio(measured[0])} at {measured[0].commit[:_SHORT]}, {last}."


def _ratio(row: history.Row) -> str:
    return _range(row.ratio50, row.ratio20, row.ratio80)


def _range(middle: float, low: float, high: float) -> str:
    return f"{number(middle)} ({number(low)} to {number(high)})"


def _day(date: str) -> str:
    day = datetime.fromisoformat(date)
    return f"{day.day} {day:%b %Y, %H:%M}"


def _roofline(prefix: str, found: dict[str, Any]) -> dict[str, Any]:
    kernels = [
        Kernel(
            f"{row['provider']}, {row['direction']}, {row['stage']}, L = {row['num_frames']}",
            f"{row['provider']}, {row['direction']}",
            row["intensity"],
            row["gflops"],
        )
        for row in roofline.reached(found)
    ]
    gflops, gbytes = found["gflops"], found["gbytes"]
    return {
        "svg": Markup(roofline_figure(gflops, gbytes, kernels, prefix=prefix)),
        "gflops": number(gflops),
        "gbytes": number(gbytes),
        "rounds": found["rounds"],
        "commit": found["commit"][:_SHORT],
        "table": _html(roofline.markdown(found)),
    }


def _tables(one: Record) -> dict[str, Any]:
    return {
        "id": one.name,
        "title": one.title,
        "command": f"python -m {one.command}",
        "body": _html(one.markdown(record.read(one.name))),
    }


def _html(markdown: str) -> Markup:
    """Return Markdown as HTML; tables may be wider than the page and are then moved within it."""
    text = _MARKDOWN.render(markdown)
    text = text.replace("<table>", '<div class="scroll" tabindex="0">\n<table>')
    return Markup(text.replace("</table>", "</table>\n</div>"))
