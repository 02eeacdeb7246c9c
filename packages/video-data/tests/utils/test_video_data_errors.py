"""Errors that users can cause keep their class, their message and their attributes on the way between processes."""

import pickle
from functools import partial

import pytest
from torch.utils.data import Dataset

from video_data import InputError, MissingPackageError, RemoteError, ShardError, VideoError, WorkError
from video_data.loading.live import open_frames
from video_data.media.limits import UnindexableVideo
from video_data.utils.errors import WorkersError
from video_data.utils.loader import make_data_loader
from video_data.utils.pool import map_in_order

ERRORS = [
    InputError("text"),
    WorkError("text"),
    WorkersError("text"),
    MissingPackageError("text"),
    RemoteError("text"),
    VideoError("frame 3 is gone", reason="frames are gone"),
    UnindexableVideo("times are missing"),
    ShardError("shard 3 is gone", reason="a shard is gone"),
    FileNotFoundError(2, "No such file", "there"),
]
names = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


class Failing(Dataset):
    def __init__(self, kind, *args):
        self.make = partial(kind, *args)

    def __getitem__(self, numbers):
        raise self.make()


class Unsendable(OSError):
    def __init__(self, number, text):
        super().__init__(f"{number} {text}")


def fail(error):
    raise error


def check_same(found, error):
    assert type(found) is type(error) and str(found) == str(error)
    assert vars(found) == vars(error) and getattr(found, "filename", 0) == getattr(error, "filename", 0)


@pytest.mark.parametrize(
    ("error", "base"),
    [(VideoError, InputError), (ShardError, InputError), (InputError, ValueError), (WorkError, RuntimeError)],
)
def test_they_are_what_they_were(error, base):
    assert issubclass(error, base)
    assert issubclass(MissingPackageError, ImportError) and issubclass(RemoteError, OSError)


@names
def test_they_can_be_pickled(error):
    check_same(pickle.loads(pickle.dumps(error)), error)


@pytest.mark.slow
def test_they_come_out_of_processes_as_they_are():
    error = ERRORS[4]  # the others are sent in the same way
    with pytest.raises(type(error)) as found:
        list(map_in_order(fail, [error, error], num_workers=2, title="", progress=False))
    found.value.__dict__.pop("__notes__", None)
    check_same(found.value, error)


def error_of_loader(*failure):
    """What comes out of a loader, without the frames that would keep its workers."""
    try:
        next(iter(make_data_loader(Failing(*failure), [[0]], 1)))
    except Exception as error:
        return error.with_traceback(None)


@names
def test_they_come_out_of_the_workers_of_a_loader_as_they_are(error):
    check_same(error_of_loader(pickle.loads, pickle.dumps(error)), error)


@pytest.mark.parametrize("error", [(ValueError, "a bug"), (Unsendable, 1, "two")], ids=["bug", "unsendable"])
def test_the_trace_of_anything_else_comes_out_of_them(error):
    found = error_of_loader(*error)
    assert isinstance(found, ValueError | RuntimeError | OSError) and "in __getitem__" in str(found)
    assert not isinstance(found, InputError | WorkError)


def test_what_the_block_of_an_open_video_raises_is_not_the_videos(class_folder):
    video = next(class_folder.rglob("*.mp4"))
    with pytest.raises(KeyError), open_frames(str(video)) as frames:
        next(frames)
        raise KeyError("a bug")
