"""MotionBench's levels easy, medium and hard: what moves how, the truth about it, and what one frame does not tell."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from video_data import MotionBenchConfig, generate_motionbench, open_shards, pack_csv
from video_data.datasets.motionbench import motionbench_classes, motionbench_frames, motionbench_scene
from video_data.datasets.motionbench_motions import DIRECTIONS, MOTIONS, draw_motion

LEVELS = ("easy", "medium", "hard")


def motion_of(name, seed=0, size=40, num_frames=24):
    return draw_motion(name, np.random.RandomState(seed), size=size, num_frames=num_frames)


def steps(path):
    return np.diff(path.center, axis=0)


@pytest.mark.parametrize("name", MOTIONS[:16])
def test_objects_move_straight_on_in_the_direction_of_the_class(name):
    direction, _, speed = name.rpartition("-")
    angle = np.pi / 4 * DIRECTIONS.index(direction)
    for path in motion_of(name).objects:
        lengths = np.linalg.norm(steps(path), axis=1)
        assert steps(path) / lengths[:, None] == pytest.approx(
            np.tile([-np.cos(angle), np.sin(angle)], (23, 1)), abs=1e-4
        )
        least, most = (0.5, 0.9) if speed == "slow" else (1.7, 2.5)
        assert least <= lengths.min() and lengths.max() <= most + 1e-5 and np.ptp(lengths) < 1e-4


def angle_of(vectors):
    """Clockwise, of (row, column)."""
    return np.unwrap(np.arctan2(vectors[..., 1], -vectors[..., 0]), axis=0)


def test_the_other_motions_are_what_their_names_say():
    for seed in range(5):
        for side, sign in (("left", -1), ("right", 1)):
            (path, _), (turned, _), (sheared, _) = (
                motion_of(f"{kind}-{side}", seed).objects for kind in ("curve", "rotate", "shear")
            )
            assert (sign * np.diff(angle_of(steps(path))) > 0.1).all()
            assert (sign * np.diff(angle_of(-turned.matrix[:, :, 0])) > 0.09).all()
            inner = np.linalg.inv(sheared.matrix[:1]) @ sheared.matrix  # what was added since the first frame
            assert (sign * np.diff(inner[:, 1, 0]) > 0.03).all()
            for still in (turned, sheared):
                assert not steps(still).any()
        for name, sign in (("grow", 1), ("shrink", -1)):
            for path in motion_of(name, seed).objects:
                assert (sign * np.diff(np.linalg.det(path.matrix)) > 0).all() and not steps(path).any()
        for name, sign in (("part", 1), ("meet", -1)):
            first, second = motion_of(name, seed).objects
            assert (sign * np.diff(np.linalg.norm(first.center - second.center, axis=1)) > 0.5).all()
        for name, sign in (("speed-up", 1), ("slow-down", -1)):
            for path in motion_of(name, seed).objects:
                assert (sign * np.diff(np.linalg.norm(steps(path), axis=1)) > 0.01).all()
        for name, share in (("pan-with", 2), ("pan-against", -1)):
            motion = motion_of(name, seed)
            assert steps(motion.objects[0]) == pytest.approx(share * steps(motion.ground), abs=1e-5)
            assert np.linalg.norm(steps(motion.ground), axis=1).min() > 0.6


@pytest.mark.parametrize("pair", [("grow", "shrink"), ("meet", "part"), ("shear-left", "shear-right")])
def test_pairs_are_each_other_played_backwards(pair):
    first, second = (motion_of(name) for name in pair)
    for path, other in zip(first.objects, second.objects, strict=True):
        assert path.center[::-1] == pytest.approx(other.center)
        assert path.matrix[::-1] == pytest.approx(other.matrix)


def poses(name, count=300):
    """What one frame from anywhere in a video can show of its objects: distance, size and shear."""
    random, found = np.random.RandomState(1), []
    for seed in range(count):
        first, second = motion_of(name, seed).objects
        index = random.randint(24)
        gap = np.linalg.norm(first.center[index] - second.center[index])
        gram = first.matrix[index].T @ first.matrix[index]
        found.append((gap, np.sqrt(np.linalg.det(gram)), abs(gram[0, 1]) / np.linalg.det(gram) ** 0.5))
    return np.array(found)


def test_frames_of_all_classes_show_objects_of_the_same_distances_sizes_and_shears():
    """Means and spreads agree within four standard errors; those of a spread are those of normal numbers, doubled."""
    all_poses = {name: poses(name) for name in (*MOTIONS[::5], "grow", "shear-left", "meet", "curve-left")}
    together = np.concatenate(list(all_poses.values()))
    mean, spread = together.mean(axis=0), together.std(axis=0)
    for name, found in all_poses.items():
        assert (np.abs(found.mean(axis=0) - mean) < 4 * spread / np.sqrt(300)).all(), name
        assert (np.abs(found.std(axis=0) - spread) < 8 * spread / np.sqrt(600)).all(), name


@pytest.mark.parametrize("name", ["right-fast", "rotate-left", "grow", "shear-right", "meet", "pan-against"])
def test_the_displacement_says_where_what_is_seen_was_before(name):
    """Pictures that are drawn together from the frame before differ less than three quarters as much as that frame."""
    config = MotionBenchConfig(num_train=30, level="easy", size=120, num_frames=4)
    scene = motionbench_scene(config, "train", MOTIONS.index(name))
    rows, columns = np.mgrid[:120, :120]
    followed, stayed = [], []
    for index in range(1, 4):
        moved, visible = scene.displacement[index - 1], scene.visible[index - 1]
        now, before = scene.frames[index].astype(float), scene.frames[index - 1].astype(float)
        place = torch.from_numpy(np.stack([columns + moved[..., 0], rows + moved[..., 1]], axis=-1))
        picture = torch.from_numpy(before).permute(2, 0, 1)[None]
        drawn = nn.functional.grid_sample(picture, place[None].double() / 59.5 - 1, align_corners=True)
        moves = visible & (np.linalg.norm(moved, axis=-1) > 0.2)
        assert moves.sum() > 300
        followed.append(np.abs(now - drawn[0].permute(1, 2, 0).numpy())[moves].mean())
        stayed.append(np.abs(now - before)[moves].mean())
    assert np.mean(followed) < 0.75 * np.mean(stayed), (followed, stayed)


def test_what_was_hidden_or_outside_is_not_visible():
    config = MotionBenchConfig(num_train=30, level="easy", num_frames=6)
    scene = motionbench_scene(config, "train", MOTIONS.index("right-fast"))
    assert 0.8 < scene.visible.mean() < 0.99
    still = motionbench_scene(config, "train", MOTIONS.index("rotate-left"))
    edges = np.abs(still.displacement).sum(axis=-1) == 0
    assert (still.visible | ~edges).mean() > 0.98  # ground that stood still was mostly seen before


@pytest.mark.parametrize("level", LEVELS)
def test_it_is_written_with_its_truth_to_equal_bytes(level, tmp_path):
    config = MotionBenchConfig(
        num_train=30, num_val=0, num_test=2, level=level, num_frames=4, displacement=True
    )
    listing = generate_motionbench(tmp_path / "a", config, progress=False)
    generate_motionbench(tmp_path / "b", config, num_workers=2, progress=False)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 2 * 32 + 6
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    truth = np.load(
        tmp_path / "a" / "displacement" / "train" / "meet" / f"train-{MOTIONS.index('meet'):06d}.npz"
    )
    scene = motionbench_scene(config, "train", MOTIONS.index("meet"))
    assert truth["displacement"] == pytest.approx(scene.displacement, abs=0.01)
    assert (truth["visible"] == scene.visible).all()
    card = (tmp_path / "a" / "README.md").read_text()
    assert f"level {level}" in card and all(name in card for name in MOTIONS) and "`visible`" in card
    pack_csv(listing, tmp_path / "shards", progress=False)
    assert open_shards(tmp_path / "shards").classes == tuple(sorted(MOTIONS))


def test_levels_add_to_the_same_motions():
    configs = [MotionBenchConfig(num_train=30, level=level, num_frames=4) for level in LEVELS]
    assert {motionbench_classes(level) for level in LEVELS} == {MOTIONS}
    easy, medium, hard = (motionbench_frames(config, "train", 3).astype(float) for config in configs)
    changes = [np.abs(np.diff(frames.mean(axis=(1, 2, 3)))).mean() for frames in (easy, medium, hard)]
    assert changes[0] < changes[1] < changes[2]  # of brightness


def test_the_truth_is_not_written_where_it_is_not_known():
    with pytest.raises(ValueError, match="displacement is known of the levels easy, medium and hard"):
        MotionBenchConfig(displacement=True)
    with pytest.raises(ValueError, match="choose easy, medium or hard"):
        motionbench_scene(MotionBenchConfig(), "train", 0)


@pytest.mark.slow
def test_a_model_of_single_frames_stays_at_chance():
    """A small network that sees one frame of each video, from anywhere in it, learns its videos and no class."""
    torch.manual_seed(0)
    config = MotionBenchConfig(num_train=900, num_test=600, level="easy", num_frames=24)
    random = np.random.RandomState(0)
    sets = defaultdict(list)
    for split, count in (("train", 900), ("test", 600)):
        for number in range(count):
            sets[split].append(motionbench_frames(config, split, number)[random.randint(24)])
    frames = {
        split: torch.from_numpy(np.stack(videos)).permute(0, 3, 1, 2).float() / 128 - 1
        for split, videos in sets.items()
    }
    labels = {split: torch.arange(len(videos)) % len(MOTIONS) for split, videos in sets.items()}
    model = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, len(MOTIONS)),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        for batch in torch.randperm(900).split(100):
            loss = nn.functional.cross_entropy(model(frames["train"][batch]), labels["train"][batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = {s: (model(frames[s]).argmax(1) == labels[s]).float().mean().item() for s in frames}
    chance = 1 / len(MOTIONS)
    assert right["train"] > 5 * chance
    assert right["test"] < chance + 3 * np.sqrt(chance / 600)
