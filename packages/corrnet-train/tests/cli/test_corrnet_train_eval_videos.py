"""`corrnet eval` with videos in the place of shards: packed once, all of them tested, classes matched by name."""

import shutil

import pytest
from typer.testing import CliRunner

from corrnet_train.cli import app
from video_data import open_shards, pack_folder, pack_listing
from video_data.datasets import list_csv


def corrnet(*arguments, code=0, **environment):
    environment = {"COLUMNS": "200", **environment}
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def videos(motionbench, tmp_path, monkeypatch):
    """Videos of two of the eight classes, 4 and 4, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for folder in sorted((motionbench[0] / "videos" / "train").iterdir())[2:4]:
        shutil.copytree(folder, tmp_path / "new" / folder.name)
    return tmp_path / "new"


def measure(model, *arguments, **more):
    return corrnet("eval", model, *arguments, "--num-clips", 1, "--num-workers", 0, **more)


def test_videos_of_some_classes_are_packed_once_and_all_are_tested(model_folder, videos):
    told = measure(model_folder, "new")
    assert "packing into runs/shards/new-test" in told and "all videos for the split test" in told
    assert "these videos are of 2 of the 8 classes of the model" in told and "videos: 8" in told
    packed = open_shards("runs/shards/new-test")
    assert packed.splits == ("test",) and len(packed.classes) == 2
    assert "packed already: runs/shards/new-test" in measure(model_folder, "new")
    next(videos.rglob("*.mp4")).unlink()
    told = measure(model_folder, "new")
    assert "as they were: 1 is gone" in told and "packing into runs/shards/new-test-2" in told
    assert "videos: 7" in told


def test_videos_of_one_class_can_be_tested_and_teach_nothing(model_folder, videos):
    shutil.rmtree(next(videos.iterdir()))
    told = measure(model_folder, "new")
    assert "of 1 of the 8 classes" in told and "videos: 4" in told
    assert "all videos are of one class, and one guess for all gets that, too" in told

    rows = [f"{path},a class,train" for path in videos.rglob("*.mp4")]
    (videos.parent / "one.csv").write_text("\n".join(["path,label,split", *rows]))
    pack_listing(list_csv("one.csv", to_learn=False), "shards", progress=False)
    told = corrnet("train", "shards", "data.eval_split=none", code=2)
    assert "shards has only one class, a class: there is nothing to learn" in told


def test_a_csv_has_its_videos_elsewhere(model_folder, videos, tmp_path):
    paths = sorted(path.relative_to(videos) for path in videos.rglob("*.mp4"))
    rows = [f"{path},{path.parent},{'val' if n % 2 else 'train'}" for n, path in enumerate(paths)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    assert "no csv file lists.csv" in measure(model_folder, "lists.csv", code=2)
    assert "--root FOLDER" in measure(model_folder, "list.csv", code=2)
    told = measure(model_folder, "list.csv", "--root", "new")
    assert "packing into runs/shards/list-test" in told and "split: val" in told and "videos: 4" in told
    assert "split: train" in measure(model_folder, "list.csv", "--root", "new", "--split", "train")
    assert "--root is for the paths in a csv" in measure(model_folder, "new", "--root", "new", code=2)
    assert "--root is for the paths" in measure(
        model_folder, "runs/shards/list-test", "--root", "new", code=2
    )


def test_what_another_run_packed_in_splits_is_tested_as_a_whole(model_folder, videos):
    corrnet("pack", "folder", "new", "runs/shards/new", "--val-fraction", "0.25")
    told = measure(model_folder, "new")
    assert "packing into runs/shards/new-test" in told and "split: test" in told and "videos: 8" in told


@pytest.mark.slow
def test_of_its_own_videos_a_run_is_tested_on_those_that_it_kept_back(videos):
    few = ["optim.epochs=1", "data.clip.num_frames=4", "data.clip.crop_size=16", "data.num_workers=0"]
    corrnet("train", "new", "--val-fraction", "0.25", "eval.after_training=false", "run.device=cpu", *few)
    told = measure("runs/new", "new")
    assert "packed already: runs/shards/new; its split val has 2 of the 8 videos" in told
    assert "split: val" in told and "videos: 2" in told and "has learned from" not in told
    assert "has learned from 6 of these 6 videos" in measure("runs/new", "new", "--split", "train")
    for number, path in enumerate(sorted(videos.rglob("*.mp4"))):  # the same files under other names
        (videos.parent / "copied" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, videos.parent / "copied" / path.parent.name / f"{number}.mp4")
    told = measure("runs/new", "copied")
    assert "packing into runs/shards/copied-test" in told and "has learned from 6 of these 8 videos" in told


def test_nothing_is_packed_for_a_model_that_does_not_know_a_class(model_folder, videos):
    (videos / "sideways").mkdir()
    shutil.copy(next(videos.rglob("*.mp4")), videos / "sideways" / "a.mp4")
    told = measure(model_folder, "new", code=2)
    assert "the model does not know 1 of the 3 classes of these videos: sideways; it tells apart" in told
    (videos.parent / "numbers.csv").write_text("path,value\na.mp4,1\n")
    (videos.parent / "a.mp4").touch()
    told = measure(model_folder, "numbers.csv", code=2)
    assert "the task of the videos is regression, that of the model multiclass" in told
    assert not (videos.parent / "runs").exists()


def test_one_process_packs_before_several_measure(model_folder, videos):
    told = measure(model_folder, "new", code=2, RANK="0")
    assert "not packed yet: the same command does that in one process, without torchrun" in told


def test_shards_without_a_split_that_is_meant_for_tests_are_asked_about(model_folder, videos):
    pack_folder("new", "shards", progress=False)
    assert "no split val or test in shards; it has train: give --split train" in measure(
        model_folder, "shards", code=2
    )


def test_an_unfinished_packing_is_no_folder_of_videos(model_folder, videos):
    (videos / ".packing").mkdir()
    for command in (("train", "new"), ("eval", model_folder, "new"), ("pack", "folder", "new", "shards")):
        assert "new holds an unfinished packing" in corrnet(*command, code=2)
