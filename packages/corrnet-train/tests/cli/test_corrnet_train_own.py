"""`corrnet train` with videos: packs, chooses settings, trains, measures, and says what can be done next."""

import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from corrnet_train.cli import app
from corrnet_train.cli.next_steps import tell_result
from corrnet_train.cli.packed import changes_since
from corrnet_train.config.load import load_config, recipe_text
from corrnet_train.config.own import OwnVideos, choose_length, choose_settings
from corrnet_train.inference.classifier import VideoClassifier
from video_data import open_shards
from video_data.datasets import list_csv

FEW_STEPS = (
    "optim.samples_per_epoch=16",
    "optim.epochs=2",
    "data.num_workers=0",
    "run.device=cpu",
    "eval.num_clips=2",
)
MEASURED = "eval.after_training=true"
SMALL_CLIPS = ("data.clip.num_frames=4", "data.clip.crop_size=16")


@pytest.fixture
def videos(motionbench, tmp_path, monkeypatch):
    """CLASS/VIDEO in the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(motionbench[0] / "videos" / "train", tmp_path / "my-videos")
    return tmp_path / "my-videos"


def corrnet(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.slow
def test_a_folder_of_classes_becomes_a_model_with_one_command(videos, tmp_path):
    output = corrnet("train", "my-videos", *FEW_STEPS)
    assert "packing into runs/shards/my-videos" in output and "packed 32 videos" in output
    assert "24 videos to learn from (train), 8 to measure accuracy on (val)" in output
    table = " ".join(output.split())  # where a cell is broken it is one again
    for line in (
        "recipe own+tiny no GPU trains, and a CPU takes days for larger models",
        "data.clip.num_frames 8 videos have 12 frames (median), and a CPU trains",
        "data.clip.crop_size 32 the shorter side of videos has 40 pixels (median)",
        "optim.batch_size 16 there are 24 videos to learn from",
        "optim.epochs 2 given: 2 steps, 32 clips; 200 would have been chosen",
        "optim.warmup_epochs 0.2 a tenth of the epochs",
        "eval.every_epochs 1 accuracy on the 8 videos of val is measured about 2 times",
    ):
        assert line in table
    assert "manifest:" not in output  # what only `corrnet eval` prints
    run = tmp_path / "runs" / "my-videos"
    for line in (
        "report: runs/my-videos/report/report.html",
        "no better than one guess for all videos, within chance: ",
        "2 steps (32 clips) are few, usual for this recipe are 200 (3,200 clips); go on with training: "
        "corrnet resume runs/my-videos optim.epochs=200 eval.every_epochs=10",
        "use it all the same: corrnet predict runs/my-videos VIDEO",
    ):
        assert line in output
    assert (run / "report" / "report.html").is_file()
    config = load_config(run / "config.yaml")
    assert config.model.name == "corrnet_tiny" and config.optim.epochs == 2
    assert config.data.eval_split == "val" and config.data.clip.num_frames == 8
    assert "down-left" in VideoClassifier.from_checkpoint("runs/my-videos", device="cpu").classes
    before = (run / "report" / "result.json").read_text()
    longer = corrnet("resume", "runs/my-videos", "optim.epochs=3")
    assert "done: " in longer and "3 steps (48 clips) are few" in longer
    assert (run / "report" / "result.json").read_text() != before

    assert "already holds a run" in corrnet("train", "my-videos", *FEW_STEPS, code=2)
    again = corrnet("train", "my-videos", *FEW_STEPS, "run.dir=runs/second", "--dry-run")
    assert "packed already: runs/shards/my-videos" in again and "24 to learn from, 8 to evaluate" in again
    told = corrnet("train", "my-videos", "--val-fraction", "0.5", "run.dir=runs/second", code=2)
    assert "runs/shards/my-videos has these videos in other splits: give --val-fraction" in told
    assert "give one of them" in corrnet("train", "runs/shards/my-videos", "data.shards=other", code=2)
    assert "24 to learn from" in corrnet(
        "train", "runs/shards/my-videos", *FEW_STEPS, "run.dir=c", "--dry-run"
    )
    assert "videos" in corrnet("eval", "runs/my-videos", "--num-clips", "1", "--num-workers", "0")
    Path("runs/shards/my-videos").rename("shards")
    # A run is named after the data set, not after a folder of this name.
    told = corrnet("train", "shards", *FEW_STEPS, "--dry-run", code=2)
    assert "runs/my-videos already holds a run" in told


@pytest.mark.slow
def test_videos_that_changed_since_they_were_packed_are_packed_anew(videos):
    corrnet("train", "my-videos", *FEW_STEPS, *SMALL_CLIPS)
    now, (first, *others) = time.time(), videos.glob("*/*.mp4")
    ages = {**dict.fromkeys(others, 99), "runs/shards/my-videos/manifest.json": 9}
    for path, age in {**ages, first: -99}.items():  # a clock that is wrong says nothing
        os.utime(path, (now - age, now - age))
    assert "packed already" in corrnet("train", "my-videos", "run.dir=runs/b", "--dry-run", *FEW_STEPS)
    os.utime(first, (now - 1, now - 1))
    is_changed = f"1 is changed (as {first.relative_to(videos)})"
    told = corrnet("train", "my-videos", code=2)
    assert f"runs/my-videos holds a run of these videos as they were: {is_changed}." in told
    assert "give run.dir=runs/my-videos-2 (and model.init_from=runs/my-videos to start" in told
    told = corrnet("train", "my-videos", "data.shards=runs/shards/my-videos", "run.dir=runs/b", code=2)
    assert (
        is_changed in told
        and "give these a folder of their own, as data.shards=runs/shards/my-videos-2" in told
    )
    told = corrnet("train", "my-videos", "run.dir=runs/b", "--dry-run")
    assert f"runs/shards/my-videos holds the videos of my-videos as they were: {is_changed}" in told
    assert "they would be packed into runs/shards/my-videos-2" in told

    new = first.rename(first.with_name("new.mp4")).relative_to(videos)
    before = Path("runs/shards/my-videos/manifest.json").read_bytes()
    told = corrnet("train", "my-videos", "run.dir=runs/b", *FEW_STEPS, *SMALL_CLIPS)
    assert f"1 is new (as {new}), 1 is gone (as {first.relative_to(videos)})\n" in told
    assert "packing into runs/shards/my-videos-2" in told
    assert load_config("runs/b/config.yaml").data.shards.name == "my-videos-2"
    again = corrnet("train", "my-videos", "run.dir=runs/c", "--dry-run", *FEW_STEPS)
    assert "packed already: runs/shards/my-videos-2" in again and "as they were" not in again

    # A third one starts where the first one ended: of its model, with its classifier.
    told = corrnet(
        "train", "my-videos", "run.dir=runs/c", "model.init_from=runs/my-videos", *FEW_STEPS, *SMALL_CLIPS
    )
    table = " ".join(told.split())
    assert "recipe own+finetune" in table and "model.name corrnet_tiny that of runs/my-videos" in table
    assert "model.new_head false the classes are those of runs/my-videos" in table
    assert (
        "weights from runs/my-videos: " in told
        and "new: " not in told.partition("weights from")[2].splitlines()[0]
    )

    # The first run has what it had, and says so.
    assert Path("runs/shards/my-videos/manifest.json").read_bytes() == before
    told = corrnet("resume", "runs/my-videos", "optim.epochs=3")
    assert "on the videos as they were packed into runs/shards/my-videos, whatever was added" in told
    told = corrnet(
        "resume", "runs/my-videos", "optim.epochs=4", "--shards", "runs/shards/my-videos-2", code=2
    )
    assert "runs/shards/my-videos-2 holds other packed videos" in told
    assert "from the weights of this one with model.init_from=runs/my-videos" in told


def test_what_has_changed_since_packing_is_counted_by_kind(videos):
    """Also where the validation split falls otherwise, and new files are younger than the shards."""
    corrnet("pack", "folder", "my-videos", "shards", "--val-fraction", "0.2", "--num-workers", "0")
    left, right = sorted(videos.glob("left/*")), sorted(videos.glob("right/*"))
    for number in range(3):
        shutil.copy(left[0], videos / "up" / f"new-{number}.mp4")
    left[1].unlink()
    right[0].rename(videos / "down" / right[0].name)
    listing = list_csv(a_csv_of(videos))
    told = changes_since(listing, open_shards("shards"))
    assert (
        told.startswith("4 are new (as down/") and "), 2 are gone (as left/" in told and "changed" not in told
    )
    name, table = left[0].relative_to(videos), a_csv_of(videos)
    table.write_text(table.read_text().replace(f"{name},left", f"{name},up"))
    told = changes_since(list_csv(table), open_shards("shards"))
    assert told.endswith(f", 1 is of another class or value (as {name})")


def a_csv_of(videos):
    """A list of the videos of a folder with their classes."""
    rows = [f"{path.relative_to(videos)},{path.parent.name}" for path in sorted(videos.glob("*/*.mp4"))]
    (videos / "list.csv").write_text("\n".join(["path,label", *rows]))
    return videos / "list.csv"


@pytest.mark.slow
def test_one_video_of_each_class_is_enough(videos):
    for folder in videos.iterdir():
        for video in sorted(folder.iterdir())[1:]:
            video.unlink()
    output = corrnet("train", "my-videos", *FEW_STEPS[1:], *SMALL_CLIPS)
    assert "add at least one more video of each class" in output and "data.eval_split none" in " ".join(
        output.split()
    )
    assert load_config("runs/my-videos/config.yaml").data.eval_split is None and "report:" not in output
    assert "kept no video back to measure accuracy on" in corrnet("eval", "runs/my-videos", code=2)
    assert "no validation split can be made" in corrnet(
        "train", "my-videos", "--val-fraction", "0.2", "run.dir=b", code=2
    )


def test_a_dry_run_packs_nothing_and_shows_what_is_known_without(videos, tmp_path):
    output = corrnet("train", "my-videos", "optim.batch_size=12", "run.device=cpu", "--dry-run")
    assert "they would be packed into runs/shards/my-videos" in output and "val gets 8 of the 32" in output
    assert "after: corrnet pack folder my-videos runs/shards/my-videos --val-fraction 0.2" in output
    table = " ".join(output.split())
    assert (
        "optim.batch_size 12 given" in table
        and "optim.epochs 200 400 steps, 4,800 clips, one of each" in table
    )
    assert "on the 8 videos of val is measured about 20 times" in table and "data.clip" not in table
    assert [path.name for path in tmp_path.iterdir()] == ["my-videos"]
    (tmp_path / "a link").symlink_to("my-videos")
    assert "packed into runs/shards/a link" in corrnet("train", "a link", "--dry-run")


def a_run(folder, shards):
    """What a run of these shards has left in a folder."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.pt").touch()
    (folder / "config.yaml").write_text(
        recipe_text(load_config("own", [f"data.shards={shards}", f"run.dir={folder}"]))
    )


