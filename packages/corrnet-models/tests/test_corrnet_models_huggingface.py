"""A saved model in the auto classes of transformers."""

import ast
import json

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from corrnet_models import PretrainedCfg, create_model, load_pretrained, save_pretrained
from corrnet_models._pretrained import CODE, CONFIG, PROCESSOR

CFG = PretrainedCfg(
    input_size=(3, 32, 32), frame_stride=2, short_side=40, mean=(0.4, 0.5, 0.6), std=(0.2,) * 3
)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = create_model("corrnet_tiny", num_frames=8, num_classes=3).eval()
    torch.nn.init.normal_(model.fc.weight)
    save_pretrained(model, tmp_path / "model", classes=["a", "b", "c"], pretrained_cfg=CFG)
    return model, tmp_path / "model"


@pytest.fixture
def transformers(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    for module in ("dynamic_module_utils", "utils.hub"):  # where code of folders is kept
        monkeypatch.setattr(f"transformers.{module}.HF_MODULES_CACHE", str(tmp_path / "cache"), raising=False)
    return transformers


@pytest.mark.slow
def test_transformers_loads_the_model(saved, transformers, tmp_path):
    model, folder = saved
    loaded = transformers.AutoModelForVideoClassification.from_pretrained(folder, trust_remote_code=True)
    assert loaded.config.id2label == {0: "a", 1: "b", 2: "c"} and loaded.config.num_labels == 3
    clips = torch.randn(2, 8, 3, 32, 32)
    labels = torch.tensor([0, 2])
    output = loaded(pixel_values=clips, labels=labels)
    expected = model(clips.transpose(1, 2))
    assert torch.equal(output.logits, expected) and not loaded.training
    assert torch.equal(output.loss, cross_entropy(expected, labels))

    loaded.save_pretrained(tmp_path / "again")
    again = transformers.AutoModelForVideoClassification.from_pretrained(
        tmp_path / "again", trust_remote_code=True
    )
    assert torch.equal(again(pixel_values=clips).logits, expected)
    assert torch.equal(load_pretrained(folder).model(clips.transpose(1, 2)), expected)


@pytest.mark.slow
def test_its_processor_makes_clips_of_the_middle_of_videos(saved, transformers):
    processor = transformers.AutoImageProcessor.from_pretrained(saved[1], trust_remote_code=True)
    video = np.zeros((25, 40, 60, 3), np.uint8)
    video[:] = np.arange(25)[:, None, None, None]
    video[:, 4:36, 14:46, 1] += 100  # what is left by the crop
    video[:, :, 13] = video[:, 3] = 255
    clips = processor(video)["pixel_values"]
    assert clips.shape == (1, 8, 3, 32, 32) and clips.dtype == torch.float32
    frames = torch.arange(5, 20, 2).float()  # 15 of 25 frames
    for channel, (mean, more) in enumerate(zip((0.4, 0.5, 0.6), (0, 100, 0), strict=True)):
        expected = ((frames + more) / 255 - mean) / 0.2
        torch.testing.assert_close(
            clips[0, :, channel], expected[:, None, None].expand(8, 32, 32), atol=1e-5, rtol=0
        )
    several = processor([list(video), np.full((3, 80, 100, 3), 51, np.uint8)], return_tensors="np")
    assert np.array_equal(several["pixel_values"][0], clips[0].numpy())
    assert several["pixel_values"][1, :, 0] == pytest.approx(
        (0.2 - 0.4) / 0.2, abs=1e-5
    )  # the last frame repeated


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_frames", "rate", "places"),
    [
        (100, 50.0, [14, 24, 34, 44, 54, 64, 74, 84]),
        (20, 10.0, [2, 4, 6, 8, 10, 12, 14, 16]),
        (10, 7.5, [0, 1, 3, 4, 6, 7, 9, 9]),  # the last frame is held
    ],
)
def test_its_processor_takes_frames_by_time(num_frames, rate, places, saved, transformers):
    model, folder = saved
    save_pretrained(model, folder, pretrained_cfg=CFG.model_copy(update={"frame_stride": 1, "fps": 5.0}))
    processor = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    video = (
        np.zeros((num_frames, 40, 40, 3), np.uint8)
        + np.arange(num_frames, dtype=np.uint8)[:, None, None, None]
    )
    shown = processor(video, video_fps=rate)["pixel_values"][0, :, 0, 0, 0]
    assert ((shown * 0.2 + 0.4) * 255).round().int().tolist() == places
    with pytest.raises(ValueError, match="clips show 5 frames a second: give the rate of the videos"):
        processor(video)


def test_the_folder_has_a_processor_where_it_is_known_how_clips_are_made(saved):
    """And code that does nothing but import this package."""
    model, folder = saved
    config = json.loads((folder / CONFIG).read_text())
    processor = json.loads((folder / PROCESSOR).read_text())
    assert (processor["num_frames"], processor["crop_size"], processor["short_side"]) == (8, 32, 40)
    assert processor["auto_map"].items() <= config["auto_map"].items()
    words, imported, names = ast.parse((folder / CODE).read_text()).body
    assert isinstance(words, ast.Expr) and isinstance(words.value, ast.Constant)
    assert isinstance(imported, ast.ImportFrom) and imported.module == "corrnet_models.huggingface"
    assert (
        ast.unparse(names)
        == "__all__ = ['CorrNetConfig', 'CorrNetForVideoClassification', 'CorrNetProcessor']"
    )
    save_pretrained(model, folder, pretrained_cfg=PretrainedCfg())
    config = json.loads((folder / CONFIG).read_text())
    assert not (folder / PROCESSOR).exists() and "AutoImageProcessor" not in config["auto_map"]
    assert "id2label" not in config
