import io
import json
import re
import shutil

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from corrnet_train.cli import app
from corrnet_train.config.load import load_config
from corrnet_train.evaluation.evaluate import EVALUATION_FILES
from video_data import open_shards
from video_data.utils.files import locked

runner = CliRunner()


def corrnet(*arguments, code=0):
    result = runner.invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def run(motionbench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    corrnet(
        "train", "motionbench", "model.name=r2d_tiny", f"data.shards={motionbench[1]}", f"run.dir={folder}",
        "data.num_workers=0", "optim.batch_size=8", "optim.epochs=0.5", "eval.num_clips=2",
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "",
        "train",
        "eval",
        "predict",
        "features",
        "visualize filters",
        "visualize motion",
        "models",
        "demo",
        "motionbench",
        "pack",
        "pack folder",
        "pack csv",
        "verify",
    ],
)
def test_every_command_has_help(command):
    output = corrnet(*command.split(), "--help")
    assert "Usage" in output and len(output) > 300


def test_train_leaves_config_metrics_events_and_checkpoints(run):
    assert load_config(run / "config.yaml").model.name == "r2d_tiny"
    kinds = {json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()}
    assert kinds == {"train", "eval"}
    assert list((run / "tensorboard").glob("events*"))
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.pt", "best.pt"}


def test_eval_prints_accuracies_and_fingerprint_and_writes_json(run, motionbench, tmp_path):
    output = corrnet(
        "eval",
        run,
        motionbench[1],
        "--split",
        "test",
        "--num-workers",
        0,
        "--output",
        tmp_path / "eval",
    )
    for text in ("clip", "video", "top-1", "manifest", "weights", "decoder"):
        assert text in output
    assert {path.name for path in (tmp_path / "eval").iterdir()} == set(EVALUATION_FILES)
    written = json.loads((tmp_path / "eval" / "result.json").read_text())
    assert written["num_videos"] == 16 and written["fingerprint"]["split"] == "test"
    assert written["fingerprint"]["views"] == "2 clips x 1 center crop"  # eval.num_clips of the run
    confusion = written["confusion"]
    wrong = [(n, i, j) for i, row in enumerate(confusion) for j, n in enumerate(row) if n and i != j]
    count, true, predicted = max(wrong, key=lambda mistake: (mistake[0], -mistake[1], -mistake[2]))
    classes = open_shards(motionbench[1]).classes
    assert (
        f"{classes[true]} taken for {classes[predicted]}: {count} of {sum(confusion[true])} videos" in output
    )
    assert f"\n8 {classes[7]}" in output and len(re.findall(r" taken for \S+: ", output)) <= 5
    page = (tmp_path / "eval" / "report.html").read_text()
    shown = sum(n for n, _, _ in wrong)
    assert f"{shown} of {shown}, the worst first" in page and page.count("data:image/jpeg") == shown
    assert page.count("<svg") == 4 and "Training loss, at step" in page  # with the curves of the run


def test_an_evaluation_counts_where_the_curves_of_the_run_are_damaged(run, motionbench, tmp_path):
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text("damaged\n" + metrics.read_text())
    output = corrnet(
        "eval", tmp_path / "run", motionbench[1], "--num-workers", 0, "--output", tmp_path / "eval"
    )
    assert "without curves of the training" in output and "report:" in output
    assert (tmp_path / "eval" / "report.html").read_text().count("<svg") == 2


