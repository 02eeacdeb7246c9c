import json
import resource
import subprocess
import sys

import pytest

from corrnet_train.utils.files import write_json
from video_data.utils.files import atomic_path


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"value": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == '{\n  "value": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_full_disk_leaves_no_checkpoint_under_its_name(tmp_path):
    """A limit on the size of files stands for the full disk: writing fails in the middle in the same way."""
    code = f"""
import pathlib, signal, torch
from corrnet_train.checkpoint.state import Checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
state = {{"weight": torch.zeros(1_000_000)}}
Checkpoint(step=1, config={{}}, classes=["a"], model=state, optimizer={{}}, loader={{}}, rng={{}},
           best_score=0.0, train_seconds=0.0).save(pathlib.Path({str(tmp_path)!r}) / "last.pt")
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert result.stderr.splitlines()[-1].startswith("OSError: "), result.stderr
    assert list(tmp_path.iterdir()) == [], result.stderr


def test_numbers_that_json_lacks_are_written_as_their_names(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"batches": [{"loss": float("nan")}], "norm": float("inf"), "lr": 0.1})
    assert json.loads(path.read_text()) == {"batches": [{"loss": "nan"}], "norm": "inf", "lr": 0.1}
