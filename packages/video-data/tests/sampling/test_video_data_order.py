"""The order of samples and the choice of clips are pure functions."""

from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from video_data import ClipConfig
from video_data.sampling.clips import (
    Box,
    ClipSpec,
    clip_frames,
    num_starts,
    repeat_factor,
    source_crop_size,
    train_clip,
    view_boxes,
    view_starts,
)
from video_data.sampling.order import SHUFFLE_WINDOW, BalancedOrder, SampleOrder, permutation, uniforms


def one_pass(sizes, seed, pass_index):
    order = SampleOrder(sizes, seed=seed)
    return [order(pass_index * sum(sizes) + offset) for offset in range(sum(sizes))]


@pytest.mark.parametrize(
    "sizes", [[1], [5], [3, 1, 4], [2] * (3 * SHUFFLE_WINDOW), [7] * (2 * SHUFFLE_WINDOW + 1)]
)
def test_every_pass_is_a_permutation(sizes):
    for pass_index in (0, 1, 1000):
        assert sorted(one_pass(sizes, 3, pass_index)) == list(range(sum(sizes)))


def test_the_order_depends_on_seed_and_pass_alone():
    sizes = [10] * 40
    assert one_pass(sizes, 1, 0) == one_pass(sizes, 1, 0)
    assert one_pass(sizes, 1, 0) != one_pass(sizes, 1, 1)
    assert one_pass(sizes, 1, 0) != one_pass(sizes, 2, 0)


@pytest.mark.parametrize(("seed", "pass_index"), [(2, 0), (1, 1)])
def test_seed_and_pass_change_both_shuffles(seed, pass_index):
    """That of the shards shows in which shards the first window has, that inside a window in a set of one shard."""
    sizes, window = [1] * (8 * SHUFFLE_WINDOW), slice(SHUFFLE_WINDOW)
    assert set(one_pass(sizes, 1, 0)[window]) != set(one_pass(sizes, seed, pass_index)[window])
    assert one_pass([40], 1, 0) != one_pass([40], seed, pass_index)


def test_windows_are_shuffled_differently():
    offsets = np.array(one_pass([10] * (2 * SHUFFLE_WINDOW), 0, 0)) % 10
    assert offsets[: 10 * SHUFFLE_WINDOW].tolist() != offsets[10 * SHUFFLE_WINDOW :].tolist()


def test_positions_may_be_asked_in_any_order():
    sizes = [6] * 50
    order = SampleOrder(sizes, seed=9)
    positions = [int(p) for p in permutation(1500, 4)]
    forward = [SampleOrder(sizes, seed=9)(p) for p in positions[:50]]
    assert [order(p) for p in positions][:50] == forward


def test_a_window_of_shards_is_read_before_the_next():
    sizes = [5] * (3 * SHUFFLE_WINDOW)
    shards = np.array(one_pass(sizes, 0, 0)) // 5
    windows = shards.reshape(3, SHUFFLE_WINDOW * 5)
    members = [set(window.tolist()) for window in windows]
    assert [len(window) for window in members] == [SHUFFLE_WINDOW] * 3
    assert not members[0] & members[1] and not members[1] & members[2]
    assert list(windows[0]) != sorted(windows[0])


def test_the_order_is_the_same_on_every_machine():
    assert permutation(8, 1, 2).tolist() == [3, 4, 0, 6, 1, 7, 2, 5]
    assert permutation(8, -1).tolist() == [3, 4, 0, 2, 1, 6, 7, 5]
    assert uniforms(1, 2, count=2) == [0.6441351989573306, 0.520448600230696]
    assert uniforms(-3, count=1) == [0.5716500790606974]
    order = SampleOrder([3] * 40, seed=-7)  # three windows
    positions = (0, 1, 2, 3, 60, 61, 119, 120, 121)
    assert [order(position) for position in positions] == [22, 47, 43, 81, 8, 88, 78, 69, 115]


LABELS = np.repeat([0, 1, 3], [40, 4, 1])  # no sample of class 2