def test_a_second_run_of_the_same_videos_is_told_how_the_first_goes_on(videos, motionbench, tmp_path):
    corrnet(
        "pack", "folder", "my-videos", "runs/shards/my-videos", "--val-fraction", "0.2", "--num-workers", "0"
    )
    a_run(tmp_path / "runs" / "my-videos", "runs/shards/my-videos")
    for source in ("my-videos", "runs/shards/my-videos"):
        told = corrnet("train", source, code=2)
        assert (
            "continue it with corrnet resume runs/my-videos, or give another folder, as run.dir=runs/my-videos-2"
            in told
        )
    shutil.copytree(motionbench[0] / "videos" / "test", tmp_path / "elsewhere" / "my-videos")
    told = corrnet("train", "elsewhere/my-videos", code=2)
    assert "runs/my-videos holds a run of other videos than those of elsewhere/my-videos" in told
    assert "give this one a folder of its own, as run.dir=runs/my-videos-2" in told and "resume" not in told
    assert "holds a run of other videos" in corrnet("train", motionbench[1], "run.dir=runs/my-videos", code=2)
    told = corrnet("train", "elsewhere/my-videos", "run.dir=runs/other", "--dry-run")
    assert "runs/shards/my-videos holds other videos than those of elsewhere/my-videos" in told
    assert "they would be packed into runs/shards/my-videos-2" in told


