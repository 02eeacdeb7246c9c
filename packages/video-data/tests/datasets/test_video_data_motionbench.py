"""MotionBench: balanced, reproducible, and only the motion tells the class."""

import csv
import hashlib
import shutil
from collections import Counter

import numpy as np
import pytest

from video_data import MotionBenchConfig, generate_motionbench, open_shards, pack_csv
from video_data.datasets.motionbench import motionbench_frames
from video_data.datasets.motionbench_motions import DIRECTIONS
from video_data.media.container import probe_video

CONFIG = MotionBenchConfig(num_train=32, num_val=8, num_test=16)
STEPS = {
    "up": (-1, 0),
    "up-right": (-1, 1),
    "right": (0, 1),
    "down-right": (1, 1),
    "down": (1, 0),
    "down-left": (1, -1),
    "left": (0, -1),
    "up-left": (-1, -1),
}


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    generate_motionbench(folder, CONFIG, progress=False)
    return folder


def test_every_split_is_balanced_and_listed(bench):
    assert tuple(STEPS) == DIRECTIONS
    rows = read_csv(bench / "motionbench.csv")
    assert len(rows) == 56
    for split, count in (("train", 4), ("val", 1), ("test", 2)):
        part = [row for row in rows if row["split"] == split]
        assert Counter(row["label"] for row in part) == dict.fromkeys(DIRECTIONS, count)
        assert read_csv(bench / f"{split}.csv") == part
    assert all((bench / row["path"]).is_file() for row in rows)


def test_videos_have_the_size_and_length_asked_for(bench):
    for path in list((bench / "videos").rglob("*.mp4"))[::7]:
        info = probe_video(path)
        assert (info.codec, info.width, info.height, info.num_frames) == ("h264", 40, 40, 24)
        seconds = (info.pts[1:] - info.pts[:-1]) * float(info.time_base)
        assert seconds.tolist() == pytest.approx([1 / 12] * 23)


def test_equal_configurations_give_equal_bytes(bench, tmp_path):
    generate_motionbench(tmp_path / "again", CONFIG, num_workers=2, progress=False)
    assert contents(tmp_path / "again") == contents(bench)
    other = CONFIG.model_copy(update={"seed": 1, "num_train": 8})
    generate_motionbench(tmp_path / "other", other, progress=False)
    assert not set(contents(tmp_path / "other").values()) & set(contents(bench).values()) - csv_hashes(bench)


def csv_hashes(folder):
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.csv")}


def test_the_patch_moves_along_the_direction_of_its_class():
    """The only place that moves between two frames is the patch: its center, on a torus, gives the step."""
    config = MotionBenchConfig(num_train=80, size=64, sprite_size=(16, 20))
    found: dict[str, set[float]] = {name: set() for name in DIRECTIONS}
    for number in range(80):
        frames = motionbench_frames(config, "train", number).astype(float)
        ground = np.median(frames, axis=0)
        where = np.abs(frames - ground).sum(-1)
        angles = np.exp(2j * np.pi * np.arange(64) / 64)
        centers = np.stack(
            [np.angle((where.sum(2) * angles).sum(1)), np.angle((where.sum(1) * angles).sum(1))], axis=1
        )
        steps = (np.diff(centers, axis=0) * 64 / (2 * np.pi) + 32) % 64 - 32
        step = np.median(steps, axis=0)
        direction = np.array(STEPS[DIRECTIONS[number % 8]], dtype=float)
        speed = float(np.linalg.norm(step))
        cosine = step @ direction / (speed * np.linalg.norm(direction))
        assert cosine > 0.9, (DIRECTIONS[number % 8], step)
        found[DIRECTIONS[number % 8]].add(round(speed))
    assert all(speeds <= {1, 2, 3, 4} and len(speeds) > 1 for speeds in found.values())


def test_single_frames_do_not_tell_the_class():
    """Frames of all classes have the same distribution of brightness, sharpness and patch size."""
    config = MotionBenchConfig(num_train=800)
    sharpness: dict[int, list[float]] = {label: [] for label in range(8)}
    for number in range(800):
        frame = motionbench_frames(config.model_copy(update={"num_frames": 1}), "train", number)[0].astype(
            float
        )
        sharpness[number % 8].append(float(np.abs(np.diff(frame, axis=0)).mean()))
    means = np.array([np.mean(values) for values in sharpness.values()])
    error = np.mean([np.std(values) for values in sharpness.values()]) / 10
    assert np.abs(means - means.mean()).max() < 4 * error


def test_an_interrupted_run_is_finished(bench, tmp_path, monkeypatch):
    written = 0

    def failing(path, content):
        nonlocal written
        written += 1
        if written == 20:
            raise OSError("No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr("video_data.datasets.motionbench.write_atomic", failing)
    with pytest.raises(OSError, match="No space"):
        generate_motionbench(tmp_path, CONFIG, progress=False)
    assert not (tmp_path / "motionbench.csv").exists()
    monkeypatch.undo()
    generate_motionbench(tmp_path, CONFIG, progress=False)
    assert contents(tmp_path) == contents(bench)


def test_another_configuration_in_the_same_folder_is_refused(bench):
    before = contents(bench)
    with pytest.raises(ValueError, match="another configuration"):
        generate_motionbench(bench, CONFIG.model_copy(update={"seed": 5}), progress=False)
    assert contents(bench) == before


@pytest.mark.parametrize("name", ["train.csv", "motionbench.csv", "videos/val/right/val-000002.mp4"])
def test_files_of_others_are_neither_replaced_nor_taken_for_its_own(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("path,label\nmy.mp4,cat\n")
    with pytest.raises(
        ValueError, match=rf"{name} exists and is no file of this MotionBench; choose another"
    ):
        generate_motionbench(tmp_path, CONFIG, progress=False)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]
    assert path.read_text() == "path,label\nmy.mp4,cat\n"


def test_a_list_that_was_changed_afterwards_is_not_replaced(bench, tmp_path):
    shutil.copytree(bench, tmp_path / "bench")
    generate_motionbench(tmp_path / "bench", CONFIG, progress=False)
    changed = tmp_path / "bench" / "train.csv"
    changed.write_text("path,label,split\nmy.mp4,cat,train\n")
    with pytest.raises(ValueError, match=r"train.csv exists and is no file of this MotionBench"):
        generate_motionbench(tmp_path / "bench", CONFIG, progress=False)
    assert changed.read_text() == "path,label,split\nmy.mp4,cat,train\n"


@pytest.mark.parametrize(
    "options",
    [
        {"speeds": (1.5, float("inf"))},
        {"speeds": (float("nan"),)},
        {"size": 47},
        {"num_train": -1},
        {"sprite_size": (10, 99)},
        {"color": "red"},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MotionBenchConfig(**options)


def test_it_packs_into_shards(bench, tmp_path):
    report = pack_csv(bench / "motionbench.csv", tmp_path, progress=False)
    assert (report.num_packed, report.dropped) == (56, [])
    shards = open_shards(tmp_path)
    assert shards.classes == tuple(sorted(DIRECTIONS))
    assert [shards.num_samples(split) for split in ("train", "val", "test")] == [32, 8, 16]
