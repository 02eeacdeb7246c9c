"""Learned filters and matched motion as pictures, pages and videos."""

import io
import itertools
import os
import signal

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from corrnet_models import create_model, save_pretrained
from corrnet_train.analysis import motion
from corrnet_train.analysis.correlation_layers import chosen_layers, correlation_layers
from corrnet_train.analysis.motion import MotionField, count_frames, motion_fields
from corrnet_train.cli import app
from corrnet_train.inference.classifier import VideoClassifier
from corrnet_train.report.pages.filters import write_filters
from corrnet_train.report.pages.motion import draw_field, motion_colors, write_motion
from video_data import ClipConfig

SIDE = 32
CLIP = ClipConfig(num_frames=8, crop_size=SIDE, short_side=(SIDE, SIDE))


def corrnet(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def texture(side):
    """Smooth random colors that repeat at the borders."""
    coarse = torch.rand(1, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(coarse, (2, 2, 2, 2), mode="circular")
    fine = torch.nn.functional.interpolate(padded, scale_factor=4, mode="bicubic", align_corners=False)
    pixels = fine[0, :, 8:-8, 8:-8].permute(1, 2, 0)
    return (255 * pixels).clamp(0, 255).numpy().astype(np.uint8)


def write_video(path, velocity, num_frames=15):
    """A texture that moves to the right and down by so many pixels a frame."""
    pixels = texture(64)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for number in range(num_frames):
            shown = np.roll(pixels, (velocity[1] * number, velocity[0] * number), axis=(0, 1))[:SIDE, :SIDE]
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24"))
            )
        container.mux(stream.encode())
    return path


def make_classifier(clip=CLIP, **options):
    torch.manual_seed(0)
    model = create_model("corrnet_tiny", num_frames=clip.num_frames, num_classes=2, **options)
    return VideoClassifier(model, classes=["a", "b"], clip=clip, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def classifier():
    return make_classifier()


@pytest.fixture(scope="module")
def folder(classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("visualize")
    metadata = {"clip": CLIP.model_dump(mode="json")}
    save_pretrained(classifier.model, folder / "corrnet", classes=["a", "b"], metadata=metadata)
    plain = create_model("r2d_tiny", num_frames=8, num_classes=2)
    save_pretrained(plain, folder / "r2d", classes=["a", "b"], metadata=metadata)
    write_video(folder / "moving.mp4", (3, -2))
    return folder


@pytest.mark.parametrize("velocity", [(2, 0), (-2, 0), (0, 2), (0, -2), (3, -3), (1, 0), (-4, 4)])
def test_the_field_is_the_motion_of_the_texture(velocity, classifier, tmp_path):
    video = write_video(tmp_path / "v.mp4", velocity)
    (layer, *_) = correlation_layers(classifier.model)
    fields = list(motion_fields(classifier, str(video), layer))
    assert len(fields) == 15 and not fields[0].motion.any()
    for field in fields[1:]:
        assert field.motion.shape == (16, 16, 2) and field.picture.shape == (SIDE, SIDE, 3)
        # The texture moves as a whole: at the median it is found to a fraction of a position, which is 2 pixels wide.
        assert np.median(field.motion.reshape(-1, 2), axis=0) == pytest.approx(velocity, abs=0.4)
    motion = np.stack([field.motion for field in fields[1:]])
    inside = motion[:, 4:-4, 4:-4]  # nothing there has come from outside of the frame
    assert (np.abs(inside - velocity).max(axis=-1) < layer.spatial_stride).mean() > 0.95


def test_what_stands_still_has_no_motion(classifier, tmp_path):
    video = write_video(tmp_path / "v.mp4", (0, 0))
    for layer in correlation_layers(classifier.model):
        for field in motion_fields(classifier, str(video), layer):
            assert np.abs(field.motion).max() < 0.1 * layer.spatial_stride
    with av.open(str(tmp_path / "gray.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for number in range(9):  # a flat picture that grows brighter
            pixels = np.full((SIDE, SIDE, 3), 100 + 5 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    first = correlation_layers(classifier.model)[0]
    for field in motion_fields(classifier, str(tmp_path / "gray.mp4"), first):
        assert np.abs(np.median(field.motion.reshape(-1, 2), axis=0)).max() < 0.1 * first.spatial_stride


@pytest.mark.parametrize(
    "options", [{"corr_searched": "current"}, {"corr_dilation": 2}, {"corr_block": "concat"}]
)
def test_the_field_is_that_of_the_video_however_the_layer_is_built(options, tmp_path):
    classifier = make_classifier(**options)
    video = write_video(tmp_path / "v.mp4", (3, -2))
    layer = chosen_layers(classifier.video_model, ["res2.corr"])[0]
    assert layer.reach == 2 * options.get("corr_dilation", 1)
    motion = np.stack([field.motion for field in motion_fields(classifier, str(video), layer)][1:])
    assert np.median(motion.reshape(-1, 2), axis=0) == pytest.approx((3, -2), abs=0.4)


@pytest.mark.parametrize(
    ("name", "spacing", "num_frames", "numbers"),
    [
        ("res2.corr", {}, 15, range(15)),  # two windows that share a frame
        ("res2.corr", {}, 17, range(17)),  # the last one is short
        ("res2.corr", {}, 3, range(3)),  # shorter than a clip
        ("res2.corr", {}, 1, [0]),
        ("res2.corr", {"frame_stride": 2}, 20, range(0, 20, 2)),
        ("res2.corr", {"fps": 12.5}, 20, range(0, 20, 2)),
        ("res2.corr", {"fps": 50.0}, 15, range(15)),  # each frame once
        ("res4.corr", {}, 15, range(0, 15, 2)),  # temporal stride 2
    ],
)
def test_every_frame_has_one_field(name, spacing, num_frames, numbers, tmp_path):
    classifier = make_classifier(CLIP.model_copy(update=spacing))
    layer = chosen_layers(classifier.video_model, [name])[0]
    video = str(write_video(tmp_path / "v.mp4", (1, 0), num_frames))
    fields = list(motion_fields(classifier, video, layer))
    assert [field.number for field in fields] == list(numbers)
    assert [field.seconds for field in fields] == pytest.approx([number / 25 for number in numbers])
    assert all(np.abs(field.motion).max() > 0 for field in fields[1:])
    some = list(motion_fields(classifier, video, layer, max_frames=5))
    assert [field.number for field in some] == [number for number in numbers if number < 5]


def test_colors_are_directions_and_arrows_end_at_their_position(classifier):
    directions = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=np.float32)
    colors, weights = motion_colors(4 * directions, 16)
    assert weights == pytest.approx([0.5] * 4)
    assert colors[0].tolist() == [255, 0, 0] and colors[2].tolist() == [0, 255, 255]
    assert len({tuple(color) for color in colors.tolist()}) == 4
    layer = correlation_layers(classifier.model)[0]
    motion = np.zeros((16, 16, 2), dtype=np.float32)
    still = MotionField(1, 0.04, np.full((32, 32, 3), 90, dtype=np.uint8), motion.copy(), motion[..., 0])
    motion[9, 9] = (-4, 0)  # arrows are at odd positions here
    moved = MotionField(1, 0.04, still.picture, motion, motion[..., 0])
    before, after = (np.asarray(draw_field(field, layer)).astype(int) for field in (still, moved))
    changed = np.abs(after - before).max(axis=-1)[:448] > 60
    rows, columns = np.nonzero(changed)
    tip = 9.5 * 28
    assert columns.min() == pytest.approx(tip, abs=4 + 14)  # the colored position is around the tip
    assert columns.max() == pytest.approx(tip + 4 * 14, abs=4)
    assert rows.min() > tip - 16 and rows.max() < tip + 16


@pytest.mark.slow
def test_the_command_draws_motion(folder, tmp_path):
    command = ("visualize", "motion", folder / "corrnet", folder / "moving.mp4", "-o")
    assert "motion by res2.corr: " in corrnet(*command, tmp_path / "m.mp4")
    with av.open(str(tmp_path / "m.mp4")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 15 and (frames[0].width, frames[0].height) == (448, 520)
    assert [frame.time for frame in frames] == pytest.approx([number / 25 for number in range(15)])
    corrnet(*command, tmp_path / "m.png", "--layer", "res3.corr", "--max-frames", 6)
    assert Image.open(tmp_path / "m.png").size == (4 * 448, 2 * 520)  # five frames in two rows
    corrnet(*command, tmp_path / "m.html")
    page = (tmp_path / "m.html").read_text()
    assert page.count('<img src="data:image/jpeg') == 8 and "http" not in page.replace("http-equiv", "")
    assert count_frames(str(folder / "moving.mp4")) == 15 and count_frames("camera:0") is None
    assert "median → 3.0 px ↑ 2.0 px" in page and "reaches 2 positions, 4 pixels" in page
    for arguments, message in (
        (
            (folder / "r2d", folder / "moving.mp4", "-o", tmp_path / "x.mp4"),
            "no correlation layers; CorrNet has",
        ),
        (
            (*command[2:], tmp_path / "x.mp4", "--layer", "res5.corr"),
            "this model has res2.corr, res3.corr, res4.corr",
        ),
        ((*command[2:], tmp_path / "x.gif"), "x.gif: expected a file that ends with .mp4 or .png or .html"),
        (
            (folder / "corrnet", folder / "none.mp4", "-o", tmp_path / "x.mp4"),
            "no file or folder",
        ),
    ):
        assert message in corrnet("visualize", "motion", *arguments, code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.html", "m.mp4", "m.png"]


def test_ctrl_c_ends_with_the_frames_until_then(folder, tmp_path, monkeypatch):
    match = motion.match_frames

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return match(*arguments)

    monkeypatch.setattr(motion, "match_frames", interrupted)
    command = ("visualize", "motion", folder / "corrnet", folder / "moving.mp4", "-o", tmp_path / "m.mp4")
    assert "interrupted; the file has the frames until then" in corrnet(*command, code=130)
    with av.open(str(tmp_path / "m.mp4")) as container:
        assert len(list(container.decode(video=0))) == 1


@pytest.mark.slow
def test_the_command_draws_the_filters_of_every_layer(folder, classifier, tmp_path):
    command = ("visualize", "filters", folder / "corrnet", "-o")
    assert "filters of res2.corr, res3.corr, res4.corr: " in corrnet(*command, tmp_path / "f.html")
    page = (tmp_path / "f.html").read_text()
    assert page.count("<svg") == 3 and "http" not in page.replace("http-equiv", "")
    assert "res4.corr: 4 × 64 × 5 × 5, 8 groups of 8 channels" in page
    ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(set(ids)) == len(ids)
    corrnet(*command, tmp_path / "f.png")
    corrnet(*command, tmp_path / "g.png", "--layer", "res2.corr", "--max-frames", 2, "--max-channels", 16)
    all_layers, one = (Image.open(tmp_path / name) for name in ("f.png", "g.png"))
    assert all_layers.height > 2 * one.height and one.width > all_layers.width
    assert "f.svg: expected a file that ends with .html or .png" in corrnet(
        *command, tmp_path / "f.svg", code=2
    )
    assert "no correlation layers" in corrnet("visualize", "filters", folder / "r2d", code=2)


def test_filters_that_frames_share_are_drawn_and_missing_ones_are_named(tmp_path):
    shared = correlation_layers(make_classifier(corr_filters="shared").video_model)
    write_filters(shared, tmp_path / "f.html", title="shared")
    assert "res2.corr: 1 × 16 × 5 × 5" in (tmp_path / "f.html").read_text()
    without = correlation_layers(make_classifier(corr_filters="none").video_model)
    with pytest.raises(ValueError, match=r"correlates without filters in res2.corr, res3.corr, res4.corr"):
        write_filters(without, tmp_path / "f.html", title="none")


def test_the_picture_of_filters_shows_their_weights(classifier, tmp_path):
    layer = correlation_layers(make_classifier().video_model)[0]
    pictures = []
    for row, column in itertools.product((0, 4), (0, 4)):
        with torch.no_grad():
            layer.module.weight.fill_(1.0)
            layer.module.weight[:, :, row, column] = 2.0
        write_filters([layer], tmp_path / "f.png", title="x", max_frames=1, max_channels=1)
        pictures.append((tmp_path / "f.png").read_bytes())
    images = [np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int) for picture in pictures]
    orange = [np.argwhere((image[..., 0] > 220) & (image[..., 2] < 140)).mean(axis=0) for image in images]
    top_left, top_right, bottom_left, bottom_right = orange
    assert top_left[1] < top_right[1] and bottom_left[1] < bottom_right[1]
    assert top_left[0] < bottom_left[0] and top_right[0] < bottom_right[0]


def test_a_layer_that_sees_one_frame_or_position_matches_nothing(tmp_path):
    classifier = make_classifier(CLIP.model_copy(update={"num_frames": 4}))
    layer = correlation_layers(classifier.model)[0]
    video = str(write_video(tmp_path / "v.mp4", (1, 0), 5))
    assert len(list(motion_fields(classifier, video, layer))) == 5
    single = make_classifier(CLIP.model_copy(update={"num_frames": 2}), temporal_strides=(1, 1, 2, 1))
    last = correlation_layers(single.model)[-1]
    with pytest.raises(ValueError, match=r"res4.corr sees 1 frame of a clip"):
        next(motion_fields(single, video, last))
    point = make_classifier(corr_kernel_size=1)
    with pytest.raises(ValueError, match=r"the window of res2.corr is one position: it cannot match motion"):
        next(motion_fields(point, video, correlation_layers(point.model)[0]))
    with pytest.raises(ValueError, match="no frames to draw"):
        write_motion([], layer, tmp_path / "x.png", title="x")
