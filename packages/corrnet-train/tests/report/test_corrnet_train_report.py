import base64
import errno
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from PIL import Image
from pydantic import ValidationError
from rich.console import Console

from corrnet_train import report
from corrnet_train.report.figures import confusion, style
from corrnet_train.report.figures.confusion import confusion_figure, worst_confusion
from corrnet_train.report.figures.curves import loss_figure, smoothing_window
from corrnet_train.report.figures.filters import filter_figure, largest_offsets
from corrnet_train.report.figures.style import INK, inline, plain_label
from corrnet_train.report.pages.comparison import write_report
from corrnet_train.report.results import CurvePoint, Curves, Results
from corrnet_train.report.samples import SampleView, frame_images, moving_image
from corrnet_train.report.stats import running_mean, wilson_interval
from corrnet_train.report.table import format_count, format_duration, format_number, results_table

CLASSES = ["down", "left", "up"]


def model_record(name="corrnet", **changes):
    record = {
        "name": name,
        "run_dir": f"{name}-run",
        "params": 1_234_567,
        "gmacs": 0.0514,
        "clip_top1": 0.7125,
        "video_top1": 0.8,
        "clip_top5": 0.9375,
        "video_top5": 0.9625,
        "num_videos": 20,
        "clips_per_second": 215.4,
        "train_seconds": 125.0,
        "num_steps": 90,
        "batch_size": 32,
        "confusion": [[6, 1, 0], [0, 5, 2], [1, 0, 5]],
        "fingerprint": {"decoder": "codec-9.8", "views": 10, "scale": 0.75},
        "curve": [
            {"step": step, "epoch": step / 30, "loss": 2 - step / 50, "top1": step / 100, "lr": 0.1}
            for step in range(10, 91, 10)
        ],
        "evals": [{"step": step, "score": step / 120} for step in (30, 60, 90)],
    }
    return record | changes


def make_results(*models, classes=CLASSES, **changes):
    record = {
        "title": "A comparison",
        "created": "2026-01-02T03:04:05+00:00",
        "environment": {"torch": "9.9.9", "cpu": "a processor"},
        "dataset": {
            "name": "Motions",
            "manifest_hash": "sha256:cafe",
            "classes": classes,
            "num_train": 1600,
            "num_test": 20,
            "num_clips": 10,
        },
        "seed": 7,
        "seconds_total": 3723.0,
        "models": list(models) or [model_record()],
    }
    return Results.model_validate(record | changes)


def make_sample(**changes):
    fields = {
        "key": "clip-0001",
        "frames": torch.arange(4 * 6 * 6 * 3).reshape(4, 6, 6, 3).to(torch.uint8),
        "true_class": "left",
        "predictions": {"corrnet": [("left", 0.625), ("up", 0.25), ("down", 0.125)]},
    }
    return SampleView(**(fields | changes))


