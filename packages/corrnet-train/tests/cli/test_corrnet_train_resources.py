"""Commands on a disk or with a /dev/shm that is full, each in a mount namespace of its own."""

import os
import shutil
import subprocess
import sys

import pytest

from corrnet_train.checkpoint.state import Checkpoint


def _can_mount():
    return (
        shutil.which("unshare") is not None
        and subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
        ).returncode
        == 0
    )


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _can_mount(), reason="needs the right to mount a file system"),
]


def corrnet(folder, size, *command, kept=None):
    """Call a command with a file system of `size` mounted at a folder; what is in it is copied to `kept`."""
    copied = f"; code=$?; cp -a {folder}/. {kept}; exit $code" if kept else ""
    script = f'mount -t tmpfs -o size={size} tmpfs {folder} && "$@"{copied}'
    return subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "bash", sys.executable, "-m", "corrnet_train.cli",
         *map(str, command)],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def check_told(result, *texts):
    last = result.stderr.rstrip().splitlines()[-1]
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    assert all(text in last for text in ("error: ", *texts)), result.stderr


def test_the_last_checkpoint_stays_when_the_disk_is_full(motionbench, tmp_path):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    result = corrnet(
        disk, "11M", "train", "motionbench", "model.name=r2d_tiny", f"data.shards={motionbench[1]}",
        "data.num_workers=0", f"run.dir={disk}/run", "optim.batch_size=8", "optim.epochs=2", "optim.warmup_epochs=0",
        "run.checkpoint_every=1", "run.device=cpu", kept=kept,
    )  # fmt: skip
    check_told(
        result, "No space left on device", f"{disk}/run/checkpoints/", "free some space",
        f"go on with: corrnet resume {disk}/run",
    )  # fmt: skip
    assert Checkpoint.load(kept / "run/checkpoints/last.pt").step >= 1
    assert not list(kept.rglob("*.tmp"))


def test_packing_names_the_shard_that_found_no_room(motionbench, tmp_path):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    command = ("pack", "folder", motionbench[0] / "videos", disk, "--copy", "--shard-size", "8")
    check_told(
        corrnet(disk, "100k", *command, "--num-workers", "1", kept=kept),
        "No space left on device", f"{disk}/t", "free some space",
    )  # fmt: skip
    assert not list(kept.rglob("*.tmp"))


@pytest.mark.parametrize("name", ["features", "train"])
def test_a_full_dev_shm_is_told_with_what_helps(name, motionbench, model_folder, tmp_path):
    options = ("--split", "train", "--num-clips", "10", "--num-workers", "2", "--device", "cpu")
    command = {
        "features": (
            "features", model_folder, "--shards", motionbench[1], *options, "-o", tmp_path / "f.npz"
        ),
        "train": (
            "train", "motionbench", f"data.shards={motionbench[1]}", f"run.dir={tmp_path / 'run'}",
            "data.num_workers=2", "model.name=r2d_tiny", "optim.batch_size=32",
        ),
    }[name]  # fmt: skip
    check_told(
        corrnet("/dev/shm", "300k", *command),
        "shared memory (/dev/shm) is full",
        "fewer decoding processes",
        "--shm-size",
        *(["The run is saved after step 0"] if name == "train" else []),
    )
