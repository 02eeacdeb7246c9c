"""The page of benchmarks: what is drawn and written, and how a browser shows it."""

import re
import runpy
from pathlib import Path

import pytest
from bench import history, record
from bench.history import Row, fingerprint
from bench.models import step_report, table3
from bench.ops import ops_report, roofline, table1
from bench.ops.cases import SMALL
from bench.report import page
from bench.report.figures import Kernel, history_figure, roofline_figure

ROOT = Path(__file__).parents[1]
BROWSER = ROOT / "packages" / "corrnet-train" / "tests" / "report" / "test_corrnet_train_browser.py"
HERE = {"cpu": "A CPU", "flags": "1", "cores": 2, "gpu": "", "torch": "2", "python": "3.12", "threads": 2}
THERE = {**HERE, "cpu": "Another <CPU>", "threads": 1}
NUM_COMMITS = 14
ROOF = {
    "commit": "c" * 40,
    "rounds": 5,
    "gflops": 100.0,
    "gbytes": 10.0,
    "kernels": [
        {
            "stage": stage,
            "num_frames": 8,
            "direction": direction,
            "provider": "operator",
            "operations": 10**9,
            "bytes": 10**8,
            "ms": 20.0,
        }
        for stage in ("res2", "res3")
        for direction in ("forward", "forward+backward")
    ],
}


def commit(number: int) -> str:
    return f"{number:04}".ljust(40, "0")