def test_a_csv_with_a_split_val_keeps_it(motionbench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = corrnet("train", motionbench[0] / "motionbench.csv", "--dry-run")
    assert "val_fraction" not in output and "runs/shards/motionbench" in output


@pytest.mark.slow
def test_parts_that_a_csv_names_are_packed_once(videos):
    first = next(path.relative_to(videos) for path in videos.glob("left/*"))
    rows = [f"{path.relative_to(videos)},{path.parent.name},," for path in videos.glob("right/*")]
    rows += [f"{first},left,0.{part},0.{part + 4}" for part in range(4)]
    table = videos / "parts.csv"
    table.write_text("\n".join(["path,label,start,end", *rows]))
    assert "packed 8 videos" in corrnet("train", table, *FEW_STEPS[1:], *SMALL_CLIPS)
    assert "packed already" in corrnet("train", table, *FEW_STEPS[1:], "run.dir=runs/b", "--dry-run")
    table.write_text(table.read_text().replace("0.3,0.7", "0.3,0.8"))
    told = corrnet("train", table, "run.dir=runs/b", "--dry-run")
    assert f"1 is new (as {first} from 0.3 to 0.8 s), 1 is gone (as {first} from 0.3 to 0.7 s)" in told


def test_alone_it_shows_what_can_be_trained():
    told = corrnet("train", code=2)
    assert all(
        command in told for command in ("corrnet train my-videos.csv", "corrnet resume", "corrnet demo")
    )


def test_what_cannot_be_meant_is_refused_before_any_work(videos, tmp_path, make_config):
    assert "unknown key optim.epoch" in corrnet("train", "my-videos", "optim.epoch=3", code=2)
    assert "goes on with: corrnet resume RUN" in corrnet("train", "my-videos", "--resume", code=2)
    assert "are for videos, and motionbench is a recipe" in corrnet(
        "train", "motionbench", "--val-fraction", "0.2", code=2
    )
    run = tmp_path / "a run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    assert "it goes on with: corrnet resume 'a run'" in corrnet("train", "a run", code=2)
    assert "no.csv" in corrnet("train", "no.csv", code=2)
    (tmp_path / "moved.csv").write_text("path,label\na.mp4,a\nb.mp4,b\n")
    told = corrnet("train", "moved.csv", code=2)
    assert "the first, a.mp4, is looked for at a.mp4: a path counts from" in told and "--root FOLDER" in told
    assert "looked for at elsewhere/a.mp4" in corrnet("train", "moved.csv", "--root", "elsewhere", code=2)
    assert "--root is for the paths in a csv" in corrnet("train", "my-videos", "--root", "elsewhere", code=2)
    assert "neither a folder or csv of videos nor a recipe" in corrnet("train", "nothing", code=2)
    assert "did you mean my-videos?" in corrnet("train", "my-vidoes", code=2)
    assert f"did you mean {videos}?" in corrnet("train", f"{videos}s", code=2)
    assert "did you mean motionbench?" in corrnet("train", "motionbensh", code=2)
    (tmp_path / "own").mkdir()
    assert "own is a recipe; the folder of that name is ./own" in corrnet("train", "own", code=2)
    (tmp_path / "list.csv").touch()
    assert "did you mean list.csv?" in corrnet("train", "lists.csv", code=2)
    assert not (tmp_path / "runs").exists()


def test_a_recipe_without_its_shards_says_what_makes_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = corrnet("train", "own", code=2)
    assert (
        "no folder of shards at data/shards (data.shards): corrnet pack folder my-videos data/shards" in told
    )
    assert "corrnet train my-videos packs and trains" in told
    assert "corrnet demo makes them" in corrnet("train", "motionbench", code=2)
    assert "corrnet demo makes them" in corrnet("lr-find", "motionbench", code=2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--epochs", "2"], "given without dashes: optim.epochs=2"),
        (["--epochs=2"], "given without dashes: optim.epochs=2"),
        (["--data.clip.num-frames", "8"], "given without dashes: data.clip.num_frames=8"),
        (["--batch-size", "4"], "given without dashes: optim.batch_size=4 or eval.batch_size=4"),
        (["--dry-rum"], "--dry-run"),
    ],
)
@pytest.mark.parametrize("command", ["train", "lr-find"])
def test_a_setting_that_is_given_as_an_option_is_told_how_to_give_it(command, arguments, told):
    if command == "lr-find" and arguments == ["--dry-rum"]:
        arguments, told = ["--step", "2"], "--steps"
    assert told in " ".join(corrnet(command, "motionbench", *arguments, code=2).replace("│", "").split())


