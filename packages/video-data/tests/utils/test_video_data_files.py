import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from video_data import (
    ClipConfig,
    PackOptions,
    ShardError,
    decode_views,
    open_shards,
    pack_csv,
    pack_folder,
    verify_shards,
)
from video_data.datasets import list_csv
from video_data.media.container import probe_video
from video_data.shards.untrusted_tar import tar_samples
from video_data.utils.error_budget import ErrorBudget
from video_data.utils.errors import InputError, WorkError
from video_data.utils.files import atomic_path, check_file, locked, what_instead_of_file, write_atomic

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


@pytest.fixture
def not_files(tmp_path):
    """What is no file, by how it is called; opening some of them would wait for ever."""
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.mp4"))
    return {
        "a named pipe": tmp_path / "pipe.mp4",
        "a folder": tmp_path / "folder.mp4",
        "a socket": tmp_path / "socket.mp4",
        "a device": Path("/dev/tty"),
    }


def test_what_is_no_file_is_named(not_files, tmp_path):
    for what, path in not_files.items():
        assert what_instead_of_file(path) == what
        with pytest.raises(InputError, match=f"^{path} is {what}, and a file is wanted$"):
            check_file(str(path))
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link", "nothing", "x" * 300):
        assert what_instead_of_file(tmp_path / name) is None
        check_file(tmp_path / name)


def test_nothing_waits_for_a_pipe_in_place_of_a_video_or_a_listing(not_files, tmp_path):
    pipe = not_files["a named pipe"]
    (tmp_path / "list.csv").write_text("path,label\npipe.mp4,a\nfolder.mp4,b\n")
    for call in (
        lambda: probe_video(pipe),
        lambda: decode_views(pipe, ClipConfig(), 1),
        lambda: list(tar_samples(pipe, ErrorBudget(0))),
        lambda: list_csv(pipe),
    ):
        with pytest.raises(ValueError, match="is a named pipe, and a file is wanted"):
            call()
    options = PackOptions(mode="copy")
    with pytest.raises(WorkError, match="a named pipe, and a file is wanted"):
        pack_csv(tmp_path / "list.csv", tmp_path / "shards", options=options, progress=False)


@pytest.mark.parametrize("name", ["train-000000.tar", "train-000000.json", "manifest.json"])
def test_nothing_waits_for_a_pipe_in_a_shard_set(name, class_folder, tmp_path):
    options = PackOptions(mode="copy", shard_size=8)
    pack_folder(class_folder, tmp_path / "shards", options=options, progress=False)
    path = tmp_path / "shards" / name
    shards = open_shards(tmp_path / "shards")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match=rf"{name} is a named pipe, and a file is wanted"):
        open_shards(tmp_path / "shards")
    if name == "manifest.json":
        with pytest.raises(InputError, match=rf"{name} is a named pipe, and a file is wanted"):
            verify_shards(tmp_path / "shards", progress=False)
        return
    with pytest.raises(ShardError, match=rf"{name}: .*it is a named pipe, and a file is wanted"):
        shards.read("train", 0)
    report = verify_shards(tmp_path / "shards", progress=False)
    assert report.num_checked == report.num_samples - 8
    assert {problem.file for problem in report.problems} == {name}
    assert all("it is a named pipe" in problem.message for problem in report.problems)


def write_in_private(path):
    """Write as libraries do that put a temporary file, which nobody else may read, in the place of the file."""
    private = path.with_name("private")
    private.touch(0o600)
    private.replace(path)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_the_umask_says_who_may_read_a_file_whoever_writes_it(umask, mode, tmp_path):
    (tmp_path / "old").touch(0o600)
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "bytes", b"a")
        for name in ("new", "old"):
            with atomic_path(tmp_path / name) as temporary:
                write_in_private(temporary)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("bytes", "new", "old")] == [mode] * 3