def test_in_a_balanced_order_each_class_comes_once_in_as_many_positions_as_there_are_classes():
    order = BalancedOrder(LABELS, seed=5)
    labels = LABELS[[order(position) for position in range(300)]].reshape(100, 3)
    assert (np.sort(labels) == [0, 1, 3]).all() and len({tuple(row) for row in labels.tolist()}) == 6
    assert order.num_samples == 45


def test_in_a_balanced_order_all_samples_of_a_class_come_before_one_comes_again():
    order = BalancedOrder(LABELS, seed=5)
    drawn = np.array([order(position) for position in range(240)])
    large, small = drawn[LABELS[drawn] == 0], drawn[LABELS[drawn] == 1].reshape(-1, 4)
    assert sorted(large[:40]) == sorted(large[40:]) == list(range(40))
    assert large[:40].tolist() != large[40:].tolist() != list(range(40))
    assert (np.sort(small) == [40, 41, 42, 43]).all() and len({tuple(row) for row in small.tolist()}) > 5


def test_a_balanced_order_depends_on_seed_and_position_alone():
    positions = permutation(300, 1).tolist()
    one, other = ([BalancedOrder(LABELS, seed=seed)(p) for p in range(300)] for seed in (5, 6))
    order = BalancedOrder(LABELS, seed=5)
    assert [order(p) for p in positions] == [one[p] for p in positions] and one != other


def test_what_cannot_be_read_is_replaced_by_the_next_of_its_pass_or_class():
    order, plain = BalancedOrder(LABELS, seed=5), SampleOrder([4], seed=5)
    for position in range(12):
        assert sorted(plain(position, skip) for skip in range(4)) == [0, 1, 2, 3]
        label = LABELS[order(position)]
        members = np.flatnonzero(label == LABELS).tolist()
        assert sorted(order(position, skip) for skip in range(len(members))) == members
        assert order(position, len(members)) == order(position)


def test_training_clips_are_the_same_on_every_machine():
    clip = CLIP.model_copy(update={"flip": True})
    clips = [train_clip(video(30), (640, 480), clip, seed=-1, position=position) for position in (5, 6)]
    assert clips == [
        ClipSpec(frames=(11, 13, 15, 17), box=Box(118, 68, 332, 332), flip=False),
        ClipSpec(frames=(3, 5, 7, 9), box=Box(216, 18, 332, 332), flip=False),
    ]


def test_permutations_are_uniform():
    first = Counter(int(permutation(4, seed)[0]) for seed in range(4000))
    assert all(850 < first[i] < 1150 for i in range(4))


def test_an_order_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        SampleOrder([], seed=0)


def video(num_frames, *, fps=25, pts=None, time_base=None):
    """What is asked of a video: the number and times of its frames."""
    pts = np.arange(num_frames) if pts is None else np.array(pts)
    return SimpleNamespace(num_frames=len(pts), pts=pts, time_base=time_base or 1 / Fraction(fps))


CLIP = ClipConfig(num_frames=4, frame_stride=2, crop_size=32, short_side=(40, 48))


def test_a_long_enough_video_is_read_with_the_stride():
    assert CLIP.span == 7
    assert clip_frames(video(10), CLIP, 3) == (3, 5, 7, 9)
    assert num_starts(video(10), CLIP) == 4


@pytest.mark.parametrize(
    ("num_frames", "factor", "first", "last"),
    [
        (7, 1, (0, 2, 4, 6), (0, 2, 4, 6)),
        (6, 2, (0, 1, 2, 3), (2, 3, 4, 5)),
        (4, 2, (0, 1, 2, 3), (0, 1, 2, 3)),
        (3, 4, (0, 0, 1, 1), (1, 1, 2, 2)),
        (1, 4, (0, 0, 0, 0), (0, 0, 0, 0)),
    ],
)
def test_short_videos_repeat_their_frames(num_frames, factor, first, last):
    assert repeat_factor(num_frames, CLIP.span) == factor
    assert clip_frames(video(num_frames), CLIP, 0) == first
    assert clip_frames(video(num_frames), CLIP, num_starts(video(num_frames), CLIP) - 1) == last


