"""Commands on a disk or with a /dev/shm that is full, each in a mount namespace of its own."""

import shutil
import subprocess
from pathlib import Path

import pytest

from corrnet_train.checkpoint.state import Checkpoint

NAMESPACE = Path(__file__).with_name("commands") / "namespace.py"


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


@pytest.fixture
def corrnet(forks):
    """Calls a command with a file system of `size` mounted at a folder; what is in it is copied to `kept`."""

    def call(folder, size, *command, kept=""):
        done = forks(folder, size, kept, *command, script=NAMESPACE)
        done.wait(timeout=300)
        return done

    return call


def check_told(done, *texts):
    last = done.errors.rstrip().splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.errors, done.errors
    assert all(text in last for text in ("error: ", *texts)), done.errors


def test_the_last_checkpoint_stays_when_the_disk_is_full(corrnet, motionbench, tmp_path):
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


def test_packing_names_the_shard_that_found_no_room(corrnet, motionbench, tmp_path):
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
def test_a_full_dev_shm_is_told_with_what_helps(name, corrnet, motionbench, model_folder, tmp_path):
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
