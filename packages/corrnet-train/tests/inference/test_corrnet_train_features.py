"""Features come from the pipeline that evaluates, predicts and watches streams; a stopped run goes on."""

import csv
import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from corrnet_train.cli import app
from corrnet_train.evaluation.evaluate import evaluate
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.inference.features import PackedSplit, extract_features
from corrnet_train.inference.inputs import VideoInput, find_videos
from corrnet_train.inference.stream import classify_stream
from corrnet_train.utils.errors import WorkError
from video_data import open_shards


class Killed(BaseException):
    pass


def corrnet(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def rows_of(path):
    return list(csv.DictReader(path.with_suffix(".csv").open()))


@pytest.fixture(scope="module")
def classifier(model_folder):
    return VideoClassifier.from_checkpoint(model_folder, device="cpu")


@pytest.fixture
def videos(motionbench, tmp_path):
    """A folder with two videos, one that is broken, and a folder of frames."""
    found = sorted((motionbench[0] / "videos" / "test").rglob("*.mp4"))[:2]
    folder = tmp_path / "videos"
    (folder / "d frames").mkdir(parents=True)
    for name, video in zip(("a.mp4", "c.mp4"), found, strict=True):
        shutil.copy(video, folder / name)
    (folder / "b.mp4").write_bytes(b"no video")
    pixels = np.random.default_rng(0).integers(0, 255, (10, 48, 48, 3), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / "d frames" / f"{number:03d}.png")
    return folder


def test_evaluation_prediction_features_and_windows_agree(classifier, motionbench, tmp_path):
    shards = open_shards(motionbench[1])
    evaluated = {p.key: p for p in evaluate(classifier, shards, "test", num_clips=5).predictions}
    packed = extract_features(
        classifier, PackedSplit(shards, "test"), tmp_path / "p.npz", num_clips=5, per_clip=True
    )
    features = torch.from_numpy(np.load(tmp_path / "p.npz")["features"])
    assert features.shape == (80, 512) and packed.num_rows == 80
    index = rows_of(packed.path)
    with torch.no_grad():
        probabilities = classifier.model.fc(features).softmax(dim=1)
    assert probabilities.std(dim=0).min() > 0.01  # clips are told from each other
    for first in range(0, 80, 5):
        lines = index[first : first + 5]
        assert [line["clip"] for line in lines] == list("01234") and len({line["key"] for line in lines}) == 1
        expected = evaluated[lines[0]["key"]]
        mean = probabilities[first : first + 5].mean(dim=0)
        torch.testing.assert_close(mean, torch.tensor(expected.probabilities), rtol=1e-5, atol=1e-6)
        assert lines[0]["class"] == shards.classes[expected.label] and lines[0]["video"] == expected.source

    # The same video as a file: features, prediction, and the windows that five clips of 12 frames are.
    path = motionbench[0] / index[35]["video"]
    of_file = extract_features(
        classifier, [VideoInput(str(path))], tmp_path / "f.npz", num_clips=5, per_clip=True
    )
    torch.testing.assert_close(torch.from_numpy(np.load(of_file.path)["features"]), features[35:40])
    prediction = classifier.predict(path, num_clips=5)
    by_class = dict(zip(prediction.classes, prediction.scores, strict=True))
    assert [by_class[name] for name in shards.classes] == pytest.approx(
        probabilities[35:40].mean(dim=0).tolist(), abs=1e-6
    )
    for row, window in enumerate(classify_stream(classifier, str(path), hop=1)):
        seen = dict(zip(window.prediction.classes, window.prediction.scores, strict=True))
        assert [seen[name] for name in shards.classes] == pytest.approx(
            probabilities[35 + row].tolist(), abs=1e-6
        )
        assert window.frame - 7 == int(index[35 + row]["frame"])
        assert window.seconds - float(index[35 + row]["seconds"]) == pytest.approx(7 / 12)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_and_folders_of_frames_get_rows_and_what_cannot_be_read_is_named(
    num_workers, classifier, model_folder, videos, tmp_path
):
    out = tmp_path / "out" / "f.safetensors"
    command = ("features", model_folder, videos, "-o", out, "--num-clips", 2)
    output = corrnet(*command, "--num-workers", num_workers, code=3)
    assert (
        "3 x 512: " in output
        and "b.mp4: no video in a known container" in output
        and "1 of 4 videos cannot be read" in output
    )
    index = rows_of(out)
    assert [(line["row"], line["video"].removeprefix(f"{videos}/")) for line in index] == [
        ("0", "a.mp4"), ("", "b.mp4"), ("1", "c.mp4"), ("2", "d frames")
    ]  # fmt: skip
    assert [bool(line["error"]) for line in index] == [False, True, False, False]
    features = load_file(out)["features"]
    single = extract_features(
        classifier, find_videos([str(videos / "c.mp4")]), tmp_path / "c.npz", num_clips=2, per_clip=True
    )
    torch.testing.assert_close(features[1], torch.from_numpy(np.load(single.path)["features"]).mean(dim=0))
    assert sorted(path.name for path in out.parent.iterdir()) == ["f.csv", "f.safetensors"]
    assert f"{out} exists; --overwrite replaces it" in corrnet(*command, code=2)
    corrnet(*command, "--overwrite", "--num-workers", 0, code=3)


def test_any_file_name_can_be_in_the_index_and_a_run_killed_while_it_ends_goes_on(
    classifier, videos, tmp_path, monkeypatch
):
    odd = tmp_path / "odd"
    odd.mkdir()
    shutil.copy(videos / "a.mp4", os.fsencode(odd) + b"/\xff.mp4")  # no UTF-8
    shutil.copy(videos / "c.mp4", odd / 'new\nline, "quoted".mp4')
    found = find_videos([str(odd)])
    with monkeypatch.context() as patch:
        patch.setattr(
            "corrnet_train.inference.feature_file.FeatureFile._write",
            lambda self, rows: (_ for _ in ()).throw(Killed),
        )
        with pytest.raises(Killed):
            extract_features(classifier, found, tmp_path / "f.npz", num_clips=1, num_workers=1)
    assert not (tmp_path / "f.npz").exists()
    result = extract_features(classifier, found, tmp_path / "f.npz", num_clips=1, num_workers=1)
    assert result.num_rows == 2
    names = [line["video"].removeprefix(f"{odd}/") for line in rows_of(tmp_path / "f.npz")]
    assert names == ['new\nline, "quoted".mp4', "\\udcff.mp4"]


def test_a_layer_is_averaged_over_time_and_space(classifier, videos, tmp_path):
    video = find_videos([str(videos / "a.mp4")])
    result = extract_features(classifier, video, tmp_path / "f.npz", num_clips=1, stage="res3")
    seen = []
    hook = classifier.model.backbone.res3.register_forward_hook(lambda module, inputs, out: seen.append(out))
    classifier.predict(videos / "a.mp4", num_clips=1)
    hook.remove()
    assert result.num_features == 128
    torch.testing.assert_close(
        torch.from_numpy(np.load(result.path)["features"]), seen[0].mean(dim=(2, 3, 4))
    )
    with pytest.raises(ValueError, match="stage must be one of res2, res3, res4, res5, got 'res6'"):
        extract_features(classifier, video, tmp_path / "g.npz", stage="res6")


def test_a_stopped_run_goes_on_to_the_same_file(classifier, motionbench, tmp_path):
    split = PackedSplit(open_shards(motionbench[1]), "test")
    options = {"num_clips": 2, "per_clip": True}
    whole = extract_features(classifier, split, tmp_path / "whole.npz", **options)
    path, part = tmp_path / "f.npz", tmp_path / "f.npz.part"
    done = []

    def stop_after(number):
        def on_video(num_done, record):
            done.append((num_done, record is None))
            if num_done == number and record is not None:
                raise Killed

        return on_video

    for number in (3, 9):
        with pytest.raises(Killed):
            extract_features(classifier, split, path, **options, on_video=stop_after(number))
        # A kill in the middle of writing leaves a row, or a line, of which a part is missing.
        with part.open("ab") as file:
            file.write(b"half a row")
        with part.with_name("f.npz.part.jsonl").open("a") as file:
            file.write('{"video": "half a li')
    part.write_bytes(part.read_bytes()[: 8 * 2 * 512 * 4 - 1])  # one byte of the last row of video 8 is lost
    assert not path.exists()
    with pytest.raises(
        ValueError, match=r"f.npz.part was begun with stage res5, now it is res4; go on with the same"
    ):
        extract_features(classifier, split, path, **options, stage="res4")
    records = part.with_name("f.npz.part.jsonl")
    content = records.read_bytes()
    records.write_bytes(content.replace(b"test-0000", b"test-9000", 1))
    with pytest.raises(ValueError, match=r"line 2 of .*f.npz.part.jsonl is damaged .*: remove the file"):
        extract_features(classifier, split, path, **options)
    records.write_bytes(content)
    with pytest.raises(Killed):
        extract_features(classifier, split, path, **options, on_video=stop_after(8))
    rows = bytearray(part.read_bytes())
    rows[5 * 2 * 512 * 4 :] = bytes(len(rows) - 5 * 2 * 512 * 4)  # as a machine that lost power may leave it
    part.write_bytes(rows)
    result = extract_features(classifier, split, path, **options, on_video=stop_after(99))
    assert [number for number, is_start in done if is_start] == [0, 3, 7, 5]
    assert result.num_rows == whole.num_rows == 32
    assert np.array_equal(np.load(path)["features"], np.load(whole.path)["features"])
    assert result.index_path.read_text() == whole.index_path.read_text()
    metadata = json.loads(str(np.load(path)["metadata"]))
    assert metadata["manifest"] == split.shards.manifest_hash and metadata["stage"] == "res5"
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.slow
def test_killed_processes_go_on_and_ctrl_c_says_so(classifier, model_folder, motionbench, forks, tmp_path):
    path = tmp_path / "f.npz"
    options = ["--num-workers", "1", "--num-clips", "4", "--per-clip"]
    inputs = ["--shards", str(motionbench[1]), "--split", "train", "-o", str(path)]
    command = ["features", model_folder, *inputs, *options]
    for number in (signal.SIGKILL, signal.SIGINT):
        process = forks(*command)
        records = tmp_path / "f.npz.part.jsonl"
        before = len(records.read_text().splitlines()) if records.exists() else 0
        while process.poll() is None and (
            not records.exists() or len(records.read_text().splitlines()) <= before + 2
        ):
            time.sleep(0.01)
        os.kill(process.pid, number)
        assert process.wait(60) == {signal.SIGKILL: -9, signal.SIGINT: 130}[number], process.errors
    assert "the same command goes on where it was" in process.errors and not path.exists()
    output = corrnet(*command)
    assert "of 32 videos are there already" in output and "128 x 512" in output
    whole = extract_features(classifier, PackedSplit(open_shards(motionbench[1]), "train"), tmp_path / "whole.npz",
                             num_clips=4, per_clip=True)  # fmt: skip
    np.testing.assert_allclose(
        np.load(path)["features"], np.load(whole.path)["features"], rtol=1e-4, atol=1e-5
    )


def test_bad_input_stops_before_any_work(classifier, model_folder, motionbench, videos, tmp_path):
    shards = ("--shards", motionbench[1])
    command, options = ("features", model_folder), ("-o", tmp_path / "f.npz")
    assert "give videos, or --shards FOLDER" in corrnet(*command, *options, code=2)
    assert "give videos, or --shards FOLDER" in corrnet(*command, videos, *shards, *options, code=2)
    assert "no split 'dev'" in corrnet(*command, *shards, "--split", "dev", *options, code=2)
    assert "ends with .npz or .safetensors" in corrnet(*command, videos, "-o", tmp_path / "f.txt", code=2)
    assert "none of 1 videos can be read" in corrnet(*command, videos / "b.mp4", *options, code=1)
    from corrnet_train.inference.feature_file import FeatureFile

    held = FeatureFile(tmp_path / "f.npz", {}, num_features=512, per_clip=False)
    assert f"another process writes {tmp_path / 'f.npz'}, process {os.getpid()} on" in corrnet(
        *command, videos / "a.mp4", *options, code=2
    )
    held.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npz.part", "f.npz.part.jsonl", "videos"]


def test_features_have_an_owner_until_they_are_written(tmp_path, monkeypatch):
    from corrnet_train.inference.feature_file import FeatureFile, VideoRecord

    path = tmp_path / "f.npz"
    file = FeatureFile(path, {}, num_features=2, per_clip=False)
    file.add(VideoRecord("a.mp4", "", "", [(0, 0.0)], ""), np.ones((1, 2), dtype=np.float32))
    write = file._write

    def write_beside_another(rows):
        with pytest.raises(ValueError, match="another process writes"):
            FeatureFile(path, {}, num_features=2, per_clip=False)
        write(rows)

    monkeypatch.setattr(file, "_write", write_beside_another)
    assert file.finish() == (1, [])
    assert sorted(item.name for item in tmp_path.iterdir()) == ["f.csv", "f.npz"]


def test_features_that_another_machine_has_taken_over_are_not_written_on(tmp_path):
    from corrnet_train.inference.feature_file import FeatureFile, VideoRecord

    file = FeatureFile(tmp_path / "f.npz", {}, num_features=2, per_clip=False)
    (tmp_path / ".f.npz.owner").write_text("{}")
    with pytest.raises(WorkError, match="it took over"):
        file.add(VideoRecord("a.mp4", "", "", [(0, 0.0)], ""), np.ones((1, 2), dtype=np.float32))
    file.close()
    assert (tmp_path / "f.npz.part").stat().st_size == 0