class Page(HTMLParser):
    """The parts of a page that tests ask about."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.open, self.texts = [], [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend((tag, *pair) for pair in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend((tag, *pair) for pair in attrs)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def values(self, name):
        return [value for _, attribute, value in self.attributes if attribute == name]


def write_page(path, results, **inputs):
    write_report(results, path, **inputs)
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert not page.open
    return source, page


def test_page_shows_every_part(tmp_path):
    models = [model_record("r2d"), model_record("r2plus1d"), model_record("corrnet")]
    weight = torch.randn(4, 5, 7, 7, generator=torch.Generator().manual_seed(0))
    _, page = write_page(
        tmp_path / "new" / "report.html",
        make_results(*models),
        filters={"corrnet": weight},
        samples=[make_sample()],
    )
    for heading in ("Comparison", "Learning curves", "Confusion matrices", "Test clips"):
        assert heading in page.text
    assert "corrnet, first correlation block:" in page.text
    assert "4 × 5 × 7 × 7" in page.text
    for name in ("r2d", "r2plus1d", "corrnet"):
        # The table, the legend, the confusion matrix and the fingerprint.
        assert page.texts.count(name) >= 4
    # Two curves, three confusion matrices and the filters; three lines of the legend.
    assert page.tags.count("svg") == 6 + 3
    assert page.tags.count("img") == 5  # four frames, and all of them as they move
    labels = page.values("aria-label")
    last = "r2d 0.200; r2plus1d 0.200; corrnet 0.200"
    assert len(labels) == 7
    assert f"Line chart of training loss over steps. Last values: {last}." in labels
    summary = "16 of 20 videos right; most frequent mistake: left taken for up (2)."
    assert f"Confusion matrix of r2d: {summary}" in labels


def test_page_states_the_numbers_of_the_results(tmp_path):
    _, page = write_page(tmp_path / "report.html", make_results(model_record()))
    low, high = wilson_interval(16, 20)
    for number in (
        "1.23 M",
        "0.051",
        "71.2 %",
        "80.0 %",
        f"{100 * low:.1f} to {100 * high:.1f}",
        "215",
        "2 min 05 s",
        "1234567",
        "90 × 32",
        "93.8 %, 96.2 %",
        "1,600",
        "1 h 02 min",
        "2 January 2026, 03:04 UTC",
        "sha256:cafe",
        "codec-9.8",
        "9.9.9",
        "a processor",
        "corrnet-run",
    ):
        assert number in page.text, number


def test_page_loads_nothing_from_elsewhere(tmp_path):
    source, page = write_page(
        tmp_path / "report.html",
        make_results(model_record()),
        filters={"corrnet": torch.randn(2, 2, 3, 3)},
        samples=[make_sample()],
    )
    assert not re.search(r"https?:|[\"'(]//", source)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.values("src")
    assert all(value.startswith("data:image/png;base64,") for value in page.values("src"))
    links = page.values("href") + page.values("xlink:href")
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in links)
    assert "default-src 'none'" in source


def test_ids_are_unique_and_every_reference_resolves(tmp_path):
    source, page = write_page(
        tmp_path / "report.html",
        make_results(model_record("a"), model_record("b")),
        filters={"a": torch.randn(2, 2, 3, 3), "b": torch.randn(2, 2, 3, 3)},
    )
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', source)
    assert references
    assert {first or second for first, second in references} <= set(ids)


def test_page_has_light_and_dark_colors_and_no_stand_in_left(tmp_path):
    source, _ = write_page(tmp_path / "report.html", make_results(model_record("a"), model_record("b")))
    assert "prefers-color-scheme: dark" in source
    assert "currentColor" in source
    assert "stroke: var(--series-1)" in source
    assert not re.search(r"#010[12]0[0-9a-f]", source)
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", source))
    light, dark = re.findall(r":root \{(.*?)\}", source, flags=re.DOTALL)
    colors = {name for name in used if name not in {"--color", "--low", "--high", "--at"}}
    assert all(f"{name}:" in light and f"{name}:" in dark for name in colors)


def test_untrusted_text_is_escaped(tmp_path):
    evil = '"><script>alert(1)</script></svg>&$\\frac{'
    results = make_results(
        model_record(evil, fingerprint={evil: evil}, run_dir=evil),
        classes=[evil, "left", "日本\x00\n"],
        title=evil,
        environment={evil: evil},
    )
    sample = make_sample(key=evil, true_class=evil, predictions={evil: [(evil, 0.5), (evil, 0.25)]})
    source, page = write_page(
        tmp_path / "report.html", results, filters={evil: torch.randn(1, 1, 3, 3)}, samples=[sample]
    )
    assert "script" not in page.tags
    assert "<script" not in source
    assert page.text.count(evil) > 8


def test_best_values_are_marked(tmp_path):
    first = model_record("first", params=10, video_top1=0.8)
    second = model_record("second", params=20, video_top1=0.9)
    source, _ = write_page(tmp_path / "report.html", make_results(first, second))
    best = re.findall(r'<span class="best">([^<]+)<', source)
    assert best == ["10", "90.0 %"]


def test_single_model_has_no_best(tmp_path):
    source, page = write_page(tmp_path / "report.html", make_results())
    assert 'class="best"' not in source
    assert "describes one video classification model" in page.text


def test_sections_without_data_are_left_out(tmp_path):
    bare = model_record(curve=[], evals=[])
    _, page = write_page(tmp_path / "report.html", make_results(bare))
    assert "Learning curves" not in page.text
    assert "Test clips" not in page.text
    assert "Learned correlation filters" not in page.text
    assert page.tags.count("svg") == 1


def test_many_models_share_no_line_style(tmp_path):
    models = [model_record(f"model-{index}") for index in range(8)]
    source, _ = write_page(tmp_path / "report.html", make_results(*models))
    lines = re.findall(r'<li><svg.*?stroke="([^"]+)" stroke-width="2"( stroke-dasharray="[^"]+")?', source)
    assert len(lines) == len(set(lines)) == 8


def test_same_inputs_give_the_same_page(tmp_path):
    inputs = {"filters": {"corrnet": torch.eye(3).reshape(1, 1, 3, 3)}, "samples": [make_sample()]}
    first, _ = write_page(tmp_path / "a.html", make_results(), **inputs)
    second, _ = write_page(tmp_path / "b.html", make_results(), **inputs)
    assert first == second


def test_right_and_wrong_predictions_are_told_apart(tmp_path):
    predictions = {"a": [("left", 0.5), ("up", 0.375)], "b": [("up", 0.75), ("left", 0.25)]}
    _, page = write_page(
        tmp_path / "report.html",
        make_results(model_record("a"), model_record("b")),
        samples=[make_sample(predictions=predictions)],
    )
    assert "✓ right: left 50.0 % up 37.5 %" in page.text
    assert "✗ wrong: up 75.0 % left 25.0 %" in page.text


@pytest.mark.parametrize(
    "inputs", [{"filters": {"other": torch.ones(1, 1, 3, 3)}}, {"samples": [make_sample()]}]
)
def test_inputs_for_unknown_models_are_refused(tmp_path, inputs):
    with pytest.raises(ValueError, match="may only name models of the results"):
        write_report(make_results(model_record("a")), tmp_path / "report.html", **inputs)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_page_and_no_other_file(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_report(make_results(), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


def test_failed_figure_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="finite"):
        write_report(
            make_results(), tmp_path / "report.html", filters={"corrnet": torch.full((1, 1, 3, 3), torch.nan)}
        )
    assert list(tmp_path.iterdir()) == []


def test_results_survive_json():
    results = make_results(model_record("a"), model_record("b"))
    assert Results.model_validate_json(results.model_dump_json()) == results
    assert results.models[0].fingerprint == {"decoder": "codec-9.8", "views": 10, "scale": 0.75}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": []}, "at least 1 item"),
        ({"models": [model_record("a"), model_record("a")]}, "unique"),
        ({"models": [model_record(video_top1=1.5)]}, "less than or equal to 1"),
        ({"models": [model_record(gmacs=float("nan"))]}, "finite"),
        ({"models": [model_record(num_videos=21)]}, "counts 20 videos, num_videos is 21"),
        ({"models": [model_record(confusion=[[20]])]}, "must be 3 x 3"),
        ({"models": [model_record(pixels=[])]}, "Extra inputs"),
        ({"created": "yesterday"}, "isoformat"),
    ],
)
def test_results_refuse_what_contradicts_itself(changes, message):
    with pytest.raises(ValidationError, match=message):
        make_results(**changes)


@pytest.mark.parametrize(
    ("num_right", "num_total", "low", "high"),
    [
        # Newcombe (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_agrees_with_published_values(num_right, num_total, low, high):
    assert wilson_interval(num_right, num_total) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson_interval(num_total - num_right, num_total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize(("num_right", "num_total"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_interval_refuses_impossible_counts(num_right, num_total):
    with pytest.raises(ValueError, match="got"):
        wilson_interval(num_right, num_total)


def test_running_mean_keeps_straight_lines():
    line = [3.0 * index for index in range(9)]
    assert running_mean(line, window=5) == pytest.approx(line)
    assert running_mean([0.0, 3.0, 0.0, 0.0, 0.0], window=3) == pytest.approx([0, 1, 1, 0, 0])


@pytest.mark.parametrize(("num_points", "window"), [(0, 1), (39, 1), (40, 3), (400, 21)])
def test_smoothing_window_is_odd_and_grows_with_the_curve(num_points, window):
    assert smoothing_window(num_points) == window


def test_largest_offsets_point_at_the_largest_weight():
    weight = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    offsets = largest_offsets(weight)
    for frame in range(3):
        for channel in range(4):
            down, right = offsets[frame, channel]
            assert weight[frame, channel, 2 + down, 2 + right] == weight[frame, channel].max()


def test_largest_offsets_prefer_the_centre_among_equals():
    weight = torch.ones(1, 3, 5, 5)
    weight[0, 1, 0, 0] = weight[0, 1, 2, 3] = 2.0
    weight[0, 2, 1, 2] = weight[0, 2, 3, 2] = 2.0
    assert largest_offsets(weight)[0].tolist() == [[0, 0], [0, 1], [-1, 0]]


def arrows(document):
    """Direction of each arrow in a filter figure: from its tail to its tip."""
    group = ElementTree.fromstring(document).find(".//{*}g[@id='Quiver_1']")
    if group is None:
        return []
    outlines = [path.get("d") for path in group.findall("{*}path")]
    # Arrows of one shape are defined once and then placed.
    shapes = {f"#{path.get('id')}": path.get("d") for path in group.findall("{*}defs/{*}path")}
    outlines += [shapes[use.get("{http://www.w3.org/1999/xlink}href")] for use in group.iterfind(".//{*}use")]
    directions = []
    for outline in outlines:
        corners = np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", outline), dtype=float)[:-1]
        # Seven corners, from one side of the tail over the tip to the other side.
        assert len(corners) == 7
        directions.append(corners[3] - (corners[0] + corners[6]) / 2)
    return directions


@pytest.mark.parametrize(("row", "column"), [(0, 3), (6, 3), (3, 0), (3, 6), (0, 0), (6, 6), (0, 6)])
def test_drawn_arrow_points_to_the_largest_weight(row, column):
    weight = torch.ones(1, 1, 7, 7)
    weight[0, 0, row, column] = 2.0
    (arrow,) = arrows(filter_figure(weight, title="one filter"))
    wanted = np.array([column - 3, row - 3])
    cosine = arrow @ wanted / np.linalg.norm(arrow) / np.linalg.norm(wanted)
    assert cosine > 0.999


def test_filter_figure_draws_one_arrow_per_filter_shown():
    weight = torch.ones(10, 9, 3, 3)
    weight[:, :, 0, 0] = 2.0
    assert len(arrows(filter_figure(weight, title="all"))) == 64
    assert len(arrows(filter_figure(weight, max_frames=2, max_channels=3, title="some"))) == 6


@pytest.mark.filterwarnings("error")
def test_filter_figure_wraps_a_long_title():
    document = filter_figure(torch.ones(1, 1, 3, 3), title="many words " * 15)
    lines = re.findall(r"<(?:tspan|text)[^>]*>([^<]*many[^<]*)<", document.decode())
    assert len(lines) > 3
    assert " ".join(lines).split() == ["many", "words"] * 15


def test_filter_figure_of_constant_weights_has_no_arrow_and_a_scale():
    document = filter_figure(torch.full((2, 2, 3, 3), 0.1), title="untrained")
    assert arrows(document) == []
    assert b">0.10<" in document


def test_filter_figure_scale_is_symmetric_about_the_mean():
    weight = torch.ones(1, 1, 3, 3)
    weight[0, 0, 0, 0] = 1.9
    document = filter_figure(weight, title="scale")
    # The mean is 1.1 and the weight farthest from it 0.8 away.
    for label in (b">0.300<", b">1.100<", b">1.900<"):
        assert label in document


def test_filter_figure_scale_resolves_tiny_differences():
    weight = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    weight[0, 0, 0, 0] += 9e-5
    document = filter_figure(weight, title="scale").decode()
    # The mean is 1.00001 and the weight farthest from it 0.00008 away.
    assert {">0.9999300<", ">1.0000100<", ">1.0000900<"} <= set(re.findall(r">\d\.\d+<", document))


def test_filter_figure_colors_keep_image_orientation():
    weight = torch.ones(1, 1, 3, 3)
    weight[0, 0, 0, 2] = 2.0
    document = filter_figure(weight, title="orientation")
    root = ElementTree.fromstring(document)
    image = root.find(".//{*}g[@id='axes_1']//{*}image")
    flipped = "scale(1 -1)" in image.get("transform")
    data = image.get("{http://www.w3.org/1999/xlink}href").split(",", 1)[1]
    pixels = imread(io.BytesIO(base64.b64decode(data)), format="png")
    assert pixels.shape[:2] == (3, 3)
    if flipped:
        pixels = pixels[::-1]
    orange = pixels[..., 0] - pixels[..., 2]
    assert np.unravel_index(orange.argmax(), orange.shape) == (0, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_filter_figure_takes_any_floating_parameter(dtype):
    weight = torch.nn.Parameter(torch.ones(1, 2, 3, 3, dtype=dtype))
    assert ElementTree.fromstring(filter_figure(weight, title="x")).tag.endswith("svg")


@pytest.mark.parametrize(
    ("shape", "limits", "message"),
    [
        ((3, 3), {}, r"got \[3, 3\]"),
        ((1, 1, 3, 5), {}, "odd K"),
        ((1, 1, 4, 4), {}, "odd K"),
        ((0, 1, 3, 3), {}, "no empty axis"),
        ((1, 1, 3, 3), {"max_frames": 0}, "max_frames must be at least 1, got 0"),
        ((1, 1, 3, 3), {"max_channels": -1}, "max_channels must be at least 1, got -1"),
    ],
)
def test_filter_figure_refuses_what_it_cannot_draw(shape, limits, message):
    with pytest.raises(ValueError, match=message):
        filter_figure(torch.ones(shape), title="x", **limits)


def test_figures_leave_matplotlib_settings_alone():
    before = dict(matplotlib.rcParams)
    filter_figure(torch.ones(1, 1, 3, 3), title="x")
    assert dict(matplotlib.rcParams) == before


def test_confusion_figure_holds_every_count_and_label():
    text = confusion_figure([[41, 12, 0], [13, 42, 0], [0, 17, 43]], CLASSES).decode()
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert sorted(label for label in labels if label.isdigit()) == ["12", "13", "17", "41", "42", "43"]
    for name in CLASSES:
        assert labels.count(name) == 2


def test_confusion_figure_tells_right_from_wrong_by_color():
    text = confusion_figure([[3, 0], [2, 1]], ["a", "b"]).decode()
    fills = re.findall(r"fill: (var\(--(?:right|wrong)\))(?:; opacity: ([\d.]+))?", text)
    # A cell's strength grows with its share of the row.
    assert [name for name, _ in fills] == ["var(--right)", "var(--wrong)", "var(--right)"]
    assert [float(opacity or 1) for _, opacity in fills] == pytest.approx(
        [0.52, 0.1 + 0.42 * 2 / 3, 0.1 + 0.42 / 3], abs=1e-4
    )


TEMPLATES = Path(report.__file__).parent / "templates"


@pytest.mark.parametrize("template", sorted(path.name for path in TEMPLATES.glob("*.html")))
def test_every_color_of_a_page_is_defined_there(template):
    """Also those of the figures that stand in it."""

    def text(name):
        found = (TEMPLATES / name).read_text()
        return re.sub(r'{% (?:include|extends) "([^"]*)" %}', lambda match: text(match[1]), found)

    page = text(template)
    light, dark = (
        re.findall(r"(--[a-z0-9-]+):", block) for block in re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    )
    assert light == dark
    needed = {*re.findall(r"var\((--[a-z0-9-]+)\)", page), *style._ROLES.values()} - {"currentColor"}
    own = {name for name in re.findall(r"(--[a-z]+):", page) if name not in light}  # of single elements
    assert {name.removeprefix("var(").rstrip(")") for name in needed} <= {*light, *own}


def luminance(color):
    """As WCAG defines it."""
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
    return sum(factor * part for factor, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_every_color_that_it_stands_on(theme):
    """With a contrast of 4.5, which WCAG asks of small text; counts stand on cells of a confusion matrix."""
    block = re.findall(r":root \{(.*?)\}", (TEMPLATES / "colors.css").read_text(), re.DOTALL)[theme]
    color = {
        name: [int(value[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        for name, value in re.findall(r"--([a-z0-9-]+): #(\w{6})", block)
    }
    for name in ("right", "wrong"):
        for opacity in (confusion._FAINTEST, confusion._STRONGEST):
            pairs = zip(color[name], color["page"], strict=True)
            cell = [opacity * own + (1 - opacity) * below for own, below in pairs]
            assert contrast(color["ink"], cell) >= 4.5
    for ground in ("page", "card", "mark"):
        assert contrast(color["ink"], color[ground]) >= 4.5
    for name in ("quiet", "wrong", "right"):
        assert contrast(color[name], color["page"]) >= 4.5


def test_class_names_are_not_read_as_formulas():
    names = [r"$\frac{$", "$x^2$"]
    text = confusion_figure([[1, 0], [0, 1]], names).decode()
    for name in names:
        assert text.count(f">{name}<") == 2


def test_confusion_figure_of_many_classes_drops_the_labels():
    size = 60
    confusion = [[int(row == column) for column in range(size)] for row in range(size)]
    text = confusion_figure(confusion, [f"class {index}" for index in range(size)]).decode()
    assert re.findall(r"<text[^>]*>([^<]*)</text>", text) == ["predicted", "true"]


def test_worst_confusion_ignores_the_diagonal():
    assert worst_confusion([[9, 1, 0], [0, 9, 3], [3, 0, 9]]) == (1, 2, 3)
    assert worst_confusion([[4, 0], [0, 5]]) is None


def test_inline_figure_keeps_a_label_that_looks_like_a_color():
    document = confusion_figure([[1, 0], [0, 1]], [INK, "b"])
    svg = inline(document, prefix="1p")
    assert f">{INK}<" in svg
    names = re.findall(r'\sid="([^"]*)"', svg)
    assert names and all(name.startswith("1p-") for name in names)
    assert svg.startswith("<svg ")
    assert "<style" not in svg


def test_plain_label_is_one_short_printable_line():
    assert plain_label("a\x00b\n\tc") == "a b c"
    assert plain_label("x" * 30, max_length=5) == "xxxx…"


def test_small_frames_are_enlarged_without_blur():
    frames = torch.zeros(1, 32, 40, 3, dtype=torch.uint8)
    frames[0, 0, 0] = torch.tensor([255, 0, 128], dtype=torch.uint8)
    (image,) = frame_images(frames)
    pixels = imread(io.BytesIO(base64.b64decode(image.split(",", 1)[1])), format="png")
    assert pixels.shape[:2] == (96, 120)
    restored = (pixels[::3, ::3, :3] * 255).round().astype(np.uint8)
    assert np.array_equal(restored, frames[0].numpy())
    assert np.array_equal(pixels, pixels[::3, ::3].repeat(3, axis=0).repeat(3, axis=1))


def test_clips_move_through_all_of_their_frames_and_rest_on_the_last_one():
    frames = torch.arange(0, 240, 20, dtype=torch.uint8).reshape(12, 1, 1, 1).expand(12, 48, 64, 3)
    with Image.open(io.BytesIO(base64.b64decode(moving_image(frames).split(",", 1)[1]))) as moving:
        assert (moving.size, moving.n_frames, moving.info["loop"]) == ((128, 96), 12, 0)
        shown = []
        for number in range(12):
            moving.seek(number)
            shown.append((moving.convert("RGB").getpixel((5, 5))[0], moving.info["duration"]))
    assert shown == [(value, 150) for value in range(0, 220, 20)] + [(220, 900)]


def test_long_clips_show_eight_frames_evenly_spaced():
    frames = torch.arange(15, dtype=torch.uint8).reshape(15, 1, 1, 1).expand(15, 100, 100, 3)
    shown = []
    for image in frame_images(frames):
        pixels = imread(io.BytesIO(base64.b64decode(image.split(",", 1)[1])), format="png")
        assert pixels.shape[:2] == (100, 100)
        shown.append(round(float(pixels[0, 0, 0]) * 255))
    assert shown == [0, 2, 4, 6, 8, 10, 12, 14]


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": torch.zeros(2, 4, 4, 3)},
        {"frames": torch.zeros(4, 4, 3, dtype=torch.uint8)},
        {"frames": torch.zeros(2, 4, 4, 1, dtype=torch.uint8)},
        {"frames": torch.zeros(0, 4, 4, 3, dtype=torch.uint8)},
        {"predictions": {"corrnet": []}},
    ],
)
def test_sample_view_refuses_what_cannot_be_shown(changes):
    with pytest.raises(ValueError, match="clip-0001"):
        make_sample(**changes)


def test_terminal_table_has_the_same_numbers_and_no_markup():
    console = Console(width=160, file=io.StringIO(), color_system=None)
    results = make_results(model_record("[red]first[/red]"), model_record("second", gmacs=0.04))
    console.print(results_table(results))
    text = console.file.getvalue()
    low, high = wilson_interval(16, 20)
    for part in ("[red]first[/red]", "1.23 M", "0.051", "0.040", "2 min 05 s"):
        assert part in text
    assert f"80.0 % [{100 * low:.1f} to {100 * high:.1f}]" in text


def test_terminal_table_marks_the_best():
    table = results_table(make_results(model_record("a", clip_top1=0.5), model_record("b")))
    (column,) = [column for column in table.columns if column.header == "clip top-1"]
    assert [str(cell.style) for cell in column.cells] == ["", "bold green"]


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999"), (1000, "1.00 k"), (999_950, "1.00 M"), (45_300_000, "45.3 M"), (0, "0")]
)
def test_format_count(value, text):
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0514, "0.051"), (1.0, "1.00"), (9.996, "10.0"), (99.96, "100"), (2345.6, "2,346")]
)
def test_format_number(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize("steps", [[2], [1, 2], [0, 1, 2, 3]])
def test_ticks_of_short_curves_are_whole_steps(steps: list[int]) -> None:
    points = [CurvePoint(step=step, epoch=0.0, loss=2.0, lr=0.1) for step in steps]
    drawn = loss_figure([Curves(curve=points, evals=[])]).decode()
    axis = drawn[drawn.index('id="matplotlib.axis_1"') : drawn.index('id="matplotlib.axis_2"')]
    ticks = re.findall(r"<text[^>]*>([^<]*)</text>", axis)
    assert ticks[-1] == "step" and set(ticks[:-1]) & {str(step) for step in steps}
    assert all(tick.isdigit() for tick in ticks[:-1])