def test_what_comes_next_is_said_where_videos_could_not_be_measured_too(make_config, monkeypatch, capsys):
    result = SimpleNamespace(unreadable=["a.mp4"], chance=None)
    monkeypatch.setattr("corrnet_train.cli.evaluate.measure", lambda *arguments, **options: result)
    with pytest.raises(typer.Exit) as ending:
        tell_result(make_config(MEASURED))
    assert ending.value.exit_code == 3 and "use it: corrnet predict" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "chance", "told"),
    [
        (
            ["optim.epochs=2"],
            None,
            "train it longer: corrnet resume RUN optim.epochs=200 eval.every_epochs=10",
        ),
        (
            ["optim.epochs=120", "eval.every_epochs=0"],
            None,
            "train it longer: corrnet resume RUN optim.epochs=240",
        ),
        (
            ["optim.epochs=2"],
            "no better",
            "8 steps (64 clips) are few, usual for this recipe are 800 (6,400 clips)",
        ),
        (
            ["optim.epochs=200"],
            "no better",
            "800 steps are as many as usual for this recipe: more videos help",
        ),
    ],
)
def test_the_usual_length_is_named_where_a_run_was_short(
    settings, chance, told, make_config, monkeypatch, capsys
):
    result = SimpleNamespace(unreadable=[], chance=chance)
    monkeypatch.setattr("corrnet_train.cli.evaluate.measure", lambda *arguments, **options: result)
    config = make_config(MEASURED, *settings)
    tell_result(config)
    said = " ".join(capsys.readouterr().err.split()).replace(str(config.run.dir), "RUN")
    assert told in said and ("use it all the same: " in said) == bool(chance)


