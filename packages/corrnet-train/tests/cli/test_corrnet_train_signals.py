"""Ctrl-C and SIGTERM for all commands but `train`, sent to the command alone and to its whole group."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# What does the work: this process, those that pack, workers of a loader.
# To a command without workers a signal to its group is one to it alone.
CASES = [
    ("pack", 0, signal.SIGINT, False),
    ("verify", 0, signal.SIGTERM, False),
    ("eval", 0, signal.SIGINT, False),
    ("features", 0, signal.SIGTERM, False),
    ("predict", None, signal.SIGINT, False),
    ("predict", None, signal.SIGTERM, False),
    ("pack", 2, signal.SIGINT, True),
    ("pack", 2, signal.SIGTERM, False),
    ("verify", 2, signal.SIGINT, True),
    ("eval", 1, signal.SIGINT, True),
    ("features", 2, signal.SIGTERM, False),
]


@pytest.fixture
def many_videos(motionbench, tmp_path):
    """A folder with many names for the videos of MotionBench, so that no command is done before the signal."""
    folder = tmp_path / "videos"
    for number, video in enumerate(sorted((motionbench[0] / "videos").rglob("*.mp4")) * 8):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        os.link(video, folder / "ab"[number % 2] / f"{number}.mp4")
    return folder


@pytest.fixture
def commands(motionbench, model_folder, many_videos, tmp_path):
    """What is called, and the files from which on it is at work."""
    shards, out = motionbench[1], tmp_path / "out"
    out.mkdir()
    clips = ("--num-clips", "10", "--device", "cpu")
    return {
        "pack": (("pack", "folder", many_videos, out, "--shard-size", "2"), "*.tar"),
        "verify": (("verify", shards), None),
        "eval": (("eval", model_folder, shards, "--split", "train", *clips, "--output", out), "*.jsonl"),
        "features": (("features", model_folder, many_videos, *clips, "-o", out / "f.npz"), "*.part*"),
        "predict": (("predict", model_folder, many_videos, *clips), None),
    }


def send_while_at_work(process, name, pattern, out, number, to_group):
    """Send a signal while the command stands still in the middle of its work, however fast that is."""
    deadline = time.monotonic() + 120
    at_work = False
    while not at_work:
        time.sleep(0.01)
        assert time.monotonic() < deadline and process.poll() is None, process.errors
        os.killpg(process.pid, signal.SIGSTOP)
        try:
            if pattern is not None:
                at_work = any((out / "out").glob(pattern))
            else:
                at_work = _is_reading(process) if name == "verify" else process.output != ""
            if at_work:
                (os.killpg if to_group else os.kill)(process.pid, number)
        finally:
            os.killpg(process.pid, signal.SIGCONT)


def _is_reading(process):
    """Whether a process of the command has a tar open."""
    for pid in process.members():
        try:
            if any(os.readlink(path).endswith(".tar") for path in Path(f"/proc/{pid}/fd").iterdir()):  # noqa: PTH115
                return True
        except OSError:
            continue
    return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize(("name", "num_workers", "number", "to_group"), CASES)
def test_a_signal_ends_a_command_and_leaves_nothing(
    name, num_workers, number, to_group, commands, forks, tmp_path
):
    command, pattern = commands[name]
    if num_workers is not None:
        command = (*command, "--num-workers", num_workers)
    process = forks(*command)
    try:
        send_while_at_work(process, name, pattern, tmp_path, number, to_group)
        code, errors = process.wait(60), process.errors
        assert code == 130, errors
        assert "interrupted" in errors and "Traceback" not in errors, errors
        deadline = time.monotonic() + 30
        while process.members():
            assert time.monotonic() < deadline, "a process was left behind"
            time.sleep(0.05)
    finally:
        for pid in process.members():
            os.kill(pid, signal.SIGKILL)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    if name in ("pack", "eval", "features"):
        assert "the same command goes on" in errors


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.2, 2])
def test_a_signal_while_a_command_starts(seconds, commands):
    """Before anything is there to be kept, or while modules are imported."""
    process = subprocess.Popen(
        [sys.executable, "-m", "corrnet_train.cli", *map(str, commands["predict"][0])],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGTERM) and "Traceback" not in errors, errors


@pytest.mark.slow
def test_an_ignored_ctrl_c_stays_ignored(commands, tmp_path):
    """As in a background job of a script, or under nohup for SIGHUP."""
    command = [sys.executable, "-m", "corrnet_train.cli", *map(str, commands["predict"][0][:2])]
    command.append(str(next(tmp_path.rglob("*.mp4"))))
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    )
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