def test_predict_shows_bars_and_goes_on_after_a_broken_video(run, motionbench, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    good = next((motionbench[0] / "videos" / "test").rglob("*.mp4"))
    corrnet("predict", run, broken, code=1)
    output = corrnet("predict", run, broken, good, code=3)
    assert "broken.mp4" in output and "error" in output
    assert output.count("%") == 5 and "█" in output


def test_predict_and_features_take_the_checkpoint_as_an_option_too(run, motionbench, tmp_path):
    video = next((motionbench[0] / "videos" / "val").rglob("*.mp4"))
    assert corrnet("predict", video, "--checkpoint", run) == corrnet("predict", run, video)
    assert "no videos are given" in corrnet("predict", video, code=2)
    for name, arguments in (("first", (run, video)), ("option", (video, "--checkpoint", run))):
        corrnet("features", *arguments, "-o", tmp_path / f"{name}.npz", "--num-workers", "0")
    first, option = (np.load(tmp_path / f"{name}.npz")["features"] for name in ("first", "option"))
    assert np.array_equal(first, option)
    shards = ("--shards", motionbench[1], "--num-clips", "1", "--num-workers", "0")
    corrnet("features", "--checkpoint", run, *shards, "-o", tmp_path / "shards.npz")
    assert "give a checkpoint" in corrnet("predict", code=2)


def test_predict_without_a_checkpoint_says_where_it_looked(tmp_path):
    output = corrnet("predict", tmp_path / "none.pt", tmp_path / "a.mp4", code=2)
    assert "no checkpoint at" in output


def test_train_names_an_unknown_key(tmp_path):
    output = corrnet("train", "motionbench", "optim.lrr=1", f"run.dir={tmp_path}/x", code=2)
    assert "unknown key optim.lrr: did you mean optim.lr?" in output


def test_train_names_a_folder_that_holds_no_shards(tmp_path):
    assert str(tmp_path) in corrnet(
        "train", "motionbench", f"data.shards={tmp_path}", f"run.dir={tmp_path}/x", code=2
    )


def test_pack_and_inspect_name_videos_that_end_early(motionbench, tmp_path):
    source = tmp_path / "videos"
    for name in ("left", "right"):
        shutil.copytree(motionbench[0] / "videos" / "val" / name, source / name)
    whole = next((source / "left").iterdir())
    buffer = io.BytesIO()
    with av.open(whole) as video, av.open(buffer, "w", format="matroska") as output:
        stream = output.add_stream_from_template(video.streams.video[0])
        for packet in video.demux(video=0):
            if packet.pts is not None:
                packet.stream = stream
                output.mux(packet)
    (source / "left" / "half [1].mkv").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) * 7 // 10])
    output = corrnet("pack", "folder", source, tmp_path / "shards", "--num-workers", 1)
    assert "packed 3 videos" in output
    assert "1 packed videos have damaged frames, gaps or end early" in output
    named = r"left/half \[1\]\.mkv: (\d of \d+ frames are damaged, )?ends after 0\.\d\d of \d\.\d\d seconds"
    assert re.search(named, output)
    output = corrnet("inspect", tmp_path / "shards")
    assert re.search(r"damaged or incomplete +1 videos", output) and re.search(f"train: {named}", output)


def test_pack_folder_lists_what_it_leaves_out(motionbench, tmp_path):
    source = tmp_path / "videos"
    for name in ("left", "right"):
        shutil.copytree(motionbench[0] / "videos" / "val" / name, source / name)
    (source / "left" / "empty.mp4").touch()
    (source / "left" / "broken [1].mp4").write_bytes(b"\x00" * 1000)
    output = corrnet("pack", "folder", source, tmp_path / "shards", "--num-workers", 1, code=3)
    assert "packed 2 videos" in output and "left out 2 videos" in output
    assert "left/empty.mp4: empty file" in output and "left/broken [1].mp4" in output
    dropped = json.loads((tmp_path / "shards" / "manifest.json").read_text())["dropped"]
    assert {entry["source"] for entry in dropped} == {"left/empty.mp4", "left/broken [1].mp4"}


