"""Progress where there is no terminal."""

import io
import threading

import pytest
from rich.console import Console

from video_data.utils import progress
from video_data.utils.pool import map_in_order
from video_data.utils.progress import ProgressDisplay


class Log(io.StringIO):
    """A file that tells when something was written to it."""

    def __init__(self):
        super().__init__()
        self.written = threading.Event()

    def write(self, text):
        self.written.set()
        return super().write(text)


@pytest.fixture(autouse=True)
def _no_terminal_is_claimed(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def display(clock):
    return ProgressDisplay(console=Console(file=io.StringIO(), width=20), get_time=lambda: clock[0])


def lines(display):
    file = display.console.file
    file.seek(0)
    file.truncate()
    display.write_lines()
    return file.getvalue().splitlines()


def test_a_line_has_done_of_total_the_rate_and_the_time_left(display, clock):
    task = display.add_task("pack [a]", total=7230)
    assert lines(display) == ["pack [a]: 0/7230"]
    for _ in range(15):
        clock[0] += 2
        display.advance(task, 4)
    assert lines(display) == ["pack [a]: 60/7230, 2.0/s, 0:59:45 left"]


def test_slow_work_is_counted_by_the_minute(display, clock):
    task = display.add_task("pack", total=10, completed=4)
    for _ in range(3):
        clock[0] += 20
        display.advance(task)
    assert lines(display) == ["pack: 7/10, 3.0/min, 0:01:00 left"]


def test_finished_and_hidden_tasks_have_no_line(display):
    display.advance(display.add_task("finished", total=1))
    display.add_task("hidden", total=5, visible=False)
    assert lines(display) == []


def test_lines_come_by_themselves_until_the_end(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    log = Log()
    with ProgressDisplay(console=Console(file=log)) as display:
        display.add_task("verify", total=3)
        assert log.written.wait(30)
    assert log.getvalue().startswith("verify: 0/3\n")
    assert "progress" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("options", [{"lines": False}, {"disable": True}])
def test_lines_can_be_left_out(options, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with ProgressDisplay(console=Console(file=io.StringIO()), **options) as display:
        display.add_task("verify", total=3)
        assert "progress" not in [thread.name for thread in threading.enumerate()]
    assert display.console.file.getvalue() == ""


def test_a_terminal_has_the_bar_and_no_lines():
    with ProgressDisplay(console=Console(file=io.StringIO(), force_terminal=True, width=80)) as display:
        display.advance(display.add_task("verify", total=3))
        assert "progress" not in [thread.name for thread in threading.enumerate()]
    assert "━" in display.console.file.getvalue() and "verify: " not in display.console.file.getvalue()


def test_work_that_takes_long_writes_lines_to_standard_error(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    log = Log()
    monkeypatch.setattr("sys.stderr", log)

    def slow(item):
        assert log.written.wait(30)
        return item

    assert list(map_in_order(slow, [1, 2], num_workers=1, title="pack", progress=True)) == [1, 2]
    assert log.getvalue().startswith("pack: 0/2\n")
