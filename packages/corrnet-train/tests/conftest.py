import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from corrnet_models import create_model, save_pretrained
from corrnet_train.config.load import load_config
from video_data import (
    ClipConfig,
    MotionBenchConfig,
    PackOptions,
    generate_motionbench,
    open_shards,
    pack_csv,
)


@pytest.fixture(scope="session")
def motionbench(tmp_path_factory):
    """MotionBench of a few videos, generated and packed: (folder of videos, folder of shards)."""
    folder = tmp_path_factory.mktemp("motionbench")
    config = MotionBenchConfig(num_train=32, num_val=8, num_test=16, num_frames=12)
    listing = generate_motionbench(folder / "videos", config, progress=False)
    pack_csv(listing, folder / "shards", options=PackOptions(mode="copy", shard_size=12), progress=False)
    return folder / "videos", folder / "shards"


@pytest.fixture(scope="session")
def configured(motionbench):
    """Builds the configuration of a run of a few steps on small clips in a folder; overrides come last."""

    def configure(folder, *overrides, model="r2plus1d_tiny"):
        return load_config(
            "motionbench",
            [
                f"model.name={model}",
                f"data.shards={motionbench[1]}",
                "data.clip.num_frames=4",
                "data.clip.crop_size=16",
                "data.num_workers=0",
                f"run.dir={folder}",
                "run.log_every=1",
                "run.device=cpu",
                "optim.batch_size=8",
                "optim.epochs=1.5",
                "eval.num_clips=2",
                *overrides,
            ],
        )

    return configure


@pytest.fixture
def make_config(configured, tmp_path):
    """Builds such a configuration for a folder of this test's own."""

    def make(*overrides, name="run", **more):
        return configured(tmp_path / name, *overrides, **more)

    return make


@pytest.fixture(scope="session")
def model_folder(motionbench, tmp_path_factory):
    """The folder of a CorrNet with random weights, whose classes are those of MotionBench."""
    torch.manual_seed(0)
    model = create_model("corrnet_tiny", num_frames=8, num_classes=8)
    folder = tmp_path_factory.mktemp("model") / "corrnet_tiny"
    metadata = {"clip": ClipConfig(num_frames=8, crop_size=32).model_dump(mode="json")}
    save_pretrained(model, folder, classes=open_shards(motionbench[1]).classes, metadata=metadata)
    return folder


class Forked:
    """A process that `forks` has started; its output is in files."""

    def __init__(self, ask, pid, streams):
        self.pid, self.returncode = pid, None
        self._ask, self._streams = ask, streams

    def poll(self):
        if self.returncode is None:
            self.returncode = self._ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout=150):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < deadline, self.errors
            time.sleep(0.02)
        return self.returncode

    def members(self):
        """Ids of the processes of its session that are not dead; one that waits to be collected is."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.pid and state != "Z":
                    found.append(int(path.name))
        return found

    @property
    def output(self):
        return self._streams[1].read_text()

    @property
    def errors(self):
        return self._streams[2].read_text()


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """Starts commands, or scripts, in processes that cost little: see processes/forks.py."""
    server = subprocess.Popen(
        [sys.executable, Path(__file__).parent / "processes" / "forks.py"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    folder, started = tmp_path_factory.mktemp("forks"), []

    def ask(request):
        server.stdin.write(json.dumps(request, default=str).encode() + b"\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    def start(*arguments, script=None, processes=0, restarts=0, cwd=folder, terminal=None, **environment):
        """`processes` under torch's agent, one without if 0; `terminal` takes the place of the files."""
        streams = [Path(os.devnull), *(folder / f"{len(started)}.{name}" for name in ("out", "err"))]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        variables = {name: value for name, value in variables.items() if value is not None}
        pid = ask({"start": {
            "streams": [terminal] * 3 if terminal else streams, "folder": cwd, "script": script,
            "environment": variables, "processes": processes,
            "restarts": restarts, "arguments": [str(argument) for argument in arguments],
        }})  # fmt: skip
        started.append(Forked(ask, pid, streams))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    server.stdin.close()
    server.wait()