def test_pack_fails_as_predict_does_where_no_video_can_be_read(tmp_path):
    for name in ("left", "right"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        (tmp_path / "videos" / name / "broken.mp4").write_bytes(b"\x00" * 1000)
    output = corrnet("pack", "folder", tmp_path / "videos", tmp_path / "shards", "--num-workers", 1, code=1)
    assert "none of 2 videos can be read; " in output and "nothing but zeros" in output
    (tmp_path / "gone.csv").write_text("path,label\na.mp4,a\nb.mp4,b\n")
    assert f"looked for at {tmp_path / 'a.mp4'}" in corrnet(
        "pack", "csv", tmp_path / "gone.csv", tmp_path / "shards", code=2
    )


def test_pack_refuses_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty" in corrnet("pack", "folder", tmp_path / "empty", tmp_path / "shards", code=2)
    assert not (tmp_path / "shards").exists()


def test_motionbench_can_be_packed_from_its_csv(tmp_path):
    corrnet(
        "motionbench", tmp_path / "v", "--num-train", 8, "--num-val", 8, "--num-test", 8, "--num-workers", 1
    )
    output = corrnet(
        "pack",
        "csv",
        tmp_path / "v" / "motionbench.csv",
        tmp_path / "s",
        "--copy",
        "--num-workers",
        1,
    )
    assert "packed 24 videos" in output


@pytest.fixture
def kinetics(motionbench, tmp_path):
    """A data set in the form of Kinetics, with one video missing."""
    folder = tmp_path / "kinetics"
    lines = ["label,youtube_id,time_start,time_end,split"]
    for number, label in enumerate(("left", "right", "left", "right")):
        video = next((motionbench[0] / "videos" / "val" / label).glob("*.mp4"))
        split = "train" if number < 2 else "val"
        (folder / split).mkdir(parents=True, exist_ok=True)
        shutil.copy(video, folder / split / f"abcdefghi-{number}_000000_000010.mp4")
        lines.append(f"{label},abcdefghi-{number},0,10,{split}")
    lines.append("left,gone,0,10,val")
    (folder / "all.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_pack_shows_with_dry_run_what_a_data_set_has(kinetics, tmp_path):
    output = corrnet("pack", "kinetics", kinetics, tmp_path / "shards", "--dry-run")
    assert "Kinetics-2: 2 classes" in output
    lines = [line.split() for line in output.splitlines()]
    assert ["split", "listed", "found", "missing"] in lines
    assert ["train", "2", "2", "0"] in lines and ["val", "3", "2", "1"] in lines
    assert "gone_000000_000010: missing" in output
    assert not (tmp_path / "shards").exists()


def test_pack_says_what_it_takes_for_what_and_what_it_passes_over(motionbench, tmp_path):
    source, shards = tmp_path / "videos", tmp_path / "shards"
    for split, names in (("training", ("left", "right")), ("dev", ("left", "right"))):
        for name in names:
            shutil.copytree(motionbench[0] / "videos" / "val" / name, source / split / name)
    (source / "annotations").mkdir()
    (source / "annotations" / "train.csv").touch()
    (source / "training" / "left" / "a.m2ts").touch()
    (source / "training" / "loose [1].mp4").touch()
    (source / "dev" / "left" / "gone.mp4").symlink_to("nowhere")
    expected = [
        "taken for splits: dev (val), training (train); in them 2 folders for classes: left, right",
        "videos beside the folders of classes: 1, the first is training/loose [1].mp4",
        "folders without videos: 1, the first is annotations",
        "links that lead nowhere: 1, the first is dev/left/gone.mp4",
        "files with the ending .m2ts: 1, the first is training/left/a.m2ts",
        "files with the ending .csv: 1, the first is annotations/train.csv",
    ]
    for arguments in (["--dry-run"], ["--copy", "--num-workers", 1]):
        output = corrnet("pack", "folder", source, shards, *arguments)
        assert [text for text in expected if text not in output] == []
    output = corrnet("inspect", shards)
    assert [text for text in expected if text not in output] == []


def test_pack_makes_a_validation_split_and_tells_it_in_dry_run_summary_and_manifest(motionbench, tmp_path):
    for name in ("left", "right"):
        shutil.copytree(motionbench[0] / "videos" / "train" / name, tmp_path / "videos" / name)
        number = len(list((tmp_path / "videos" / name).iterdir()))
    arguments = (
        "pack",
        "folder",
        tmp_path / "videos",
        tmp_path / "shards",
        "--val-fraction",
        0.4,
        "--seed",
        1,
    )
    num_val = round(0.4 * number)
    told = (
        f"val gets {2 * num_val} of the {2 * number} videos of train (val_fraction 0.4, seed 1): "
        f"left {num_val} of {number}, right {num_val} of {number}"
    )
    output = corrnet(*arguments, "--dry-run")
    assert told in output
    assert ["val", str(2 * num_val), str(2 * num_val)] in [line.split() for line in output.splitlines()]
    assert told in corrnet(*arguments, "--copy", "--num-workers", 1)
    assert told in corrnet("inspect", tmp_path / "shards")
    assert open_shards(tmp_path / "shards").num_samples("val") == 2 * num_val
    with_val = ("pack", "folder", motionbench[0] / "videos", tmp_path / "other", "--val-fraction", 0.4)
    assert "there is a split val already" in corrnet(*with_val, "--dry-run", code=2)
    output = corrnet(*arguments[:4], "--group-by", "[0-9]", "--dry-run", code=2)
    assert "give that too, as 0.2" in output
    output = corrnet(*arguments, "--group-by", "[0-9]+", "--dry-run")
    assert "'[0-9]+' finds" in output and "groups of videos" in output


def test_a_second_pack_into_a_folder_is_told_before_videos_are_listed(kinetics, tmp_path, monkeypatch):
    shards = tmp_path / "shards"
    corrnet("pack", "kinetics", kinetics, shards, "--copy", "--num-workers", 1)

    def list_kinetics(*args, **options):
        raise AssertionError("videos are listed")

    with monkeypatch.context() as patch:
        patch.setattr("video_data.datasets.list_kinetics", list_kinetics)
        assert "holds a finished shard set" in corrnet("pack", "kinetics", kinetics, shards, code=2)
        with locked(shards / ".lock", wait=False):
            output = corrnet("pack", "kinetics", kinetics, shards, "--overwrite", code=2)
        assert "another process packs into" in output
    corrnet("pack", "kinetics", kinetics, shards, "--dry-run")


def test_pack_warns_of_one_video_with_two_labels(motionbench, tmp_path):
    for name in ("left", "right"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        shutil.copy(
            next((motionbench[0] / "videos" / "val" / "left").glob("*.mp4")),
            tmp_path / "videos" / name / "v.mp4",
        )
    output = corrnet("pack", "folder", tmp_path / "videos", tmp_path / "shards", "--copy", "--num-workers", 1)
    assert "1 videos are there with different labels" in output
    output = corrnet("inspect", tmp_path / "shards")
    assert "the same video with the labels left and right: train: left/v.mp4; train: right/v.mp4" in output


def test_pack_in_parts_and_merge(kinetics, tmp_path):
    shards = tmp_path / "shards"
    for part in ("1/2", "2/2"):
        command = ("pack", "kinetics", kinetics, shards, "--copy", "--part", part, "--num-workers", 1)
        output = corrnet(*command, "--shard-size", 1)
        assert f"part {part[0]} of 2: packed 2 videos" in output and f"corrnet pack-merge {shards}" in output
    output = corrnet("pack-merge", shards)
    assert "packed 4 videos" in output and "gone_000000_000010: missing" in output
    assert "2 videos are in more than one split" in output  # the replica uses each video twice
    assert "0 problems" in corrnet("verify", shards, "--num-workers", 1)
    assert "holds no part of a packing" in corrnet("pack-merge", tmp_path / "none", code=2)


def test_pack_says_what_is_wrong_with_options_and_names(kinetics, tmp_path):
    command = ("pack", "kinetics", kinetics, tmp_path / "shards")
    assert "--part 3/2: expected I/N" in corrnet(*command, "--part", "3/2", code=2)
    assert "--crf" in corrnet(*command, "--crf", "52", code=2)
    output = " ".join(corrnet("pack", "my-videos", "data/shards", code=2).replace("│", "").split())
    assert "no data set 'my-videos'; there are folder, csv, kinetics" in output
    assert "corrnet pack folder my-videos data/shards" in output
    assert "--frame-rate x: expected frames a second" in corrnet(
        "pack", "folder", tmp_path, tmp_path / "s", "--frame-rate", "x", code=2
    )


@pytest.mark.parametrize(
    "name", ["folder", "csv", "kinetics", "something", "diving48", "sports1m", "ucf101", "hmdb51"]
)
def test_every_data_set_has_help_with_an_example(name):
    assert f"corrnet pack {name} " in corrnet("pack", name, "--help")


def test_models_shows_the_table_with_the_papers_figures():
    output = corrnet("models", "corrnet26", "--num-frames", 32)
    assert "corrnet26" in output and "73.1" in output and "74.8" in output
    assert "no model matches 'vgg'" in corrnet("models", "vgg", code=2)
