"""Files, folders, URLs and windows are classified by one pipeline."""

import functools
import http.server
import io
import json
import os
import shutil
import threading

import av
import pytest
import torch
from typer.testing import CliRunner

from corrnet_train.cli import app
from corrnet_train.evaluation.evaluate import evaluate
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.inference.features import extract_features
from corrnet_train.inference.inputs import VideoInput, find_videos
from corrnet_train.inference.stream import classify_stream
from corrnet_train.training.trainer import Trainer
from video_data import open_shards
from video_data.datasets.finder import Tally

runner = CliRunner()


def corrnet(*arguments, code=0):
    result = runner.invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(motionbench, tmp_path_factory):
    from corrnet_train.config.load import load_config

    folder = tmp_path_factory.mktemp("predict") / "run"
    overrides = [f"data.shards={motionbench[1]}", f"run.dir={folder}", "data.num_workers=0", "run.device=cpu"]
    Trainer(load_config("motionbench", [*overrides, "optim.epochs=0.5", "model.name=r2plus1d_tiny"])).run()
    return folder


@pytest.fixture(scope="module")
def classifier(trained):
    return VideoClassifier.from_checkpoint(trained / "checkpoints" / "last.pt", device="cpu")


@pytest.fixture
def folder(motionbench, tmp_path):
    for number, video in enumerate(sorted((motionbench[0] / "videos" / "test").rglob("*.mp4"))[:3]):
        (tmp_path / "videos" / f"sub {number}").mkdir(parents=True)
        shutil.copy(video, tmp_path / "videos" / f"sub {number}" / "v.mp4")
    (tmp_path / "videos" / "notes.txt").touch()
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    return tmp_path / "videos"


def test_evaluation_prediction_and_windows_agree(trained, classifier, motionbench):
    shards = open_shards(motionbench[1])
    evaluated = {
        p.source: p.probabilities for p in evaluate(classifier, shards, "test", num_clips=5).predictions
    }
    record = shards.sample("test", 3)
    path = motionbench[0] / record.source
    predicted = classifier.predict(path, num_clips=5)
    by_class = dict(zip(predicted.classes, predicted.scores, strict=True))
    assert [by_class[name] for name in shards.classes] == pytest.approx(evaluated[record.source], abs=1e-6)
    # 12 frames have 5 windows of 8 frames: those that 5 clips spaced uniformly are.
    windows = list(classify_stream(classifier, str(path), hop=1))
    assert [window.frame for window in windows] == [7, 8, 9, 10, 11]
    table = [dict(zip(w.prediction.classes, w.prediction.scores, strict=True)) for w in windows]
    mean = torch.tensor([[row[name] for name in shards.classes] for row in table]).mean(0)
    torch.testing.assert_close(mean, torch.tensor(evaluated[record.source]))


def test_flaws_of_a_video_behind_a_url_are_told_with_its_name(classifier, folder, caplog, monkeypatch):
    video = bytearray((folder / "sub 0" / "v.mp4").read_bytes())
    with av.open(io.BytesIO(video)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][-1]
    video[place : place + size] = bytes(size)
    monkeypatch.setattr("corrnet_train.inference.inputs.fetch_bytes", lambda *_, **__: bytes(video))
    url = "https://user:secret@host/v.mp4"
    classifier.predict(url, num_clips=1)
    extract_features(classifier, [url], folder / "features.npz", num_clips=1)
    messages = [record.getMessage() for record in caplog.records]
    assert [message.partition(": ")[0] for message in messages] == [VideoInput(url).shown] * 2
    assert all("frames are damaged" in message and "secret" not in message for message in messages)


