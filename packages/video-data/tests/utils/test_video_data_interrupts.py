import signal

import pytest

from video_data.utils.interrupts import called_by_c, interrupts
from video_data.utils.pool import map_in_order


@called_by_c
def read():
    """Ctrl-C while FFmpeg reads; no exception may come out of here."""
    signal.raise_signal(signal.SIGINT)
    return bytes(1)


def decode(item):
    return item if item != 1 else len(read())


def test_ctrl_c_while_ffmpeg_reads_ends_the_work_after_the_video():
    done = []
    with pytest.raises(KeyboardInterrupt):
        for item in map_in_order(decode, range(4), num_workers=1, title="", progress=False):
            done.append(item)
    assert done == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_elsewhere_acts_at_once():
    with pytest.raises(KeyboardInterrupt), interrupts():
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")


def test_a_second_ctrl_c_acts_where_a_read_does_not_end():
    with pytest.raises(KeyboardInterrupt), interrupts():
        read()
        read()
        pytest.fail("it went on")


def test_the_handler_of_a_caller_stays():
    calls = []
    previous = signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    try:
        assert [*map_in_order(decode, range(3), num_workers=1, title="", progress=False)] == [0, 1, 2]
    finally:
        signal.signal(signal.SIGINT, previous)
    assert calls == [1]
