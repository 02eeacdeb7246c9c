"""One process at a time works in a folder, whatever machine it is on."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import torch
from typer.testing import CliRunner

from corrnet_train.checkpoint.state import Checkpoint
from corrnet_train.cli import app
from corrnet_train.evaluation.evaluate import EVALUATION_FILES
from corrnet_train.training.trainer import Trainer
from corrnet_train.utils import lock
from corrnet_train.utils.errors import WorkError
from corrnet_train.utils.lock import only_user

HOLD = """
import sys
from pathlib import Path
from corrnet_train.utils.lock import only_user
with only_user(Path(sys.argv[1]), "trains in", instead="run.dir"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder):
    """Another process that works in a folder until its input ends."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        try:
            yield other
        finally:
            other.kill()


def enter(folder, **more):
    with only_user(folder, "trains in", instead="run.dir", **more):
        return json.loads((folder / ".owner").read_text())


def refused(folder, pid, host, **more):
    message = (
        f"another process trains in {folder}, process {pid} on {host} since 20.* wait for it, stop it, or choose "
        "another run.dir"
    )
    with pytest.raises(ValueError, match=message):
        enter(folder, **more)


def test_an_owner_on_this_machine_is_named_and_a_killed_one_leaves_nothing(tmp_path):
    with holder(tmp_path) as other:
        refused(tmp_path, other.pid, socket.gethostname())
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert (tmp_path / ".owner").exists()
        assert enter(tmp_path)["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == [], "who ends leaves nothing"


def test_an_owner_that_is_about_to_end_is_waited_for(tmp_path):
    with holder(tmp_path) as other:
        ending = threading.Timer(0.5, other.stdin.close)
        ending.start()
        assert enter(tmp_path, patience=30)["pid"] == os.getpid()


def test_storage_without_locks_has_one_owner_too(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    with holder(tmp_path) as other:
        monkeypatch.setattr(fcntl, "flock", flock)
        refused(tmp_path, other.pid, socket.gethostname())
        other.kill()
        other.wait()
        assert enter(tmp_path)["pid"] == os.getpid()


def elsewhere(folder, machine="another"):
    """The traces of an owner on another machine, on storage whose locks do not reach this one."""
    owner = {
        "host": "node7",
        "machine": machine,
        "pid": 123,
        "start": "1",
        "since": "2026-01-01 00:00:00+00:00",
    }
    (folder / ".owner").write_text(json.dumps(owner))


def test_an_owner_on_another_machine_that_gives_signs_of_life_stays(tmp_path, monkeypatch):
    elsewhere(tmp_path)
    done = threading.Event()

    def touch():
        while not done.wait(0.1):
            os.utime(tmp_path / ".owner")

    beats = threading.Thread(target=touch)
    beats.start()
    said = []
    try:
        refused(tmp_path, 123, "node7", say=said.append)
    finally:
        done.set()
        beats.join()
    assert len(said) == 1
    assert re.search(
        "process 123 on node7 .* was the last one that trains in .*: waiting up to 30 s", said[0]
    )


def test_an_owner_on_another_machine_that_is_silent_is_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 1.0)
    elsewhere(tmp_path)
    assert enter(tmp_path)["pid"] == os.getpid()
    # Its lock of the system may be there yet, where a server keeps it.
    elsewhere(tmp_path)
    with (tmp_path / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert enter(tmp_path)["pid"] == os.getpid()


def test_of_two_machines_that_start_at_the_same_moment_one_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 1.0)
    read, said = lock._read, []

    def read_just_before_the_other_writes(path):
        monkeypatch.setattr(lock, "_read", read)
        found = read(path)
        elsewhere(tmp_path)
        return found

    monkeypatch.setattr(lock, "_read", read_just_before_the_other_writes)
    assert enter(tmp_path, say=said.append)["pid"] == os.getpid()
    assert len(said) == 1 and "node7" in said[0], "it wrote over the other's name"


def test_of_two_machines_that_follow_a_silent_one_at_the_same_moment_one_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 1.0)
    elsewhere(tmp_path, "a third one")
    write = lock.write_text

    def written_over(path, text):
        write(path, text)
        elsewhere(tmp_path)

    monkeypatch.setattr(lock, "write_text", written_over)
    refused(tmp_path, 123, "node7")


def test_another_container_of_this_machine_is_another_machine(tmp_path, monkeypatch):
    """Its processes have numbers of their own, so none by the owner's number runs here."""
    monkeypatch.setattr(lock, "SILENCE", 1.0)
    elsewhere(tmp_path, re.sub(r"pid:\[\d+\]", "pid:[1]", lock._machine()))
    said = []
    enter(tmp_path, say=said.append)
    assert len(said) == 1


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"machine": "x"}', b"\xff", b"{"])
def test_what_no_owner_wrote_is_watched_like_another_machine(tmp_path, monkeypatch, content):
    """An owner may have made the file and not yet written into it."""
    monkeypatch.setattr(lock, "SILENCE", 0.5)
    (tmp_path / ".owner").write_bytes(content)
    said = []
    assert enter(tmp_path, say=said.append)["pid"] == os.getpid()
    assert len(said) == 1 and said[0].startswith("a process without a name was the last one that trains in")


