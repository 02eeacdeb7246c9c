"""Class names of any script on pictures, and pictures as a video."""

import av
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image, ImageDraw

from corrnet_train.inference.classifier import Prediction
from corrnet_train.report.figures import video
from corrnet_train.report.figures.video import VideoWriter, draw_classes, text_font


def ink(text):
    """The pixels that a text colors."""
    image = Image.new("L", (400, 40))
    ImageDraw.Draw(image).text((2, 2), text, font=text_font(text, 24), fill=255)
    return np.asarray(image)


@pytest.mark.parametrize("name", ["Γυμναστική", "Прыжки в воду", "Über", "Հայերեն", "العربية"])
def test_names_are_drawn_in_their_script(name, caplog):
    characters = sorted(set(name) - {" "})
    pictures = {char: ink(char).tobytes() for char in characters}
    assert len(set(pictures.values())) == len(characters)  # boxes in place of characters would be alike
    assert not caplog.text


def test_a_font_of_the_system_draws_what_dejavu_lacks(tmp_path, monkeypatch):
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "jump"])
    builder.setupCharacterMap({ord("跳"): "jump"})
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    pen.lineTo((900, 900))
    pen.lineTo((900, 0))
    pen.closePath()
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "jump": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "jump": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Jump", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "jump.ttf")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(tmp_path / "jump.ttf")
    video._best_font.cache_clear()
    assert text_font("跳", 20).getname()[0] == "Jump"
    assert ink("跳").any()
    video._best_font.cache_clear()


def test_characters_that_no_font_has_are_named_once_and_drawn_as_boxes(monkeypatch, caplog):
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    monkeypatch.setattr(video, "_warned", set())
    video._best_font.cache_clear()
    image = Image.new("RGB", (128, 96))
    prediction = Prediction(["跳水", "diving\nboard\x00", "跳"], [0.5, 0.3, 0.2])
    draw_classes(image, prediction, 3)
    draw_classes(image, prediction, 3)
    assert np.asarray(image).max() > 200
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "no font of this system draws 水跳"
    ]
    video._best_font.cache_clear()


def test_pictures_become_a_video_with_their_times(tmp_path):
    with VideoWriter(tmp_path / "a.mp4") as writer:
        for number in range(4):
            writer.add(Image.new("RGB", (33, 21), (60 * number,) * 3), 0.1 * number)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [(32, 20)] * 4
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [frame.to_ndarray(format="gray").mean() for frame in frames] == pytest.approx(
        [0, 60, 120, 180], abs=3
    )


def test_a_video_without_an_end_leaves_no_file(tmp_path):
    with pytest.raises(KeyError), VideoWriter(tmp_path / "a.mp4") as writer:
        writer.add(Image.new("RGB", (32, 32)), 0)
        raise KeyError
    with pytest.raises(ValueError, match="no pictures to write to"), VideoWriter(tmp_path / "a.mp4"):
        pass
    assert not list(tmp_path.iterdir())
