"""Exported models compute what the trained model computes, without these packages."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from corrnet_models import create_model
from corrnet_train.cli import app
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.inference.export import ExportError, export_model, model_card
from corrnet_train.training.trainer import Trainer
from video_data import ClipConfig

runner = CliRunner()


@pytest.fixture(scope="module")
def trained(motionbench, tmp_path_factory):
    from corrnet_train.config.load import load_config

    folder = tmp_path_factory.mktemp("export") / "run"
    overrides = [f"data.shards={motionbench[1]}", f"run.dir={folder}", "data.num_workers=0", "run.device=cpu"]
    overrides += ["data.clip.num_frames=4", "eval.num_clips=2", "data.clip.crop_size=16"]
    # One correlation block suffices, and becomes a program in a fraction of the time of three.
    overrides += ["model.options={corr_kernel_size: 3, corr_after: [res2]}"]
    config = load_config("motionbench", [*overrides, "optim.epochs=0.5"])
    Trainer(config).run()
    return folder


@pytest.fixture(scope="module")
def classifier(trained):
    return VideoClassifier.from_checkpoint(trained / "checkpoints" / "last.pt", device="cpu")


@pytest.fixture(scope="module")
def clips():
    shape = (5, 3, 4, 16, 16)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def plain(classifier):
    """A classifier without correlation, which becomes a program in a fraction of the time."""
    model = create_model("r2d_tiny", num_classes=8, num_frames=4)
    return VideoClassifier(
        model, classes=classifier.classes, clip=classifier.clip, device=torch.device("cpu")
    )


def export(trained, path):
    result = runner.invoke(app, ["export", str(trained), str(path)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_a_torch_program_needs_torch_alone(trained, classifier, clips, tmp_path):
    output = export(trained, tmp_path / "model.pt2")
    assert "largest difference of a probability to the model" in output
    assert "use it: torch.export.load('" in output and "FutureWarning" not in output
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        assert {name.partition("/")[0] for name in archive.namelist()} == {"archive"}  # no temporary name
    np.save(tmp_path / "clips.npy", clips.numpy())
    script = (
        "import sys, numpy, torch\n"
        "sys.modules.update(dict.fromkeys(('corr_ops', 'corrnet_models', 'corrnet_train', 'video_data')))\n"
        "program = torch.export.load('model.pt2').module()\n"
        "numpy.save('out.npy', program(torch.from_numpy(numpy.load('clips.npy'))).detach().numpy())\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    found = torch.from_numpy(np.load(tmp_path / "out.npy"))
    torch.testing.assert_close(found, classifier.clip_scores(clips), atol=1e-4, rtol=0)
    usage = json.loads((tmp_path / "model.pt2.json").read_text())
    assert usage["classes"] == list(classifier.classes)
    assert usage["input"]["shape"] == ["clips", 3, 4, 16, 16]
    assert "average the probabilities of 2 clips" in usage["video"]  # as many as the run evaluates with


@pytest.mark.slow
def test_the_examples_of_cards_run_without_a_network(trained, motionbench, tmp_path):
    """Of a model that takes frames as they are, and of one that takes 5 a second; one process runs both."""
    pytest.importorskip("transformers")
    shutil.copy(next(motionbench[0].rglob("*.mp4")), tmp_path / "video.mp4")
    predictions = []
    for fps, name in ((None, "every-frame"), (5.0, "five-a-second")):
        classifier = VideoClassifier.from_checkpoint(trained, device="cpu")
        classifier.clip = classifier.clip.model_copy(update={"fps": fps})
        export_model(classifier, tmp_path / name, format="hub")
        card = (tmp_path / name / "README.md").read_text()
        example = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
        (tmp_path / f"{name}.py").write_text(example)
        predictions.append(classifier.predict(tmp_path / "video.mp4", num_clips=1))
    script = "import runpy; [runpy.run_path(f'{name}.py') for name in ('every-frame', 'five-a-second')]"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    for line, found in zip(result.stdout.splitlines()[-2:], predictions, strict=True):
        label, share = line.rsplit(" ", 1)
        expected = dict(zip(found.classes, found.scores, strict=True))[label]
        # Pictures are resized otherwise.
        assert float(share.rstrip("%")) / 100 == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
def test_the_card_tells_how_clips_are_made_and_what_was_measured(trained, classifier, motionbench, tmp_path):
    export(trained, tmp_path / "before")
    card = (tmp_path / "before" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: corrnet-models\npipeline_tag: video-classification\n")
    assert "license" not in card and "Not measured." in card and "down-left" in card
    assert "| clips | 4 frames, stride 1 |" in card and "(pixel / 255 - 0.45) / 0.225" in card
    cfg = json.loads((tmp_path / "before" / "config.json").read_text())["pretrained_cfg"]
    assert (cfg["input_size"], cfg["num_frames"], cfg["mean"]) == ([3, 16, 16], 4, [0.45] * 3)

    run = tmp_path / "run"
    shutil.copytree(trained, run)
    arguments = ["eval", str(run), str(motionbench[1]), "--num-workers", "0", "--output", str(run / "report")]
    assert runner.invoke(app, arguments).exit_code == 0
    export(run, tmp_path / "after")
    result = json.loads((run / "report" / "result.json").read_text())
    card = (tmp_path / "after" / "README.md").read_text()
    assert (
        f"Top-1 {result['video_top1']:.1%} (one guess for all: 12.5%), mean over" in card
        and "8 videos of the split val of motionbench (" in card
    )
    mark = result["fingerprint"]
    assert f"The fingerprint of these packed videos, their manifest's, is `{mark['manifest']}`." in card
    assert f"| fingerprint of the weights | `{mark['weights']}`, which `corrnet eval` prints" in card
    result["fingerprint"]["weights"] = "others"
    assert "Not measured." in model_card(classifier, "my-model", result)


def test_the_card_installs_from_a_clone_what_no_index_has(classifier):
    root = Path(__file__).parents[4]
    installed = re.findall(r"pip install (.*)", model_card(classifier, "my-model"))
    folders = [[word for word in line.split() if "/" in word] for line in installed]
    assert list(map(len, folders)) == [2, 4]
    for word in (word for line in installed for word in line.split()):
        assert word in ("av", "transformers") or (root / word / "pyproject.toml").is_file(), word


@pytest.mark.slow
def test_an_onnx_graph_gives_the_same_probabilities(trained, classifier, clips, tmp_path, caplog):
    """Of a model of one clip, as its usage says."""
    onnxruntime = pytest.importorskip("onnxruntime")
    of_one = VideoClassifier.from_checkpoint(trained, device="cpu")
    of_one.num_clips = 1
    export_model(of_one, tmp_path / "model.onnx", format="onnx")
    assert "torchvision" not in caplog.text
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"clips": clips.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), classifier.clip_scores(clips), atol=1e-4, rtol=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.json"]
    assert "one clip from the middle" in json.loads((tmp_path / "model.onnx.json").read_text())["video"]


def test_a_folder_is_a_checkpoint_for_the_other_commands(trained, classifier, clips, motionbench, tmp_path):
    export(trained, tmp_path / "model")
    loaded = VideoClassifier.from_checkpoint(tmp_path / "model", device="cpu")
    assert (loaded.classes, loaded.clip) == (classifier.classes, classifier.clip)
    assert torch.equal(loaded.clip_scores(clips), classifier.clip_scores(clips))
    command = ["eval", str(tmp_path / "model"), str(motionbench[1]), "--split", "test", "--num-clips", "1"]
    result = runner.invoke(app, [*command, "--num-workers", "0"])
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"metadata": {}}))
    with pytest.raises(ValueError, match="without the recipe of its clips"):
        VideoClassifier.from_checkpoint(tmp_path / "model", device="cpu")


@pytest.mark.slow
def test_a_program_that_differs_is_not_kept(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "corrnet_train.inference.export._load_torch", lambda file: lambda clips: torch.zeros(len(clips), 8)
    )
    with pytest.raises(ExportError, match="the exported program differs by"):
        export_model(plain, tmp_path / "model.pt2", format="torch")
    assert list(tmp_path.iterdir()) == []


def test_the_ending_must_be_that_of_the_format(classifier, tmp_path):
    with pytest.raises(ValueError, match=r"expected the ending .onnx"):
        export_model(classifier, tmp_path / "model.pt2", format="onnx")


@pytest.mark.parametrize("name", ["model.pt", "model.engine"])
def test_an_unknown_ending_is_not_taken_for_a_folder(tmp_path, name):
    result = runner.invoke(app, ["export", str(tmp_path), str(tmp_path / name)])
    assert result.exit_code == 2
    assert "has an unknown ending: .pt2 is a torch.export program" in " ".join(result.output.split())


@pytest.mark.slow
def test_the_readmes_program_says_what_predict_says(classifier, motionbench, tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (example,) = (
        code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "torch.export.load" in code
    )
    torch.manual_seed(0)
    model = create_model("r2d_tiny", num_classes=8, num_frames=4)
    torch.nn.init.normal_(model.fc.weight, std=0.5)  # so that classes differ
    clip = ClipConfig(num_frames=4, crop_size=28, fps=12.5)
    by_time = VideoClassifier(model, classes=classifier.classes, clip=clip, device=torch.device("cpu"))
    export_model(by_time, tmp_path / "my-model.pt2", format="torch")
    shutil.copy(next(motionbench[0].rglob("*.mp4")), tmp_path / "some.mp4")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    name, share = capsys.readouterr().out.split()
    predicted = by_time.predict("some.mp4", num_clips=10)
    assert name == predicted.classes[0]
    assert float(share.rstrip("%")) / 100 == pytest.approx(predicted.scores[0], abs=0.15)  # pixels of noise