def test_the_name_of_an_owner_that_somebody_removed_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    with only_user(tmp_path, "trains in", instead="run.dir"):
        before = (tmp_path / ".owner").read_text()
        (tmp_path / ".owner").unlink()
        deadline = time.monotonic() + 30
        while not (tmp_path / ".owner").exists() or (tmp_path / ".owner").read_text() != before:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_files_in_a_folder_have_an_owner_each(tmp_path):
    with only_user(tmp_path / "a", "writes", instead="output"):
        with only_user(tmp_path / "b", "writes", instead="output"):
            pass
        with (
            pytest.raises(ValueError, match=rf"another process writes .*/a, process {os.getpid()} on "),
            only_user(tmp_path / "a", "writes", instead="output"),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


def test_an_owner_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    with only_user(tmp_path, "trains in", instead="run.dir"):
        before = (tmp_path / ".owner").stat().st_mtime_ns
        deadline = time.monotonic() + 30
        while (tmp_path / ".owner").stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_an_owner_that_another_one_has_followed_writes_no_checkpoint(make_config):
    """It was stopped for so long that another machine took over."""
    config = make_config("run.checkpoint_every=2", "eval.every_epochs=0", model="r2d_tiny")
    trainer = Trainer(config)
    step = trainer._train_step

    def followed(*args):
        if trainer.step == 3:
            elsewhere(config.run.dir)
        return step(*args)

    trainer._train_step = followed
    with pytest.raises(
        WorkError, match=r"process 123 on node7 .*; it took over as this one gave no sign of life"
    ):
        trainer.run()
    assert "node7" in (config.run.dir / ".owner").read_text()
    again = Trainer(config, resume=True)
    assert again.step == 2


def test_a_run_that_another_process_has_taken_further_goes_on_from_there(make_config):
    """Both look at the same folder before either has the lock."""
    options = ("optim.epochs=1", "eval.every_epochs=0", "run.checkpoint_every=1")
    whole = Trainer(make_config(*options, name="whole", model="r2d_tiny")).run()
    config = make_config(*options, model="r2d_tiny")
    early, requeued = Trainer(config), Trainer(config, requeue=True)
    first = Trainer(config)
    step, rates = first._train_step, []

    def fail_after_two(*args):
        if first.step == 2:
            raise WorkError("ended")
        return step(*args)

    first._train_step = fail_after_two
    with pytest.raises(WorkError, match="ended"):
        first.run()
    with pytest.raises(ValueError, match="already holds a run: continue it with corrnet resume"):
        early.run()
    step_requeued = requeued._train_step
    requeued._train_step = lambda *args: (rates.append(requeued.step), step_requeued(*args))[1]
    result = requeued.run()
    assert rates == list(range(2, whole.step))
    ends = [Checkpoint.load(end.checkpoint).model for end in (whole, result)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_run_that_is_queued_again_waits_for_the_one_that_ends(make_config):
    config = make_config("optim.epochs=0.25", model="r2d_tiny")
    config.run.dir.mkdir(parents=True)
    trainer = Trainer(config, requeue=True)
    with holder(config.run.dir) as other:
        ending = threading.Timer(0.5, other.stdin.close)
        ending.start()
        assert trainer.run().finished


@pytest.mark.slow
def test_one_run_is_trained_once_however_it_is_started(motionbench, forks, tmp_path):
    """Beside a torchrun neither another one nor a single process trains; a killed rank 0 leaves the run to the next."""
    train = [
        "train", "motionbench", f"data.shards={motionbench[1]}", f"run.dir={tmp_path / 'run'}", "run.log_every=1",
        "run.checkpoint_every=1", "data.num_workers=0", "optim.batch_size=8", "optim.epochs=10000",
        "eval.every_epochs=0", "model.name=r2d_tiny", "run.device=cpu", "--requeue",
    ]  # fmt: skip

    def lines():
        metrics = tmp_path / "run" / "metrics.jsonl"
        return metrics.read_text().count("\n") if metrics.exists() else 0

    def wait_for(count, process):
        deadline = time.monotonic() + 300
        while lines() < count:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)

    first, owner = forks(*train, processes=2), None
    try:
        wait_for(2, first)
        owner = json.loads((tmp_path / "run" / ".owner").read_text())
        os.kill(owner["pid"], signal.SIGSTOP)  # it leaves the processor to those that start beside it
        for processes in (0, 2):
            second = forks(*train, processes=processes)
            assert second.wait(300) != 0
            told = f"another process trains in {tmp_path / 'run'}, process {owner['pid']} on {owner['host']} since"
            assert second.errors.count(told) == 1, second.errors
        assert first.poll() is None
        assert json.loads((tmp_path / "run" / ".owner").read_text()) == owner
    finally:
        # torchrun ends the other one, too.
        os.kill(*((owner["pid"], signal.SIGKILL) if owner else (first.pid, signal.SIGTERM)))
        first.wait(300)
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, len(steps) + 1))
    third = forks(*train)
    wait_for(len(steps) + 2, third)
    os.kill(third.pid, signal.SIGTERM)
    assert third.wait(300) == 130, third.errors


