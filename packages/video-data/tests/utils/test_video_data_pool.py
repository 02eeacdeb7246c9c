import contextlib
import signal

import pytest

from video_data.utils.pool import map_in_order


def swallow_ctrl_c(item):
    """What happens to a signal while FFmpeg reads a file through Python."""
    if item == 1:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    return item


def test_ctrl_c_that_was_swallowed_ends_the_work_after_the_item():
    done = []
    with pytest.raises(KeyboardInterrupt):
        for item in map_in_order(swallow_ctrl_c, range(4), num_workers=1, title="", progress=False):
            done.append(item)
    assert done == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_caller_stays():
    calls = []
    previous = signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    try:
        assert [*map_in_order(swallow_ctrl_c, range(3), num_workers=1, title="", progress=False)] == [0, 1, 2]
    finally:
        signal.signal(signal.SIGINT, previous)
    assert calls == [1]
