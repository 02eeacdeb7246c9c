"""Clips by frame rate: one motion, filmed at several rates, looks the same."""

from fractions import Fraction

import numpy as np
import pytest

from video_data import ClipConfig, decode_views, open_shards, pack_folder, train_loader
from video_data.loading.live import open_frames, sliding_clips

CLIP = ClipConfig(num_frames=4, fps=10, crop_size=64, short_side=(64, 64))
EVEN = [0, 6, 12, 18]  # sixtieths of a second between the frames of a clip
VARIABLE = np.cumsum([0, *np.random.default_rng(0).integers(1, 6, 45)]).tolist()  # at most 5 apart
TIMES = {"60 fps": range(120), "10 fps": range(0, 120, 6), "variable": VARIABLE}


@pytest.fixture(params=TIMES)
def film(request, make_video, tmp_path):
    """A video that shows the time in sixtieths of a second, and how far from it that may be."""
    times = list(TIMES[request.param])
    path = tmp_path / "film.mp4"
    path.write_bytes(make_video(times, pts=times, time_base=Fraction(1, 60)))
    return path, 3 if request.param == "variable" else 0


def moments(clip, frame_numbers):
    return frame_numbers(clip.permute(1, 2, 3, 0).numpy())


def test_views_show_moments_that_are_equally_far_apart(film, frame_numbers):
    path, tolerance = film
    views = [moments(view, frame_numbers) for view in decode_views(path, CLIP, 3)]
    for view in views:
        assert np.allclose(np.array(view) - view[0], EVEN, atol=2 * tolerance)
        assert len(set(view)) == 4
    assert views[0][0] == 0 and views[1][0] == pytest.approx(views[2][0] / 2, abs=3 + tolerance)


def test_windows_over_a_stream_do_so_too(film, frame_numbers):
    path, tolerance = film
    with open_frames(str(path)) as frames:
        clips = [window.clip for window in sliding_clips(frames, CLIP, hop=5)]
    shown = [moments(clip, frame_numbers) for clip in clips if clip is not None]
    assert len(shown) > 3
    for clip in shown:
        assert np.allclose(np.array(clip) - clip[-1], np.array(EVEN) - 18, atol=2 * tolerance)


def test_training_clips_of_several_rates_show_the_same_motion_and_go_on_exactly(
    make_video, frame_numbers, tmp_path
):
    for name, times in TIMES.items():
        path = tmp_path / "videos" / name.partition(" ")[0] / "a.mp4"
        path.parent.mkdir(parents=True)
        path.write_bytes(make_video(list(times), pts=list(times), time_base=Fraction(1, 60)))
    pack_folder(tmp_path / "videos", tmp_path / "shards", progress=False)
    shards = open_shards(tmp_path / "shards")
    loader = train_loader(shards, "train", CLIP, batch_size=3, seed=0, num_samples=60)
    first = list(loader)
    for batch in first:
        for clip, label in zip(batch.video, batch.label.tolist(), strict=True):
            tolerance = 6 if shards.classes[label] == "variable" else 0
            clip = moments(clip, frame_numbers)
            assert np.allclose(np.array(clip) - clip[0], EVEN, atol=tolerance)
    rest = train_loader(
        shards, "train", CLIP, batch_size=3, seed=0, position=30, num_samples=30, num_workers=1
    )
    for ours, theirs in zip(first[10:], rest, strict=True):
        assert ours.keys == theirs.keys and np.array_equal(ours.video, theirs.video)


def test_a_window_fills_again_where_time_begins_anew(make_video, frame_numbers, tmp_path):
    times = list(range(0, 120, 6))
    (tmp_path / "a.mp4").write_bytes(make_video(times, pts=times, time_base=Fraction(1, 60)))
    with open_frames(str(tmp_path / "a.mp4")) as frames:
        joined = list(frames)
    beginning = joined[10][0].pts
    for frame, _ in joined[10:]:
        frame.pts -= beginning  # as where a camera starts again
    windows = list(sliding_clips(joined, CLIP, hop=1))
    assert [window.number for window in windows if window.clip is not None] == [*range(3, 10), *range(13, 20)]
    for window in windows:
        if window.clip is not None:
            last = times[window.number]
            assert moments(window.clip, frame_numbers) == [last - 18, last - 12, last - 6, last]


def test_a_stream_without_times_is_refused(make_video, tmp_path):
    (tmp_path / "a.mp4").write_bytes(make_video(range(4)))
    with open_frames(str(tmp_path / "a.mp4")) as frames:
        timeless = list(frames)
    for frame, _ in timeless:
        frame.pts = None
    with pytest.raises(ValueError, match="have no times, and clips with fps are cut by them"):
        list(sliding_clips(timeless, CLIP, hop=1))
