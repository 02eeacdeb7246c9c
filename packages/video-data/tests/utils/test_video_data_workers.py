"""Numbers of workers, and the memory in which batches are handed over."""

import os
import signal
import time
from pathlib import Path

import pytest
from torch.utils.data import Dataset

from video_data import ClipConfig, PackOptions, open_shards, pack_folder, suggest_num_workers, train_loader
from video_data.utils import loader as loader_module
from video_data.utils import workers as workers_module
from video_data.utils.errors import WorkersError
from video_data.utils.interrupts import interrupts
from video_data.utils.loader import batch_buffer, make_data_loader
from video_data.utils.workers import WorkerContext, available_cores, working_on

CLIP = ClipConfig(num_frames=4, crop_size=16, short_side=(20, 24))


@pytest.mark.parametrize(
    ("cores", "local_world_size", "expected"),
    [(1, 1, 1), (2, 1, 1), (8, 1, 7), (8, 2, 3), (64, 1, 16), (64, 8, 7), (4, 8, 1)],
)
def test_cores_are_shared_and_each_training_process_keeps_one(cores, local_world_size, expected, monkeypatch):
    monkeypatch.setattr(workers_module, "available_cores", lambda: cores)
    assert suggest_num_workers(local_world_size) == expected


def test_the_limits_of_the_process_and_of_its_container_count(tmp_path, monkeypatch):
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(workers_module, "_CGROUP_LIMIT", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert available_cores() == 12
    for text, cores in (("max 100000", 12), ("250000 100000", 3), ("50000 100000", 1), ("rubbish", 12)):
        limit.write_text(text)
        assert available_cores() == cores


def test_no_training_process_at_all_is_refused():
    with pytest.raises(ValueError, match="local_world_size must be at least 1, got 0"):
        suggest_num_workers(0)


@pytest.mark.parametrize("pixels", ["rgb", "yuv"])
def test_workers_hand_batches_over_in_shared_memory(pixels, class_folder, tmp_path):
    pack_folder(class_folder, tmp_path, options=PackOptions(mode="copy"), progress=False)
    loader = train_loader(
        open_shards(tmp_path), "train", CLIP, batch_size=8, seed=0, num_workers=1, pixels=pixels
    )
    for batch in loader:
        buffer = batch.video if pixels == "rgb" else batch.video.data
        assert buffer.is_shared()
        assert buffer.untyped_storage().nbytes() == buffer.nbytes


class Steps(Dataset):
    """A batch is the number of its worker; some numbers end or keep it."""

    def describe(self, number):
        return f"sample {number}"

    def __getitem__(self, numbers):
        for number in numbers:
            working_on(number)
            if number == 100:
                os.kill(os.getpid(), signal.SIGKILL)
            if number >= 1000:
                time.sleep(number)
        return os.getpid()


def test_a_worker_that_dies_is_named_with_what_it_was_at():
    loader = make_data_loader(Steps(), [[0], [99, 100, 101], [2]], 1)
    with pytest.raises(WorkersError, match=r"died \(SIGKILL; out of memory.* while it worked on sample 100$"):
        list(loader)


class Tensors(Steps):
    """A batch is memory that the worker hands over, and the number of its process."""

    def __getitem__(self, numbers):
        return batch_buffer(4), super().__getitem__(numbers)


def test_a_worker_that_dies_with_batches_that_are_ready_is_named_too():
    loader = make_data_loader(Tensors(), [[0], [1], [2], [3]], 1)
    batches = iter(loader)
    _, pid = next(batches)
    time.sleep(1)  # the next two are ready, in memory that nobody else has
    os.kill(pid, signal.SIGKILL)  # and whether it is alive is asked before the server has noticed
    with pytest.raises(WorkersError, match=r"died \(SIGKILL; out of memory.*"):
        list(batches)


def test_a_worker_that_does_not_answer_is_named_with_what_it_is_at(monkeypatch):
    monkeypatch.setattr(loader_module, "_LOOK_PERIOD", 0.1)
    loader = make_data_loader(Steps(), [[0], [1000], [2]], 1)
    batches = iter(loader)
    next(batches)
    loader._give_up_after = 0.5  # not sooner: a start takes seconds on a busy machine
    with pytest.raises(WorkersError, match=r"gave no batch for .* process \d+ has worked on sample 1000 for"):
        list(batches)


def test_a_loader_waits_longer_than_it_looks_after_its_workers(monkeypatch):
    monkeypatch.setattr(loader_module, "_LOOK_PERIOD", 0.05)
    assert len(list(make_data_loader(Steps(), [[0], [1], [2]], 2))) == 3  # the server takes seconds to start


def test_an_interrupt_while_workers_start_leaves_no_loader_half_made(monkeypatch):
    make_queue, calls = WorkerContext.Queue, []

    def interrupted_queue(context):
        calls.append(1)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return make_queue(context)

    monkeypatch.setattr(WorkerContext, "Queue", interrupted_queue)
    loader = make_data_loader(Steps(), [[0]], 2)
    with pytest.raises(KeyboardInterrupt), interrupts():
        list(loader)
        pytest.fail("it went on")
    assert [process.is_alive() for process in loader._workers.processes] == [True, True]


SCRIPT = """
import signal, sys, time
from video_data.utils.pool import map_in_order
from video_data.utils.loader import batch_buffer, make_data_loader
sys.path.insert(0, {folder!r})
from {module} import Steps, pause

if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: print("signal", flush=True))
    if sys.argv[1] == "pool":
        batches = map_in_order(pause, [0.1] * 60, num_workers=2, title="", progress=False)
    else:
        batches = iter(make_data_loader(Steps(), [[n] for n in range(int(sys.argv[2]), int(sys.argv[2]) + 60)], 2))
        if sys.argv[1] == "exit":
            next(batches), sys.exit()
    for pid in batches:
        print(pid, flush=True)
        time.sleep(0.05)
    print("done", flush=True)
"""


def pause(seconds):
    time.sleep(seconds)
    return os.getpid()


@pytest.fixture
def start(scripts):
    text = SCRIPT.format(folder=str(Path(__file__).parent), module=Path(__file__).stem)
    return lambda *arguments: scripts(text, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["loader", "pool"])
def test_a_signal_to_all_processes_leaves_workers_to_the_main_process(kind, start):
    process = start(kind, "0")
    pids = set(process.wait_for_lines(8))
    assert len(pids) == 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        os.killpg(process.pid, number)
    assert process.wait() == 0, process.errors
    lines = process.output.splitlines()
    assert lines[-1] == "done" and "signal" in lines and pids >= {*lines} - {"done", "signal"}
    assert_group_ends(process)


@pytest.mark.slow
def test_workers_end_with_the_main_process_when_it_is_killed_or_leaves_them_at_work(start):
    process = start("loader", "970")
    process.wait_for_lines(8)
    time.sleep(1.5)  # both are at numbers that take very long, or soon will be
    process.kill()
    assert_group_ends(process)
    process = start("exit", "999")
    assert process.wait() == 0, process.errors
    assert_group_ends(process)


def assert_group_ends(process, within=20.0):
    deadline = time.monotonic() + within
    while process.members():
        assert time.monotonic() < deadline, f"processes of group {process.pid} live on"
        time.sleep(0.1)
