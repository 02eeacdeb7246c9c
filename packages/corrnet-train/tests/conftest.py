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


@pytest.fixture
def make_config(motionbench, tmp_path):
    """Builds the configuration of a run of a few steps on small clips; overrides come last."""

    def make(*overrides, name="run", model="r2plus1d_tiny"):
        return load_config(
            "motionbench",
            [
                f"model.name={model}",
                f"data.shards={motionbench[1]}",
                "data.clip.num_frames=4",
                "data.clip.crop_size=16",
                "data.num_workers=0",
                f"run.dir={tmp_path / name}",
                "run.log_every=1",
                "run.device=cpu",
                "optim.batch_size=8",
                "optim.epochs=1.5",
                "eval.num_clips=2",
                *overrides,
            ],
        )

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