def test_a_model_without_a_mistake_is_not_to_be_trained_longer(make_config, monkeypatch, capsys):
    result = SimpleNamespace(unreadable=[], chance=None, video_top1=1.0)
    monkeypatch.setattr("corrnet_train.cli.evaluate.measure", lambda *arguments, **options: result)
    tell_result(make_config(MEASURED))
    said = capsys.readouterr().err
    assert "use it: corrnet predict" in said and "longer" not in said


@pytest.mark.parametrize(
    ("name", "scores", "told"),
    [
        (
            "video_top1",
            [0.25, 0.75, 0.5],
            "it was better on the way, top-1 0.75 after step 2, 2 of 8 videos more, which may be chance: ",
        ),
        ("mae", [3.0, 1.5, 2.0], "it was better on the way, MAE 1.5 after step 2: "),
        ("video_top1", [0.25, 0.5, 0.75], None),
    ],
)
def test_a_better_checkpoint_than_the_last_one_is_told(name, scores, told, make_config, monkeypatch, capsys):
    monkeypatch.setattr("corrnet_train.cli.evaluate.measure", lambda *arguments, **options: None)
    config = make_config(MEASURED, "model.name=mine:make")
    (config.run.dir / "checkpoints").mkdir(parents=True)
    (config.run.dir / "checkpoints" / "best.pt").touch()
    lines = [
        {"kind": "eval", "step": step + 1, name: score, "num_videos": 8} for step, score in enumerate(scores)
    ]
    (config.run.dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tell_result(config)
    said = " ".join(capsys.readouterr().err.split())
    assert "use it: CORRNET_ALLOW_MODULES=mine corrnet predict" in said
    assert (told in said and "best.pt VIDEO" in said) if told else "on the way" not in said


def test_under_torchrun_videos_are_packed_first(videos, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = corrnet("train", "my-videos", code=2)
    assert "corrnet pack folder my-videos runs/shards/my-videos --val-fraction 0.2" in told


@pytest.mark.parametrize(
    ("videos", "has_gpu", "expected"),
    [
        (
            OwnVideos(4000, 1000, num_frames=90, frame_rate=30, short_side=256),
            False,
            {"num_frames": 8, "fps": 7.5, "crop_size": 56, "batch_size": 16, "epochs": 4},
        ),
        (
            OwnVideos(4000, 1000, num_frames=180, frame_rate=60, short_side=256),
            True,
            {"num_frames": 16, "fps": 15, "crop_size": 112, "batch_size": 32, "epochs": 50},
        ),
        (
            OwnVideos(3, 0, num_frames=10, frame_rate=10, short_side=64),
            True,
            {"num_frames": 8, "fps": 10, "crop_size": 56, "batch_size": 3, "eval_split": None},
        ),
    ],
)
def test_settings_suit_the_videos_and_the_machine(videos, has_gpu, expected):
    choices = choose_settings(videos, has_gpu=has_gpu, num_workers=1, given={})
    chosen = {choice.key.rpartition(".")[2]: choice.value for choice in choices}
    assert expected.items() <= chosen.items()


def test_settings_that_are_given_stand_and_others_suit_them():
    videos = OwnVideos(100, 20, num_frames=90, frame_rate=30, short_side=256)
    given = {"data.clip.num_frames": 32, "optim.epochs": 40}
    choices = choose_settings(videos, has_gpu=False, num_workers=1, given=given)
    chosen = {choice.key: choice.value for choice in choices}
    reasons = {choice.key: choice.reason for choice in choices}
    assert given.items() <= chosen.items() and reasons["data.clip.num_frames"] == "given"
    assert reasons["optim.epochs"] == "given: 250 steps, 4,000 clips; 160 would have been chosen"
    assert chosen["data.clip.fps"] == 30 and chosen["optim.warmup_epochs"] == 4
    assert chosen["eval.every_epochs"] == 2
    given = {"data.clip.frame_stride": 3}
    (fps,) = (
        c.value for c in choose_settings(videos, has_gpu=True, num_workers=1, given=given) if "fps" in c.key
    )
    assert fps is None
    choices = choose_settings(videos, has_gpu=True, num_workers=1, given={"data.clip.modality": "flow"})
    assert {("data.clip.fps", None), ("data.clip.frame_stride", 2)} <= {(c.key, c.value) for c in choices}


@pytest.mark.parametrize(
    ("epochs", "told"), [(1, "once, at the end"), (3, "about 3 times"), (300, "about 20 times")]
)
def test_it_is_told_how_often_accuracy_is_measured_on_how_many_videos(epochs, told):
    choices = choose_length(100, 7, has_gpu=False, given={"optim.epochs": epochs})
    reasons = {choice.key: choice.reason for choice in choices}
    assert reasons["eval.every_epochs"] == f"accuracy on the 7 videos of val is measured {told}"


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (["model.name=mine:make"], {}),
        (["model.name=torchvision/r3d_18", "model.options.progress=false"], {"progress": False}),
        (["model.name=r2d_tiny"], {"dropout": 0.2}),
    ],
)
def test_a_network_of_another_package_gets_no_options_of_our_models(settings, options, motionbench, tmp_path):
    from corrnet_train.cli.own import settings_for

    where = [*settings, f"run.dir={tmp_path / 'run'}", "run.device=cpu"]
    config = settings_for(str(motionbench[1]), where, val_fraction=None, group_by=None, dry_run=False)
    assert config.model.options == options
