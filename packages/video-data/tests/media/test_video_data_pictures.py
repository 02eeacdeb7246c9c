"""Folders of pictures: which pictures are the frames, in which order, and which folders are refused."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from video_data import ClipConfig, PackOptions, VideoError, decode_views
from video_data.datasets import Entry
from video_data.loading.live import open_frames
from video_data.media.pictures import list_pictures, motion_jpeg
from video_data.media.planes import to_rgb
from video_data.packing._ingest import load


@pytest.fixture
def put(make_picture, tmp_path):
    """Writes pictures that show the numbers 0, 1, ... under the given names, and returns their folder."""

    def write(*names: str) -> Path:
        for number, name in enumerate(names):
            codec = "png" if name.endswith("png") else "mjpeg"
            (tmp_path / name).write_bytes(make_picture(number, (64, 64), codec=codec))
        return tmp_path

    return write


def shown(path: Path, frame_numbers) -> list[int]:
    """Numbers that a clip of all frames shows."""
    clip = ClipConfig(num_frames=len(list_pictures(path)), crop_size=64, short_side=(64, 64))
    return frame_numbers(decode_views(path, clip, 1)[0].permute(1, 2, 3, 0).numpy())


@pytest.mark.parametrize(
    "pattern",
    [
        "{}.jpg",
        "img_{:05d}.jpg",
        "{:03d}.png",
        "0{}.jpg",
        "video2_frame{}_left.JPG",
        "1.2_{}.jpeg",
        "frame-{}.jpg",
    ],
)
@pytest.mark.parametrize("first", [0, 1, 95])
def test_the_number_in_the_names_is_the_order(pattern, first, put, frame_numbers):
    folder = put(*(pattern.format(number) for number in range(first, first + 12)))
    assert shown(folder, frame_numbers) == list(range(12))
    with open_frames(str(folder)) as frames:
        assert len(list(frames)) == 12


def test_numbers_may_outgrow_their_padding_and_go_up_by_another_step(put, frame_numbers):
    folder = put("0998.jpg", "0999.jpg", "1000.jpg")
    assert shown(folder, frame_numbers) == [0, 1, 2]
    for path in folder.iterdir():
        path.unlink()
    assert shown(put("00000.jpg", "00005.jpg", "00010.jpg", "00015.jpg"), frame_numbers) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["img_1.jpg", "img_2.jpg", "flow_x_1.jpg", "flow_x_2.jpg"], "flow_x_*.jpg (2), img_*.jpg (2)"),
        (["1.jpg", "2.jpg", "1.png", "2.png"], "*.jpg (2), *.png (2)"),
        (["cam1_1.jpg", "cam1_2.jpg", "cam2_1.jpg"], "cam1_*.jpg (2), cam2_*.jpg (1)"),
        (["1.jpg", "2.jpg", "thumbnail.jpg"], "*.jpg (2), thumbnail.jpg (1)"),
        (["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"], "d.jpg (1) and 1 more"),
        (["1.jpg", "2.JPG"], "*.JPG (1), *.jpg (1)"),
        (["1.jpg", "2.jpg", "4.jpg", "5.jpg", "9.jpg"], "2 gaps in their numbers, the first after 2.jpg, before 4.jpg"),
        (["00001.jpg", "00003.jpg"], "1 gap in their numbers"),
        (["1.jpg", "01.jpg", "2.jpg"], "two pictures have the number 1: 01.jpg and 1.jpg"),
    ],
)  # fmt: skip
def test_what_is_not_one_sequence_without_gaps_is_refused(names, message, put):
    folder = put(*names)
    with pytest.raises(VideoError) as error:
        list_pictures(folder)
    assert message in str(error.value)
    with pytest.raises(VideoError, match=r"sequences of pictures|missing|have the number"):
        decode_views(folder, ClipConfig(num_frames=1, crop_size=32), 1)


def test_a_pattern_says_which_sequence_is_meant(put, frame_numbers):
    folder = put("img_1.jpg", "flow_x_1.jpg", "img_2.jpg", "flow_x_2.jpg", "img_10.jpg", "old_img_1.jpg")
    assert shown(folder / "flow_x_*.jpg", frame_numbers) == [1, 3]
    clip = ClipConfig(num_frames=2, crop_size=64, short_side=(64, 64))
    assert torch.equal(
        decode_views(str(folder / "flow_x_*.jpg"), clip, 1), decode_views(folder / "flow_x_*.jpg", clip, 1)
    )
    with pytest.raises(VideoError, match=r"1 gap .* after img_2.jpg, before img_10.jpg"):
        list_pictures(folder / "img_*.jpg")
    with pytest.raises(VideoError, match=r"no pictures rgb_\*.jpg in this folder"):
        list_pictures(folder / "rgb_*.jpg")
    with open_frames(str(folder / "flow_x_*.jpg")) as frames:
        assert len(list(frames)) == 2


@pytest.mark.parametrize("pattern", ["img_*_*.jpg", "*/img_*.jpg", "*/img_1.jpg", "**/*.jpg"])
def test_a_pattern_has_one_star_in_the_names_of_pictures_alone(pattern, put):
    folder = put("img_1_1.jpg", "img_1_2.jpg")
    for read in (
        list_pictures,
        lambda path: decode_views(path, ClipConfig(num_frames=1, crop_size=32), 1),
        lambda path: open_frames(str(path)).__enter__(),
    ):
        with pytest.raises(VideoError, match=r"needs one \*, which stands for the number in the names"):
            read(folder / pattern)


def test_a_star_may_be_a_part_of_names(put, frame_numbers):
    folder = put("img_1.jpg", "img_2.jpg")
    starred = folder.rename(folder.with_name("a*b"))
    assert shown(starred / "img_*.jpg", frame_numbers) == [0, 1]
    (starred / "img_2.jpg").rename(starred / "img_*.jpg")
    with pytest.raises(VideoError, match="a picture, not a video"):
        decode_views(starred / "img_*.jpg", ClipConfig(num_frames=1, crop_size=32), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"", "2.jpg is empty"),
        (lambda content: content[: len(content) // 2], "2.jpg ends early"),
        (lambda content: content[:-2], "2.jpg ends early"),
        (lambda content: content[:-100] + bytes(100), "2.jpg ends early"),
        # The end-of-image marker of a thumbnail in a segment is not that of the picture.
        (lambda content: content[:2] + b"\xff\xe1\x00\x06\xff\xd8\xff\xd9" + content[2:-2], "2.jpg ends early"),
        (lambda content: content[:-60] + b"\xff\xd9", "2.jpg: InvalidDataError"),
    ],
)  # fmt: skip
def test_empty_and_cut_jpeg_pictures_are_named(change, message, put):
    folder = put("1.jpg", "2.jpg", "3.jpg")
    path = folder / "2.jpg"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(VideoError, match=message):
        motion_jpeg(list_pictures(folder), Fraction(25))
    with pytest.raises(VideoError, match=message):
        decode_views(folder, ClipConfig(num_frames=3, crop_size=32), 1)


def test_what_follows_the_end_of_a_jpeg_picture_does_not_matter(put, frame_numbers):
    folder = put("1.jpg", "2.jpg")
    (folder / "2.jpg").write_bytes((folder / "2.jpg").read_bytes() + b"written by the camera")
    assert shown(folder, frame_numbers) == [0, 1]


@pytest.mark.parametrize("change", [lambda content: content[:-20], lambda content: content[:-30] + bytes(30)])
def test_cut_png_pictures_are_named(change, put):
    folder = put("1.png", "2.png")
    path = folder / "2.png"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(VideoError, match=r"2.png: "):
        decode_views(folder, ClipConfig(num_frames=2, crop_size=32), 1)


@pytest.mark.parametrize("modes", ["L", "CMYK", "keep_rgb", ("RGB", "L", "CMYK", "keep_rgb")])
def test_jpeg_pictures_of_all_colors_are_kept_bit_for_bit_and_shown_right(modes, tmp_path):
    image = pytest.importorskip("PIL.Image")
    modes = (modes,) * 4 if isinstance(modes, str) else modes
    colors = []
    for number, mode in enumerate(modes):
        options = {"keep_rgb": True, "subsampling": 0} if mode == "keep_rgb" else {}
        picture = image.new("RGB", (64, 48), (200, 40 * number, 90)).convert("RGB" if options else mode)
        colors.append(picture.convert("RGB").getpixel((0, 0)))
        picture.save(tmp_path / f"{number}.jpg", quality=95, **options)
    clip = ClipConfig(num_frames=4, crop_size=32, short_side=(32, 32))
    for pixels in ("rgb", "yuv"):
        video = decode_views(tmp_path, clip, 1, pixels=pixels)
        shown = (video if pixels == "rgb" else to_rgb(video)).float()
        assert shown[0].mean((-1, -2)).T.tolist() == [pytest.approx(color, abs=6) for color in colors]
    for mode in ("copy", "reencode"):
        loaded = load(Entry(tmp_path, "x", "train", "a", frame_rate=Fraction(25)), PackOptions(mode=mode))
        assert (loaded.info.codec, loaded.info.num_frames, loaded.info.num_damaged) == ("mjpeg", 4, 0)
        assert all((tmp_path / f"{number}.jpg").read_bytes() in loaded.content for number in range(4))


def test_the_content_of_a_picture_counts_not_its_ending(put, make_picture, frame_numbers):
    folder = put(*(f"{number}.jpg" for number in range(20)))
    (folder / "7.jpg").write_bytes(make_picture(7, (64, 64), codec="png"))
    assert shown(folder, frame_numbers) == list(range(20))
    entry = Entry(folder, "x", "train", "a", frame_rate=Fraction(25))
    loaded = load(entry, PackOptions())
    assert (loaded.info.codec, loaded.info.num_frames, loaded.info.num_damaged) == ("h264", 20, 0)
    assert load(entry, PackOptions(mode="copy")).reason.startswith("pictures that are not all JPEG")
