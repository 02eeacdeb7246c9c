import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from video_data.utils.files import locked

HOLD = """
import os, sys, time
from pathlib import Path
from video_data.utils.files import locked
with locked(Path(sys.argv[1]), wait=False):
    child = os.fork()
    if child == 0:
        time.sleep(60)
    print(child, flush=True)
    time.sleep(60)
"""


def is_free(path):
    try:
        with locked(path, wait=False):
            return True
    except BlockingIOError:
        return False


def test_a_lock_keeps_out_this_process_and_others_and_leaves_the_file_as_it_is(tmp_path):
    path = tmp_path / "a"
    path.write_text("content")
    with locked(path, wait=False):
        assert not is_free(path)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert not pool.apply(is_free, [path])
    assert is_free(path) and path.read_text() == "content"


def test_one_who_waits_gets_the_lock_when_it_is_free(tmp_path):
    got = threading.Event()

    def wait():
        with locked(tmp_path / "a", wait=True):
            got.set()

    with locked(tmp_path / "a", wait=False):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not got.wait(0.2)
    assert got.wait(10)
    thread.join()


def test_one_who_waits_for_a_lock_that_is_removed_holds_the_one_that_others_see(tmp_path):
    path, got, done = tmp_path / "a", threading.Event(), threading.Event()

    def wait():
        with locked(path, wait=True):
            got.set()
            done.wait(10)

    thread = threading.Thread(target=wait)
    with locked(path, wait=False):
        thread.start()
        assert not got.wait(0.2)
        path.unlink()
    assert got.wait(10)
    assert not is_free(path)
    done.set()
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_leaves_no_lock_to_its_children(tmp_path):
    """Workers of a loader outlive a killed trainer by seconds."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "a")], stdout=subprocess.PIPE
    ) as holder:
        child = int(holder.stdout.readline())
        try:
            assert not is_free(tmp_path / "a")
            holder.kill()
            holder.wait()
            deadline = time.monotonic() + 10  # its first moments may still be to come
            while not is_free(tmp_path / "a"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(child, 0)  # it lives
        finally:
            os.kill(child, signal.SIGKILL)


def test_storage_without_locks_is_used_without_one(tmp_path, monkeypatch):
    import fcntl

    def no_locks(file, operation):
        raise OSError("No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path / "a", wait=True), locked(tmp_path / "a", wait=False):
        pass