def test_folders_and_urls_are_classified_and_written(trained, folder, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        output = corrnet(
            "predict", trained, folder, f"{url}/sub%200/v.mp4", f"{url}/none.mp4",
            "--json", tmp_path / "out.json", "--num-clips", 2, "--top", 2, code=3,
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert output.count("█") and output.count("%") >= 8
    records = {record["video"]: record for record in json.loads((tmp_path / "out.json").read_text())}
    assert set(records) == {
        *(str(folder / f"sub {n}" / "v.mp4") for n in range(3)),
        str(folder / "broken.mp4"),
        f"{url}/sub%200/v.mp4",
        f"{url}/none.mp4",
    }
    assert (
        records[f"{url}/sub%200/v.mp4"]["probabilities"]
        == records[str(folder / "sub 0" / "v.mp4")]["probabilities"]
    )
    assert len(records[f"{url}/sub%200/v.mp4"]["probabilities"]) == 8
    assert "no video in a known container" in records[str(folder / "broken.mp4")]["error"]
    assert "cannot be fetched" in records[f"{url}/none.mp4"]["error"]


@pytest.fixture
def make_pictures():
    """Writes the frames of a video into a folder and returns it."""

    def make(video, frames):
        frames.mkdir(parents=True)
        with av.open(str(video)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                frame.to_image().save(frames / f"{number}.png")
        return frames

    return make


def test_a_folder_of_frames_is_a_video(trained, folder, make_pictures, tmp_path):
    make_pictures(folder / "sub 0" / "v.mp4", tmp_path / "clips" / "jump")
    (tmp_path / "clips" / "cover.jpg").touch()  # one picture is no video
    assert [video.name for video in find_videos([str(tmp_path / "clips")])] == [
        str(tmp_path / "clips" / "jump")
    ]
    command = ("predict", trained, tmp_path / "clips", "--top", 8)
    corrnet(*command, "--json", tmp_path / "frames.json")
    corrnet("predict", trained, folder / "sub 0", "--json", tmp_path / "video.json")
    of_frames, of_video = (
        json.loads((tmp_path / name).read_text())[0] for name in ("frames.json", "video.json")
    )
    assert of_frames["probabilities"] == pytest.approx(of_video["probabilities"], abs=0.05)
    output = corrnet("predict", trained, tmp_path / "clips" / "jump", "--hop", 2, "--top", 1)
    assert output.count(" ms)") == 3


def test_frames_among_others_are_named_by_their_pattern(trained, folder, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    with av.open(str(folder / "sub 0" / "v.mp4")) as container:
        for number, frame in enumerate(container.decode(video=0)):
            frame.to_image().save(frames / f"img_{number}.png")
            frame.to_image().save(frames / f"other_{11 - number}.png")
    output = corrnet("predict", trained, frames, code=1)
    assert "several sequences of pictures: img_*.png (12), other_*.png (12); give the pattern" in output
    results = {}
    for name, video in (
        ("a", frames / "img_*.png"),
        ("b", frames / "other_*.png"),
        ("c", folder / "sub 0"),
    ):
        corrnet("predict", trained, video, "--top", 8, "--json", tmp_path / f"{name}.json")
        results[name] = json.loads((tmp_path / f"{name}.json").read_text())[0]["probabilities"]
    assert results["a"] == pytest.approx(results["c"], abs=0.05)
    assert results["b"] != results["a"]  # backwards
    assert " ms)" in corrnet("predict", trained, frames / "img_*.png", "--hop", 4, "--top", 1)
    with pytest.raises(ValueError, match="no file or folder"):
        find_videos([str(tmp_path / "none" / "img_*.png")])


def test_linked_folders_are_looked_into_once(folder):
    (folder / "up").symlink_to("..")
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "a.mp4").touch()
    (folder / "link").symlink_to("../elsewhere")
    found = [video.name for video in find_videos([str(folder / "sub 0"), str(folder)])]
    names = ["sub 0/v.mp4", "broken.mp4", "link/a.mp4", "sub 0/v.mp4", "sub 1/v.mp4", "sub 2/v.mp4"]
    assert found == [str(folder / name) for name in names]


def test_what_is_passed_over_in_folders_is_counted_by_reason(trained, folder, tmp_path):
    (folder / "gone").symlink_to("nowhere")
    (folder / "sub 1" / "cover.jpg").touch()
    (folder / "sub 2" / "more.txt").touch()
    (folder / ".hidden.mp4").touch()
    command = ("predict", trained, folder, "--num-clips", 1)
    output = corrnet(*command, code=3)
    assert "passed over:" in output
    for line in (
        f"hidden files and folders: 1, the first is {folder / '.hidden.mp4'}",
        f"links that lead nowhere: 1, the first is {folder / 'gone'}",
        f"files with the ending .txt: 2, the first is {folder / 'notes.txt'}",
        f"files with the ending .jpg: 1, the first is {folder / 'sub 1' / 'cover.jpg'}",
    ):
        assert line in output
    written = ("-o", tmp_path / "f.npz", "--num-workers", 0)
    of_features = corrnet("features", trained, folder, *written, "--num-clips", 1, code=3)
    assert "links that lead nowhere: 1, the first is" in of_features
    assert "passed over" not in corrnet("predict", trained, folder / "sub 0", "--num-clips", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.mp4").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"no videos in .*; links that lead nowhere: 1$"):
        find_videos([str(folder), str(tmp_path / "empty")])


def test_files_beside_frames_are_counted_and_the_frames_are_not(classifier, folder, make_pictures, tmp_path):
    frames = make_pictures(folder / "sub 0" / "v.mp4", tmp_path / "clips" / "jump")
    (frames / "notes.txt").touch()
    features = extract_features(classifier, tmp_path / "clips", tmp_path / "f.npz", num_clips=1)
    assert features.num_rows == 1
    assert [(entry.reason, entry.count) for entry in features.passed_over] == [
        ("files with the ending .txt", 1)
    ]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every folder")
def test_folders_that_cannot_be_read_are_counted_too(folder):
    (folder / "sub 1").chmod(0)
    try:
        tally = Tally()
        assert len(find_videos([str(folder)], tally)) == 3
        assert ("folders that cannot be read (Permission denied)", 1) in [
            (entry.reason, entry.count) for entry in tally.found()
        ]
        with pytest.raises(ValueError, match=r"no videos in .*; folders that cannot be read"):
            find_videos([str(folder / "sub 1")])
    finally:
        (folder / "sub 1").chmod(0o755)


def test_a_file_name_that_is_no_utf8_is_shown(trained, folder, tmp_path):
    video = folder / "sub 0" / "v.mp4"
    video.rename(video.with_name(os.fsdecode(b"\xff[b].mp4")))
    options = ("--num-clips", 1, "--json", tmp_path / "o.json")
    output = corrnet("predict", trained, folder / "sub 0", *options)
    assert "\\udcff[b].mp4" in output
    assert os.fsencode(json.loads((tmp_path / "o.json").read_text())[0]["video"]).endswith(b"\xff[b].mp4")


def test_names_that_mean_nothing_stop_before_the_first_video(trained, tmp_path):
    assert "no file or folder none.mp4" in corrnet("predict", trained, "none.mp4", code=2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no videos in .*empty; endings that count: 3gp"):
        find_videos([str(tmp_path / "empty")])
    assert "give --hop too" in corrnet("predict", trained, "a.mp4", "--annotate", "b.mp4", code=2)
    assert "--hop slides over one video, got 2" in corrnet("predict", trained, "a", "b", "--hop", 1, code=2)
    assert "--smoothing 0.5 is for" in corrnet("predict", trained, "a.mp4", "--smoothing", 0.5, code=2)
    assert "give one of them" in corrnet("predict", trained, "a.mp4", "--hop", 4, "--num-clips", 3, code=2)


def test_ctrl_c_before_the_first_window_is_an_end_like_any_other(trained, monkeypatch, tmp_path):
    def windows(*args, **kwargs):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("corrnet_train.inference.stream.classify_stream", windows)
    written = tmp_path / "windows.json"
    assert not corrnet("predict", trained, "camera:0", "--hop", 4, "--json", written, code=0).strip()
    assert json.loads(written.read_text()) == []


def test_a_sliding_window_is_shown_and_drawn(trained, folder, tmp_path):
    video = folder / "sub 1" / "v.mp4"
    command = ("predict", trained, video, "--hop", 2, "--top", 1)
    output = corrnet(*command, "--annotate", tmp_path / "out.mp4", "--json", tmp_path / "out.json")
    lines = output.strip().splitlines()
    assert len(lines) == 3 and all(" ms)" in line and "%" in line for line in lines)
    assert [record["frame"] for record in json.loads((tmp_path / "out.json").read_text())] == [7, 9, 11]
    with av.open(str(tmp_path / "out.mp4")) as drawn, av.open(str(video)) as original:
        assert drawn.streams.video[0].codec_context.name == "h264"
        frames = [frame.to_ndarray(format="gray").astype(int) for frame in drawn.decode(video=0)]
        before = [frame.to_ndarray(format="gray").astype(int) for frame in original.decode(video=0)]
    assert len(frames) == len(before) == 12
    height = before[0].shape[0]
    changes = [abs(a - b)[: height // 3].mean() for a, b in zip(frames, before, strict=True)]
    assert max(changes[:7]) < min(changes[7:]) / 2  # nothing is drawn before the first window


def test_smoothing_weighs_the_windows_before(classifier, folder):
    video = str(folder / "sub 0" / "v.mp4")
    plain = [dict(zip(w.prediction.classes, w.prediction.scores, strict=True))
             for w in classify_stream(classifier, video, hop=2)]  # fmt: skip
    smooth = list(classify_stream(classifier, video, hop=2, smoothing=0.75))
    name = classifier.classes[0]
    expected = plain[0][name]
    for row, window in zip(plain, smooth, strict=True):
        expected = 0.75 * expected + 0.25 * row[name]
        found = dict(zip(window.prediction.classes, window.prediction.scores, strict=True))
        assert found[name] == pytest.approx(expected, abs=1e-6)


def test_a_video_that_is_too_short_says_so_and_leaves_no_file(trained, folder, tmp_path):
    from video_data import MotionBenchConfig, generate_motionbench

    config = MotionBenchConfig(num_train=8, num_val=8, num_test=8, num_frames=4)
    generate_motionbench(tmp_path / "short", config, progress=False)
    video = next((tmp_path / "short").rglob("*.mp4"))
    output = corrnet("predict", trained, video, "--hop", 1, code=2)
    assert "is shorter than a clip, which takes 8 frames" in output
    with pytest.raises(ValueError, match="smoothing must be from 0 to below 1, got 1"):
        next(classify_stream(None, str(video), smoothing=1))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    command = ("predict", trained, tmp_path / "broken.mp4", "--hop", 1)
    assert "no video in a known container" in corrnet(*command, "--annotate", tmp_path / "out.mp4", code=1)
    assert not (tmp_path / "out.mp4").exists()


@pytest.fixture
def troubles(folder, tmp_path):
    """Videos that are all there, some of which or none of which can be read, and names that are no videos."""
    os.mkfifo(tmp_path / "pipe.mp4")
    return {
        "all are read": ([folder / "sub 0"], 0),
        "some cannot be read": ([folder / "broken.mp4", folder / "sub 0"], 3),
        "none can be read": ([folder / "broken.mp4"], 1),
        "nothing answers": (["http://user:secret@127.0.0.1:1/v.mp4?token=secret"], 1),
        "a file is missing": ([folder / "sub 0", tmp_path / "none.mp4"], 2),
        "a pipe": ([tmp_path / "pipe.mp4"], 2),
        "a camera": (["camera:0"], 2),
        "a stream": (["rtsp://user:secret@127.0.0.1:1/cam?token=secret"], 2),
        "a playlist": (["https://user:secret@127.0.0.1:1/live.m3u8?token=secret"], 2),
    }


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "features"])
def test_the_same_trouble_has_the_same_exit_code(command, model_folder, troubles, tmp_path, monkeypatch):
    monkeypatch.setattr("video_data.utils.remote._FIRST_PAUSE", 0.0)
    for number, (trouble, (videos, code)) in enumerate(troubles.items()):
        out = (
            ["-o", tmp_path / f"{number}.npz"]
            if command == "features"
            else ["--json", tmp_path / f"{number}.json"]
        )
        output = corrnet(command, model_folder, *videos, *out, "--num-clips", 1, "--device", "cpu", code=code)
        assert "secret" not in output, trouble
        for written in tmp_path.glob(f"{number}.*"):
            assert b"secret" not in written.read_bytes(), written


@pytest.mark.slow
def test_a_window_over_what_cannot_be_read_fails_as_a_video_does(model_folder, troubles, tmp_path):
    stream = "rtsp://user:secret@127.0.0.1:1/cam?token=secret"
    broken, missing = troubles["none can be read"][0][0], tmp_path / "none.mp4"
    for command in ("predict", "visualize motion"):
        assert "camera:0" in corrnet(*command.split(), "--help")
        options = ["--hop", 4] if command == "predict" else ["-o", tmp_path / "out.png"]
        for video, code in ((stream, 1), (broken, 1), (missing, 2), (tmp_path / "pipe.mp4", 2)):
            output = corrnet(*command.split(), model_folder, video, *options, "--device", "cpu", code=code)
            assert "error:" in output and "secret" not in output
            assert code == 1 or "; the first camera is camera:0" in output


def test_a_camera_and_a_stream_are_told_to_need_hop(classifier):
    for name, what in (("camera:0", "camera"), ("rtsp://user:secret@host/cam", "stream")):
        for call in (lambda name: find_videos([name]), classifier.predict):
            with pytest.raises(ValueError, match=f"is a {what}, .*: corrnet predict --hop N") as error:
                call(name)
            assert "secret" not in str(error.value)