def test_frames_are_repeated_no_more_often_than_needed():
    assert [repeat_factor(num_frames, 8) for num_frames in (9, 8, 7, 4, 3)] == [1, 1, 2, 2, 4]


def test_training_starts_cover_all_places_evenly():
    starts = Counter(train_clip(video(10), (64, 48), CLIP, seed=0, position=p).frames[0] for p in range(4000))
    assert set(starts) == {0, 1, 2, 3}
    assert all(850 < count < 1150 for count in starts.values())


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (49, 321), (340, 256), (32, 32), (5, 3), (2, 2)])
def test_training_crops_lie_inside_the_picture_on_even_pixels(size):
    boxes = [train_clip(video(10), size, CLIP, seed=1, position=p).box for p in range(500)]
    for box in boxes:
        assert box.width == box.height >= 2
        assert box.x % 2 == box.y % 2 == box.width % 2 == 0
        assert 0 <= box.x <= size[0] - box.width and 0 <= box.y <= size[1] - box.height
    if min(size) > 40:
        assert len({(box.x, box.y) for box in boxes}) > 20


def test_training_scales_cover_the_range_of_the_shorter_side():
    clip = ClipConfig(crop_size=224)
    assert source_crop_size((340, 256), 224, 256) == 224
    assert source_crop_size((340, 256), 224, 320) == 178
    large = (4096, 4096)  # each side gives a crop of its own
    drawn = Counter(train_clip(video(40), large, clip, seed=0, position=p).box.width for p in range(6500))
    assert set(drawn) == {source_crop_size(large, 224, side) for side in range(256, 321)}
    assert len(drawn) == 65 and all(50 < count < 150 for count in drawn.values())


def test_mirroring_is_off_unless_asked_for():
    flips = [train_clip(video(10), (64, 48), CLIP, seed=0, position=p).flip for p in range(400)]
    assert not any(flips)
    mirrored = CLIP.model_copy(update={"flip": True})
    flips = [train_clip(video(10), (64, 48), mirrored, seed=0, position=p).flip for p in range(400)]
    assert 150 < sum(flips) < 250


def test_test_clips_are_spaced_uniformly_from_end_to_end():
    clip = ClipConfig(num_frames=8)
    assert view_starts(video(107), clip, 10) == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert view_starts(video(107), clip, 1) == [49]
    assert view_starts(video(8), clip, 3) == [0, 0, 0]
    assert view_starts(video(12), clip, 4) == [0, 1, 3, 4]  # 1.33 and 2.67 are rounded


FPS = ClipConfig(num_frames=4, fps=10, crop_size=32)


@pytest.mark.parametrize("fps", [10, 20, 25, 60, Fraction(30000, 1001), 12.5])
def test_with_fps_clips_show_the_same_times_at_any_frame_rate(fps):
    frames = video(round(2 * fps), fps=fps)
    for start in (0, num_starts(frames, FPS) - 1):
        chosen = np.array(clip_frames(frames, FPS, start)) / float(fps)
        assert np.allclose(chosen - chosen[0], [0, 0.1, 0.2, 0.3], atol=0.5 / float(fps) + 1e-9)
    assert clip_frames(video(60, fps=30), FPS, 0) == (0, 3, 6, 9)


def test_with_fps_frames_of_a_variable_rate_are_those_that_are_shown():
    # 100 frames a second for half a second, then 10 of them; times are milliseconds, as Matroska rounds them.
    pts = [*range(0, 500, 10), *range(500, 1500, 100)]
    frames = video(0, pts=pts, time_base=Fraction(1, 1000))
    assert [pts[i] for i in clip_frames(frames, FPS, 0)] == [0, 100, 200, 300]
    assert [pts[i] for i in clip_frames(frames, FPS, pts.index(400))] == [400, 500, 600, 700]
    assert num_starts(frames, FPS) - 1 == pts.index(1100)  # 0.3 s before the last frame
    thirds = [round(1000 * number / 30) for number in range(30)]
    frames = video(0, pts=thirds, time_base=Fraction(1, 1000))
    clip = FPS.model_copy(update={"fps": 30.0})
    assert [clip_frames(frames, clip, start) for start in (0, 7)] == [(0, 1, 2, 3), (7, 8, 9, 10)]
    assert num_starts(frames, clip) == 27


