"""Input that once ended in a traceback, or that success was reported of as a bug."""

import pytest
import torch
from typer.testing import CliRunner

from corrnet_train import InputError, export_model, extract_features
from corrnet_train.checkpoint.state import Checkpoint, CheckpointError
from corrnet_train.cli import app
from corrnet_train.cli.common import escape
from corrnet_train.inference.classifier import VideoClassifier

runner = CliRunner()


@pytest.mark.parametrize("name", ["no\\[/b]", "x[/b]y", "[bold", "ends\\"])
def test_names_that_look_like_markup_are_printed_as_they_are(name):
    done = runner.invoke(app, ["inspect", name])
    assert done.exit_code == 2
    assert done.output.startswith("error: ")
    assert name.rstrip("\\") in done.output.replace("\n", "")


def test_escaped_text_comes_out_as_it_went_in():
    from rich.text import Text

    for text in ("a[/b]c", "a\\[/b]", "[red]", "plain"):
        assert Text.from_markup(escape(text)).plain == text
    steering = Text.from_markup(escape("a\x1b[2Jb\r\x07\x9b1mc\td\n")).plain
    assert steering == r"a\x1b[2Jb\x0d\x07\x9b1mc" + "\td\n"


@pytest.mark.parametrize("override", ["optim.lr=2026-13-26", "optim.lr=!!float x", "optim.lr=" + "[" * 5000])
def test_values_that_yaml_cannot_make_are_bad_input(override):
    done = runner.invoke(app, ["train", "motionbench", override])
    assert done.exit_code == 2
    assert "is not valid YAML" in done.output.replace("\n", " ")


@pytest.mark.parametrize("device", ["mps", "meta", "tpu"])
def test_devices_that_nobody_trains_on_are_bad_input(device):
    done = runner.invoke(app, ["doctor", "--device", device, "--timeout", "30"])
    assert "give auto, cpu, cuda or cuda:N" in " ".join(done.output.split())
    assert "Traceback" not in done.output


@pytest.mark.parametrize("seconds", ["inf", "nan"])
def test_a_check_without_an_end_is_bad_input(seconds):
    done = runner.invoke(app, ["doctor", "--timeout", seconds])
    assert done.exit_code == 2
    assert "--timeout" in done.output and "Traceback" not in done.output


@pytest.mark.parametrize("name", ["model", "ema", "config"])
def test_a_checkpoint_whose_parts_are_no_mappings_is_named(name, tmp_path):
    saved = Checkpoint(1, {}, ("a",), {}, {}, {}, [], 0.0, 0.0)._content() | {name: 7}
    torch.save(saved, tmp_path / "last.pt")
    with pytest.raises(
        CheckpointError, match=rf"last.pt is not a whole checkpoint: {name} must be a mapping"
    ):
        Checkpoint.load(tmp_path / "last.pt")


def test_a_file_that_is_no_checkpoint_is_told_without_advice_to_run_it(tmp_path):
    (tmp_path / "video.mp4").write_bytes(b"\x80\x04" + b"no pickle of tensors" * 9)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.load(tmp_path / "video.mp4")
    assert "weights_only" not in str(caught.value)


def test_no_videos_and_an_unknown_format_are_bad_input(model_folder, tmp_path):
    classifier = VideoClassifier.from_checkpoint(model_folder, device="cpu")
    with pytest.raises(InputError, match="there is no video"):
        extract_features(classifier, [], tmp_path / "features.npz")
    with pytest.raises(InputError, match="format must be hub, torch, onnx; got 'x'"):
        export_model(classifier, tmp_path / "model.x", format="x")


@pytest.mark.slow
def test_folders_whose_names_look_like_markup_are_packed_into_and_trained_in(motionbench, tmp_path):
    packed, run = tmp_path / "[/b]shards", tmp_path / "run[bold]"
    done = runner.invoke(app, ["pack", "csv", str(motionbench[0] / "motionbench.csv"), str(packed)])
    assert done.exit_code == 0, done.output
    assert "[/b]shards" in done.output
    options = ["model.name=r2plus1d_tiny", "optim.epochs=0.1", "optim.warmup_epochs=0", "optim.batch_size=8"]
    done = runner.invoke(
        app, ["train", "motionbench", f"data.shards={packed}", f"run.dir={run}", "run.device=cpu", *options]
    )
    assert done.exit_code == 0, done.output
    assert "run[bold]/checkpoints/last.pt" in done.output
