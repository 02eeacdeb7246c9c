"""Files that are written to a disk which is full: the error names the file, and what was there is as it was."""

import errno
import os
import resource
import signal

import numpy as np
import pytest
import torch

from video_data import VideoError
from video_data.utils.files import atomic_file, atomic_path, naming, write_atomic

BIG = 1 << 20


def by_numpy(path):
    with atomic_file(path) as file:
        np.savez(file, a=np.zeros(BIG))


def by_torch(path):
    with atomic_file(path) as file:
        torch.save({"a": torch.zeros(BIG)}, file)


def by_safetensors(path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    with atomic_path(path) as temporary:
        save_file({"a": torch.zeros(BIG)}, temporary)


@pytest.fixture
def small_files():
    """A limit on the size of files, which fails as a full disk does, but with another number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BIG // 2, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, previous)


@pytest.mark.parametrize(
    "write", [by_numpy, by_torch, by_safetensors, lambda path: write_atomic(path, bytes(BIG))]
)
def test_the_file_is_named_and_the_old_one_stays(write, tmp_path, small_files):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="File too large") as error:
        write(path)
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(path))
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["out"]  # noqa: PTH208


def test_torch_says_no_reason_where_it_opens_the_file_itself(tmp_path, small_files):
    with pytest.raises(OSError, match=r"out\.pt") as error, atomic_path(tmp_path / "out.pt") as temporary:
        torch.save({"a": torch.zeros(BIG)}, temporary)
    assert error.value.errno == errno.EIO
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_other_errors_stay_what_they_are(tmp_path):
    """Those of what is read meanwhile, for one."""
    of_input = OSError(errno.EIO, "Input/output error", "/videos/a.mp4")
    of_video = VideoError("broken")
    of_video.__cause__ = OSError(errno.EIO, "Input/output error")
    for error in (
        of_input,
        of_video,
        RuntimeError("a bug"),
        KeyError("a"),
        FileNotFoundError(2, "gone", "x"),
    ):
        with pytest.raises(type(error)) as found, naming(tmp_path / "out"):
            raise error
        assert found.value is error
