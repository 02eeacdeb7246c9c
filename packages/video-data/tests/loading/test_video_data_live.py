"""Windows over frames as they come are the clips that files are cut into."""

import http.server
import socket
import threading
from functools import partial

import numpy as np
import pytest

from video_data import ClipConfig, decode_views
from video_data.loading import live
from video_data.loading.live import open_frames, sliding_clips

CLIP = ClipConfig(num_frames=4, frame_stride=2, crop_size=64, short_side=(64, 64))


def test_windows_hold_the_frames_they_should(make_video, frame_numbers, tmp_path):
    (tmp_path / "a.mp4").write_bytes(make_video(range(20)))
    with open_frames(str(tmp_path / "a.mp4")) as frames:
        seen = [
            (
                w.number,
                w.seconds,
                None if w.clip is None else frame_numbers(w.clip.permute(1, 2, 3, 0).numpy()),
            )
            for w in sliding_clips(frames, CLIP, hop=3)
        ]
    assert [number for number, _, _ in seen] == list(range(20))
    assert [seconds for _, seconds, _ in seen] == pytest.approx([0.04 * number for number in range(20)])
    assert {number: clip for number, _, clip in seen if clip} == {
        last: [last - 6, last - 4, last - 2, last] for last in (6, 9, 12, 15, 18)
    }


def test_the_window_over_a_whole_video_is_its_clip(make_video, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(make_video(range(7), size=(96, 64)))
    with open_frames(str(path)) as frames:
        (clip,) = [window.clip for window in sliding_clips(frames, CLIP, hop=1) if window.clip is not None]
    assert np.array_equal(clip, decode_views(path, CLIP, 1)[0])
    assert clip[None].permute(0, 2, 3, 4, 1).is_contiguous()  # channels last


def test_a_stream_behind_http_is_read_as_it_comes(make_video, frame_numbers, tmp_path):
    (tmp_path / "a.ts").write_bytes(make_video(range(12), container="mpegts"))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with open_frames(f"http://127.0.0.1:{server.server_port}/a.ts") as frames:
            shown = [
                (frame_numbers(window.frame.to_ndarray(format="rgb24"))[0], window.seconds)
                for window in sliding_clips(frames, CLIP, hop=1)
            ]
        assert [number for number, _ in shown] == list(range(12))
        assert [seconds for _, seconds in shown] == pytest.approx([0.04 * number for number in range(12)])
        missing = open_frames(f"http://127.0.0.1:{server.server_port}/none.mp4")
        with pytest.raises(ValueError, match=r"none.mp4 cannot be opened"):
            missing.__enter__()
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_never_answers_is_told(monkeypatch):
    monkeypatch.setattr(live, "_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        frames = open_frames(f"http://127.0.0.1:{silent.getsockname()[1]}/a.ts")
        with pytest.raises(ValueError, match=r"a\.ts cannot be opened"):
            frames.__enter__()


@pytest.mark.parametrize("source", ["camera:63", "none.mp4"])
def test_what_is_not_there_is_named(source):
    with (
        pytest.raises(ValueError, match=r"camera:63 \(.*63\) cannot be opened|none.mp4: .*No such file"),
        open_frames(source),
    ):
        pass


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="hop must be at least 1, got 0"):
        next(sliding_clips([], CLIP, hop=0))
    flow = CLIP.model_copy(update={"modality": "flow"})
    with pytest.raises(ValueError, match="RGB clips alone, got modality 'flow'"):
        next(sliding_clips([], flow, hop=1))
