"""`corrnet verify` and `corrnet inspect`: what they print, write and exit with."""

import json
import shutil
import sys
from html.parser import HTMLParser

import matplotlib.image
import pytest
from typer.testing import CliRunner

from corrnet_train.cli import app
from video_data import PackOptions, open_shards, pack_folder

runner = CliRunner()


def corrnet(*arguments, code=0):
    result = runner.invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_the_commands_have_help_with_examples(command):
    output = corrnet(command, "--help")
    assert f"corrnet {command} data/shards" in output


def test_verify_exits_with_0_for_a_sound_set(motionbench, tmp_path):
    output = corrnet("verify", motionbench[1], "--num-workers", 1, "--json", tmp_path / "report.json")
    assert "0 problems" in output and "56 of 56 samples, decoded 672 frames" in output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["problems"] == [] and report["num_frames"] == 672


def test_verify_lists_problems_and_exits_with_1(motionbench, tmp_path):
    folder = shutil.copytree(motionbench[1], tmp_path / "shards")
    record = open_shards(folder).sample("test", 3)
    tar = folder / "test-000000.tar"
    content = bytearray(tar.read_bytes())
    content[record.offset + 50] ^= 4
    tar.write_bytes(content)
    output = corrnet(
        "verify", folder, "--no-decode", "--num-workers", 1, "--json", tmp_path / "report.json", code=1
    )
    assert record.key in output and record.source in output
    assert "1 x hash is not the one in the index" in output and "not decoded" in output
    problems = json.loads((tmp_path / "report.json").read_text())["problems"]
    assert [problem["key"] for problem in problems] == ["", record.key]


def test_verify_of_a_folder_without_shards_exits_with_2(tmp_path):
    assert "is not a finished shard set" in corrnet("verify", tmp_path, code=2)


class Page(HTMLParser):
    """What a page shows and loads."""

    def __init__(self, text):
        super().__init__()
        self.text, self.images, self.charts, self.links = "", [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.charts += tag == "svg"
        if tag == "img":
            self.images.append(values["src"])
        self.links += [
            value for name, value in attributes if name in ("src", "href") and value[:1] not in "#d"
        ]
        assert tag != "script"

    def handle_data(self, data):
        self.text += data


def test_inspect_prints_what_is_there(motionbench, tmp_path):
    output = corrnet("inspect", motionbench[1], "--per-class", "--json", tmp_path / "inspection.json")
    for text in (
        "split train", "32 samples in 3 shards", "384 frames", "40x40 (56)", "h264 (56)", "mode copy",
        "16 of 16 listed videos packed (100.0%), 0 missing", "up-left", open_shards(motionbench[1]).manifest_hash,
    ):  # fmt: skip
        assert text in output, text
    values = json.loads((tmp_path / "inspection.json").read_text())
    assert values["splits"]["test"]["num_samples"] == 16


def test_sheets_show_clips_of_each_class(motionbench, tmp_path):
    options = ("--clips", 1, "--frames", 4, "--num-workers", 1)
    corrnet("inspect", motionbench[1], "--sheet", tmp_path / "sheet.html", "--split", "test", *options)
    page = Page((tmp_path / "sheet.html").read_text())
    assert len(page.images) == 8 and all(image.startswith("data:image/jpeg") for image in page.images)
    assert page.charts == 6 and page.links == []
    assert "8 of 8 classes" in page.text and "384 frames" in page.text
    corrnet("inspect", motionbench[1], "--sheet", tmp_path / "sheet.png", "--num-classes", 3, *options)
    picture = matplotlib.image.imread(tmp_path / "sheet.png")
    assert picture.shape[:2] == (2 * 16 + 2 * 22 + 3 * (22 + 22 + 96 + 4), 832)
    assert picture[-60:-20, 16:400, :3].std() > 0.05  # the last strip


def test_a_sheet_shows_damaged_samples_and_strange_names(motionbench, tmp_path):
    for label in ("<script>alert(1)</script> $x^", "plain"):
        (tmp_path / "videos" / label.replace("/", "_")).mkdir(parents=True)
    videos = sorted(motionbench[0].rglob("*.mp4"))
    for folder, video in zip((tmp_path / "videos").iterdir(), videos, strict=False):
        shutil.copy(video, folder / "clip.mp4")
    shards = tmp_path / "shards"
    pack_folder(tmp_path / "videos", shards, options=PackOptions(mode="copy"), progress=False)
    record = open_shards(shards).sample("train", 0)
    tar = shards / "train-000000.tar"
    content = bytearray(tar.read_bytes())
    content[record.offset : record.offset + record.size] = bytes(record.size)
    tar.write_bytes(content)
    for name in ("sheet.html", "sheet.png"):
        corrnet("inspect", shards, "--sheet", tmp_path / name, "--num-workers", 1)
    page = Page((tmp_path / "sheet.html").read_text())
    assert "cannot be read: " in page.text and "<script>alert(1)" in page.text and len(page.images) == 1


def test_a_sheet_of_another_kind_is_refused_before_work(motionbench, tmp_path):
    too_many = ("--sheet", tmp_path / "sheet.png", "--clips", 100)
    assert "8 classes with 100 clips need 97852 rows" in corrnet("inspect", motionbench[1], *too_many, code=2)
    assert ".html or .png" in corrnet("inspect", motionbench[1], "--sheet", tmp_path / "sheet.pdf", code=2)
    assert "no split 'val2'" in corrnet(
        "inspect", motionbench[1], "--sheet", tmp_path / "s.png", "--split", "val2", code=2
    )


def test_pack_with_flow_stores_it_or_names_the_extra(motionbench, tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    few = tmp_path / "few.csv"
    lines = (motionbench[0] / "val.csv").read_text().splitlines()
    few.write_text("\n".join(lines[:4]) + "\n")
    arguments = (
        "pack",
        "csv",
        few,
        tmp_path / "shards",
        "--root",
        motionbench[0],
        "--flow",
        "--num-workers",
        1,
    )
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cv2", None)
        assert "video-data[flow]" in corrnet(*arguments, code=2)
    corrnet(*arguments)
    assert open_shards(tmp_path / "shards").has_flow
    assert "optical flow" in corrnet("inspect", tmp_path / "shards")
