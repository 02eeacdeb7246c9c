import importlib
import io
import random
import signal
import sys
import threading
import time

import av
import pytest

from video_data.media.container import open_video
from video_data.utils import interrupts as module
from video_data.utils.interrupts import interrupts, not_interrupted, put_off_until_end
from video_data.utils.pool import map_in_order

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@not_interrupted
def read(number):
    """A signal while FFmpeg reads; no exception may come out of here."""
    signal.raise_signal(number)
    return bytes(1)


def decode(item):
    with put_off_until_end():
        return item if item != 1 else len(read(signal.SIGINT))


def handlers():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@SIGNALS
def test_a_signal_elsewhere_acts_at_once(number):
    with pytest.raises(KeyboardInterrupt), interrupts():
        signal.raise_signal(number)
        pytest.fail("it went on")
    assert handlers() == (signal.default_int_handler, signal.SIG_DFL)


@SIGNALS
def test_a_signal_while_c_code_calls_acts_when_that_has_returned(number):
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts():
        with put_off_until_end():
            read(number)
            done.append(1)
        pytest.fail("it went on")
    assert done == [1]
    with interrupts(), put_off_until_end():
        pass  # the next command is not ended by it


@SIGNALS
def test_ffmpeg_stops_reading_and_the_video_ends_with_the_interrupt(
    number, make_video, tmp_path, monkeypatch
):
    path = tmp_path / "video.mp4"
    path.write_bytes(make_video(range(300), size=(320, 240), options={"qp": "0", "preset": "ultrafast"}))
    real = path.open("rb")
    reads = []

    class File:
        tell, seek = real.tell, real.seek

        def __enter__(self):
            return self

        def __exit__(self, *_):
            real.close()

        def read(self, size):
            reads.append(size)
            if len(reads) == 2:
                signal.raise_signal(number)
            return real.read(size)

    monkeypatch.setattr(type(path), "open", lambda *_: File())
    with pytest.raises(KeyboardInterrupt), interrupts(), open_video(path) as (container, stream):
        frames = list(container.decode(stream))
    assert len(reads) == 2 and len(frames) < 300


def test_no_signal_is_lost_while_compiled_code_notes_where_it_raised(make_video):
    """At the end of a file PyAV raises, and catches what it raised: 1 of 100 signals came just then, and was lost."""
    content = make_video(range(2), size=(32, 32))
    previous = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        for _ in range(1000):
            deadline = time.monotonic() + 10
            with pytest.raises(KeyboardInterrupt), interrupts():
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 1e-3))
                while time.monotonic() < deadline:
                    with av.open(io.BytesIO(content)) as container:
                        list(container.demux())
                pytest.fail("it went on")
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_signals_that_come_together_are_one_and_a_later_one_acts_where_a_read_does_not_end(monkeypatch):
    """`timeout` sends SIGTERM to a process and to its group."""
    with pytest.raises(KeyboardInterrupt), interrupts():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # does not end the clean-up
            cleaned = True
    assert cleaned
    with pytest.raises(KeyboardInterrupt), interrupts():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        time.sleep(0.6)
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # is one with the second
            cleaned_again = True
    assert cleaned_again
    with pytest.raises(KeyboardInterrupt), interrupts():
        read(signal.SIGINT)
        read(signal.SIGINT)
        monkeypatch.setattr(module, "ONE_SIGNAL", 0)
        read(signal.SIGINT)
        pytest.fail("it went on")


def test_ctrl_c_while_ffmpeg_reads_ends_the_work_of_one_process_after_the_video():
    done = []
    with pytest.raises(KeyboardInterrupt):
        for item in map_in_order(decode, range(4), num_workers=1, title="", progress=False):
            done.append(item)
    assert done == [0]
    assert handlers() == (signal.default_int_handler, signal.SIG_DFL)


@SIGNALS
def test_handlers_of_a_caller_stay(number):
    calls = []
    for handler in (lambda *_: calls.append(1), signal.SIG_IGN):  # ignored, as under nohup
        previous = signal.signal(number, handler)
        try:
            with interrupts():
                read(number)
                assert signal.getsignal(number) is handler
        finally:
            signal.signal(number, previous)
    assert calls == [1]


def test_sigterm_can_be_left_alone_and_other_threads_change_nothing():
    with interrupts(sigterm=False):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    seen = []

    def on_a_thread():
        with interrupts():
            seen.append(handlers())

    thread = threading.Thread(target=on_a_thread)
    thread.start()
    thread.join()
    assert seen == [(signal.default_int_handler, signal.SIG_DFL)]


@not_interrupted
def read_in_two_parts():
    with put_off_until_end():
        read(signal.SIGINT)
    return "whole"


def test_what_must_not_be_left_half_made_is_made_whole():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts():
        with put_off_until_end():
            done.append(read_in_two_parts())
        pytest.fail("it went on")
    assert done == ["whole"]


def test_other_threads_are_not_ended_in_the_place_of_this_one():
    seen = []

    def on_a_thread():
        with put_off_until_end():
            seen.append(module.is_put_off())

    with pytest.raises(KeyboardInterrupt), interrupts():
        read(signal.SIGINT)
        thread = threading.Thread(target=on_a_thread)
        thread.start()
        thread.join()
        seen.append(module.is_put_off())
    assert seen == [False, True]


@SIGNALS
def test_a_signal_while_a_module_is_imported_acts_when_it_is(number, tmp_path, monkeypatch):
    """Whatever catches all exceptions there."""
    text = "import signal, time\n"
    text += f"try:\n    signal.raise_signal({int(number)})\n    time.sleep(0.2)\nexcept:\n    whole = False\n"
    name = f"raises_{number.name}"
    (tmp_path / f"{name}.py").write_text(text + "whole = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt), interrupts():
        assert importlib.import_module(name).whole
        time.sleep(5)
        pytest.fail("it went on")
    assert sys.modules.pop(name).whole


class Half:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("put_off", [False, True])
def test_no_interrupt_is_lost_at_the_very_end_of_the_work(put_off):
    """Where it is put off, and where Python drops it."""
    with pytest.raises(KeyboardInterrupt), interrupts():
        if put_off:
            read(signal.SIGTERM)
        else:
            half = Half()
            del half
    with interrupts():
        time.sleep(0.2)  # it does not come twice


def test_an_interrupt_that_python_drops_comes_again(capsys):
    with pytest.raises(KeyboardInterrupt), interrupts():
        half = Half()
        del half
        time.sleep(5)
        pytest.fail("it went on")
    assert capsys.readouterr().err == ""