def evaluation(model, shards, output):
    options = ["--num-clips=1", "--num-workers=0", "--device=cpu", f"--output={output}"]
    return ["eval", str(model), str(shards), *options]


def test_two_evaluations_do_not_write_into_one_folder(model_folder, motionbench, tmp_path):
    arguments = evaluation(model_folder, motionbench[1], tmp_path / "out")
    (tmp_path / "out").mkdir()
    with holder(tmp_path / "out") as other:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert f"another process evaluates in {tmp_path / 'out'}, process {other.pid} on " in result.stderr
        assert result.stderr.rstrip().endswith("wait for it, stop it, or choose another --output")
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(EVALUATION_FILES)


def test_an_evaluation_that_has_ended_while_its_folder_was_watched_is_not_replaced(
    model_folder, motionbench, tmp_path, monkeypatch
):
    monkeypatch.setattr(lock, "SILENCE", 1.0)
    elsewhere(tmp_path)
    waiting = lock._waiting

    def write_meanwhile(*args):
        (tmp_path / "result.json").write_text("{}")
        return waiting(*args)

    monkeypatch.setattr(lock, "_waiting", write_meanwhile)
    result = CliRunner().invoke(app, evaluation(model_folder, motionbench[1], tmp_path))
    assert result.exit_code == 2 and "result.json exists; --overwrite replaces it" in result.stderr
    assert (tmp_path / "result.json").read_text() == "{}"