def test_with_fps_a_rate_above_that_of_the_video_repeats_its_frames():
    clip = FPS.model_copy(update={"fps": 50.0})
    assert clip_frames(video(10, fps=20), clip, 2) == (2, 2, 3, 3)


@pytest.mark.parametrize(("num_frames", "frames"), [(1, (0, 0, 0, 0)), (2, (0, 1, 1, 1)), (4, (0, 1, 2, 3))])
def test_with_fps_the_last_frame_of_a_short_video_is_held(num_frames, frames):
    short = video(num_frames, fps=10)
    assert num_starts(short, FPS) == 1 and clip_frames(short, FPS, 0) == frames
    assert view_starts(short, FPS, 3) == [0, 0, 0]


def test_with_fps_training_starts_at_every_frame_after_which_there_is_a_clip():
    frames = video(40, fps=20)
    starts = Counter(train_clip(frames, (64, 48), FPS, seed=0, position=p).frames[0] for p in range(6800))
    assert set(starts) == set(range(34)) and all(130 < count < 270 for count in starts.values())


def test_with_fps_test_clips_are_spaced_uniformly_in_time():
    pts = [*range(0, 1000, 10), *range(1000, 2400, 100)]  # 2.3 s, 2.0 s of them starts
    frames = video(0, pts=pts, time_base=Fraction(1, 1000))
    assert [pts[start] for start in view_starts(frames, FPS, 5)] == [0, 500, 1000, 1500, 2000]
    assert [pts[start] for start in view_starts(frames, FPS, 1)] == [1000]


def test_with_fps_a_clip_has_a_length_in_seconds():
    assert (FPS.spacing, FPS.length) == ("10 fps", "0.3 seconds")
    with pytest.raises(ValueError, match="depends on the video"):
        FPS.span  # noqa: B018
    assert (CLIP.spacing, CLIP.length) == ("stride 2", "7 frames")


def test_fps_goes_with_no_stride_and_no_flow():
    with pytest.raises(ValueError, match=r"fps=10 and frame_stride=2 both say how far"):
        ClipConfig(fps=10, frame_stride=2)
    with pytest.raises(ValueError, match="fps is for RGB: modality is flow"):
        ClipConfig(fps=10, modality="flow")
    with pytest.raises(ValueError, match=r"greater than or equal to 0.01"):
        ClipConfig(fps=0)
    assert (
        clip_frames(video(9, fps=1, time_base=Fraction(1, 10**9)), ClipConfig(num_frames=64, fps=0.01), 0)[0]
        == 0
    )
    with pytest.raises(ValueError, match="finite"):
        ClipConfig(fps=float("inf"))


def test_test_crops_are_the_centre_or_three_along_the_longer_side():
    clip = ClipConfig(crop_size=224)
    assert view_boxes((340, 256), clip, 1) == [Box(58, 16, 224, 224)]
    assert view_boxes((340, 256), clip, 3) == [Box(x, 16, 224, 224) for x in (0, 58, 116)]
    assert view_boxes((256, 340), clip, 3) == [Box(16, y, 224, 224) for y in (0, 58, 116)]
    assert view_boxes((256, 256), clip, 3) == [Box(x, 16, 224, 224) for x in (0, 16, 32)]


def test_the_default_range_of_the_shorter_side_follows_the_crop():
    assert ClipConfig().short_side_range == (256, 320)
    assert ClipConfig(crop_size=112).short_side_range == (128, 160)


@pytest.mark.parametrize(
    "options", [{"num_frames": 0}, {"short_side": (100, 320)}, {"short_side": (320, 256)}, {"stride": 2}]
)
def test_wrong_clip_options_are_refused(options):
    with pytest.raises(ValueError, match=r"num_frames|short_side|stride"):
        ClipConfig(**options)
