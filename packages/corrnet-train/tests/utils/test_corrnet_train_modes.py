"""Who may read what the commands write is for the umask to say, as of all files, also where a library writes them."""

import os
import stat

import pytest
from typer.testing import CliRunner

from corrnet_models import create_model, save_pretrained
from corrnet_train.cli import app
from video_data import ClipConfig, open_shards


def corrnet(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


@pytest.fixture
def umask():
    """Let the group read and nobody else: a library that chooses 644 or 600 itself is seen too."""
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.slow
def test_the_umask_says_who_may_read_what_commands_write(motionbench, tmp_path, umask):
    shards, run, video = tmp_path / "shards", tmp_path / "run", next(motionbench[0].rglob("*.mp4"))
    corrnet("pack", "csv", motionbench[0] / "motionbench.csv", shards, "--copy", "--num-workers", 0)
    corrnet("inspect", shards, "--sheet", tmp_path / "sheet.html", "--num-workers", 0)
    corrnet(
        "train", "motionbench", f"data.shards={shards}", f"run.dir={run}", "data.num_workers=0", "run.device=cpu",
        "model.options.corr_kernel_size=3", "data.clip.num_frames=4", "data.clip.crop_size=16",
        "optim.batch_size=8", "optim.epochs=0.25", "eval.num_clips=1",
    )  # fmt: skip
    corrnet("eval", run, shards, "--num-clips", 1, "--num-workers", 0, "--output", tmp_path / "eval")
    corrnet("predict", run, video, "--json", tmp_path / "predicted.json")
    corrnet("predict", run, video, "--hop", 4, "--annotate", tmp_path / "annotated.mp4")
    for name in ("features.npz", "clips.safetensors"):
        corrnet("features", run, video, "-o", tmp_path / name)
    corrnet("visualize", "filters", run, "-o", tmp_path / "filters.html")
    for name in ("motion.mp4", "motion.png"):
        corrnet("visualize", "motion", run, video, "-o", tmp_path / name)
    corrnet("export", run, tmp_path / "hub")
    small = create_model("r2d_tiny", num_frames=4, num_classes=8)  # a correlation takes long to export
    metadata = {"clip": ClipConfig(num_frames=4, crop_size=16).model_dump(mode="json")}
    save_pretrained(small, tmp_path / "small", classes=open_shards(shards).classes, metadata=metadata)
    corrnet("export", tmp_path / "small", tmp_path / "program.pt2")
    paths = [path for path in tmp_path.rglob("*") if not path.is_symlink()]
    wrong = {
        str(path.relative_to(tmp_path)): oct(mode)
        for path in paths
        if (mode := stat.S_IMODE(path.stat().st_mode)) != (0o750 if path.is_dir() else 0o640)
    }
    assert wrong == {} and len(paths) > 30