def row(number: int, benchmark: str, ratio: float) -> Row:
    quantiles = (0.9 * ratio, ratio, 1.1 * ratio)
    times = tuple(10 * value for value in quantiles)
    date = f"2026-01-{number + 1:02}T00:00:00+00:00"
    return Row(commit(number), date, benchmark, "ops", "a <nap>", 25, *times, *quantiles)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A history of two machines: one benchmark that became faster, one that could not run at first."""
    rows = [row(number, "ops_forward", 8 / (number + 1)) for number in range(NUM_COMMITS)]
    rows += [row(number, "train_step", 1.2) for number in range(1, NUM_COMMITS)]
    rows.append(Row(commit(0), "2026-01-01T00:00:00+00:00", "train_step", note="ImportError: no <trainer>"))
    history.add(rows, HERE, tmp_path)
    history.add(rows[:3], THERE, tmp_path)
    history.note(HERE, tmp_path, roofline=ROOF)
    return tmp_path


def test_the_page_has_every_row_and_every_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_subjects", lambda commits: {commit(3): "Kernels | that <are> fast"})
    page.write(folder / "page.html", folder=folder)
    text = (folder / "page.html").read_text()
    assert text.count('<figure class="history">') == 3
    assert (
        len(re.findall(r"<title>\d{4}000000, ", text)) == 2 * NUM_COMMITS - 1 + 3
    )  # a point for each row with figures
    assert len(re.findall(r"<tr><td><code>\d{4}000000<", text)) == 2 * NUM_COMMITS + 3
    assert "ImportError: no &lt;trainer&gt;" in text and "Another &lt;CPU&gt;" in text
    assert "Kernels | that &lt;are&gt; fast" in text and "a &lt;nap&gt;" in text
    assert "8 (7.2 to 8.8) at 0000000000, 0.571 (0.514 to 0.629) at 0013000000." in text
    assert text.count("<svg") == 4
    for one in page.RECORDS:
        (section,) = re.findall(rf'id="{one.name}".*?</section>', text, re.DOTALL)
        assert section.count("<tr>") > len(record.read(one.name)) / 8


def test_without_history_the_page_says_how_to_begin(tmp_path: Path) -> None:
    page.write(tmp_path / "deep" / "page.html", folder=tmp_path / "none")
    text = (tmp_path / "deep" / "page.html").read_text()
    assert "There is no history yet" in text and "<fieldset" not in text


def test_what_is_found_out_about_a_machine_stays_when_rows_come(folder: Path) -> None:
    history.add([row(20, "ops_forward", 1.0)], HERE, folder)
    assert f'"gflops": {ROOF["gflops"]}' in (folder / f"{fingerprint(HERE)}.json").read_text()


def test_points_without_figures_are_left_out_and_others_keep_their_places() -> None:
    rows = [row(number, "ops_forward", 1 + number / 10) for number in (0, 2)]
    svg = history_figure(rows, [commit(number) for number in range(4)], ["first", "a < b"], prefix="x")
    assert re.findall(r"<title>(.*?)</title>", svg) == ["first", "a &lt; b"]
    assert "var(--series-0)" in svg


def test_a_share_of_the_roof_is_that_of_the_lower_roof() -> None:
    found = {**ROOF, "kernels": [{**ROOF["kernels"][0], "bytes": size} for size in (10**9, 10**6)]}
    # 1 operation a byte: the copy's 10 GB/s bound it; 1,000: the product's 100 GFLOP/s.
    assert [one["share"] for one in roofline.reached(found)] == pytest.approx([50 / 10, 50 / 100])
    assert roofline_figure(100, 10, [Kernel("k", "s", 1, 5)], prefix="x").count("<title>k: 5 ") == 1


def test_bytes_and_operations_of_a_kernel() -> None:
    case = SMALL[0]  # C = 64, L = 8, 56 x 56, two groups
    frames, filters, out = 64 * 8 * 56 * 56, 8 * 64 * 49, 2 * 49 * 8 * 56 * 56
    assert roofline.operations(case, "forward", None) == 3 * case.columns["macs"]
    assert roofline.moved(case, "forward", None) == 4 * (frames + filters + out)
    assert roofline.moved(case, "forward+backward", None) == 4 * (3 * (frames + filters) + 2 * out)
    assert roofline.operations(case, "forward", (3, 3, 3)) == 2 * 27 * 64 * frames
    assert roofline.moved(case, "forward", (3, 3, 3)) == 4 * (2 * frames + 27 * 64 * 64)


DRAWN = """
(() => {
  const box = element => element.getBoundingClientRect();
  const shown = [...document.querySelectorAll("figure svg")].filter(svg => box(svg).width > 0);
  const empty = shown.filter(svg => box(svg).height < 100 || svg.querySelectorAll("path").length < 5).length;
  const tables = [...document.querySelectorAll("table")];
  const bare = tables.filter(table => ![...table.querySelectorAll("td")].some(cell => cell.textContent.trim())).length;
  return {shown: shown.length, empty, tables: tables.length, bare};
})()
"""


@pytest.mark.parametrize(
    ("report", "tables", "name"),
    [
        (ops_report, ops_report.short, "ops"),
        (table1, table1.short, "table1"),
        (step_report, step_report.markdown, "training_step"),
        (table3, table3.short, "table3"),
    ],
)
def test_readmes_show_what_is_on_record(report, tables, name: str) -> None:
    rows = record.read(name)
    if name == "ops":
        rows = [row for row in rows if row["num_frames"] * row["batch"] in (8, 128)]
    assert f"<!-- written by python -m {report.__name__} -->\n\n{tables(rows)}\n\n<!-- end -->" in (
        report.README.read_text()
    )


HOVERED = """
(() => {
  const group = document.querySelector("figure.history g[id$=-point-3]");
  group.scrollIntoView({block: "center"});
  const {left, right, top, bottom} = group.getBoundingClientRect();
  const hit = document.elementFromPoint((left + right) / 2 + 4, (top + bottom) / 2);  // beside the dot itself
  return hit.closest("g[id*=-point-]").querySelector("title").textContent;
})()
"""


@pytest.fixture(scope="module")
def tools():
    found = runpy.run_path(str(BROWSER))
    if found["CHROMIUM"] is None:
        pytest.skip("there is no Chromium")
    return found


@pytest.mark.slow
def test_a_browser_draws_the_page_and_filters_it_by_machine(folder: Path, tools, tmp_path: Path) -> None:
    page.write(folder / "page.html", folder=folder)
    with tools["chromium"](tmp_path / "chromium") as browser:

        def evaluate(expression):
            answer = browser.call("Runtime.evaluate", expression=expression, returnByValue=True)
            return answer["result"].get("value")

        for width in (1280, 390):
            for scheme in ("light", "dark"):
                assert browser.show(folder / "page.html", width=width, scheme=scheme) == [], (width, scheme)
                found = evaluate(DRAWN)
                assert found["shown"] == 4 and found["tables"] > 8
                assert found["empty"] == found["bare"] == 0
                assert evaluate(HOVERED).startswith("0003000000, 4 Jan 2026")
        evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        assert evaluate(tools["FAULTS"]) == []
        for described, shown in ((HERE, 3), (THERE, 1)):
            evaluate(f"document.getElementById('only-machine-{fingerprint(described)}').click()")
            assert evaluate(DRAWN)["shown"] == shown


def test_the_page_in_the_repository_has_all_that_is_on_record() -> None:
    text = page.PAGE.read_text()
    again = "run `make bench-report` and commit the page"
    for rows in history.read().values():
        for one in rows:
            assert f"<code>{one.commit[:10]}</code>" in text, again
    for one in page.RECORDS:
        for row in record.read(one.name):
            assert row.get("commit", "")[:10] in text, again


@pytest.mark.slow
def test_a_machine_is_measured() -> None:
    found = roofline.measure(SMALL[2:], rounds=1)
    assert found["gflops"] > found["gbytes"] > 0
    assert len(found["kernels"]) == 4 and all(
        row["gflops"] <= found["gflops"] for row in roofline.reached(found)
    )
