"""The contact sheet of a shard set: one HTML page that loads nothing from elsewhere, or one PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from corrnet_train.report.figures.style import figure_style, inline, plain_label, render, series_color
from corrnet_train.report.pages.render import render_page
from corrnet_train.report.pictures import GAP, side_by_side, strip_url
from corrnet_train.report.table import format_duration
from corrnet_train.utils.errors import InputError
from corrnet_train.utils.files import check_ending, write_text
from video_data.shards.format import Coverage
from video_data.shards.inspect import Distribution, Inspection
from video_data.shards.thumbnails import Thumbnails
from video_data.utils.files import atomic_path

SHEET_SUFFIXES = (".html", ".png")
_TEXT_HEIGHT = 22  # pixels of a line of text in the PNG
_MARGIN = 16
_MOST_ROWS = 60_000  # Matplotlib draws at most 65,535
THUMBNAIL_HEIGHT = 96


def write_sheet(inspection: Inspection, clips: Sequence[Thumbnails], path: Path) -> None:
    """Write the contact sheet of a set.

    Args:
        inspection: What is in the set.
        clips: Clips to show, by class, of pictures THUMBNAIL_HEIGHT pixels high; those that could not be read are
            shown with the reason.
        path: File that ends with .html or .png; an existing one is replaced.

    Raises:
        ValueError: The ending is another one.
        OSError: The file cannot be written; no partial file is left.
    """
    check_sheet(path)
    if path.suffix.lower() == ".html":
        write_text(path, _page(inspection, clips))
        return
    picture = _png(inspection, clips)
    with atomic_path(path) as temporary:
        temporary.write_bytes(picture)


def check_sheet(path: Path, *, num_classes: int = 0, clips_per_class: int = 0) -> None:
    """Raise ValueError for another ending than .html or .png, or more clips than a PNG holds."""
    check_ending(path, SHEET_SUFFIXES)
    rows = _png_rows([clips_per_class] * num_classes)
    if path.suffix.lower() == ".png" and rows > _MOST_ROWS:
        raise InputError(
            f"{num_classes} classes with {clips_per_class} clips need {rows} rows of pixels, a PNG here has at most "
            f"{_MOST_ROWS}: show fewer, or write .html"
        )


def _png_rows(clips: Sequence[int]) -> int:
    """Rows of pixels of a PNG with that many clips of each class."""
    per_clip = _TEXT_HEIGHT + THUMBNAIL_HEIGHT + GAP
    return 2 * _MARGIN + 2 * _TEXT_HEIGHT + sum(_TEXT_HEIGHT + count * per_clip for count in clips)


def summary_rows(inspection: Inspection) -> list[tuple[str, str]]:
    """Names and values of what is in a set, as text."""
    rows = [("data set", inspection.dataset), ("manifest", inspection.manifest_hash)]
    for split_name, split in inspection.splits.items():
        fewest, middle, most = split.class_sizes()
        rows.append(
            (
                f"split {split_name}",
                f"{split.num_samples:,} samples in {split.num_shards:,} shards, {format_bytes(split.tar_bytes)}, "
                f"{split.num_frames:,} frames, {format_duration(split.seconds)}; "
                f"samples a class {fewest:,} to {most:,}, median {middle:g}",
            )
        )
    rows += [
        (
            "classes",
            {
                "multiclass": f"{len(inspection.classes):,}",
                "multilabel": f"{len(inspection.classes):,}, several for each video",
                "regression": "none: a number for each video",
            }[inspection.task],
        ),
        ("picture sizes", _shares(inspection.sizes)),
        ("frames a second", _shares(inspection.rates)),
        ("codecs", _shares(inspection.codecs)),
        ("containers", _shares(inspection.containers)),
    ]
    numbers: list[tuple[str, Distribution | None, str]] = [
        ("frames of a video", inspection.frames, ""),
        ("seconds of a video", inspection.seconds, ""),
        ("KiB of a video", inspection.video_bytes, "KiB"),
        ("frames a keyframe", inspection.keyframe_gap, ""),
    ]
    for name, distribution, unit in numbers:
        if distribution is not None:
            scale = 1024 if unit else 1
            values = (distribution.min, distribution.median, distribution.mean, distribution.max)
            low, median, mean, high = (f"{value / scale:,.4g}" for value in values)
            rows.append((name, f"{low} to {high}, median {median}, mean {mean}"))
    if inspection.flow_bytes:
        rows.append(("optical flow", format_bytes(inspection.flow_bytes)))
    rows += [(f"coverage of {split}", _coverage(coverage)) for split, coverage in inspection.coverage.items()]
    rows += [("listed", note) for note in inspection.notes]
    rows += [
        ("passed over", f"{entry.reason}: {entry.count:,}, the first is {entry.first[0]}")
        for entry in inspection.passed_over
    ]
    rows.append(("with different labels", f"{inspection.num_conflicts:,} videos"))
    rows.append(("in more than one split", f"{inspection.num_duplicates:,} videos"))
    rows.append(("repeated in a split", f"{inspection.num_repeats:,} videos"))
    rows.append(("damaged or incomplete", f"{inspection.num_flawed:,} videos"))
    rows += [
        (f"index of {name}", f"cannot be read: {reason}") for name, reason in inspection.unreadable.items()
    ]
    options = inspection.options.model_dump()
    rows.append(("packed with", ", ".join(f"{key} {value}" for key, value in options.items())))
    rows.append(("packed by", ", ".join(f"{key} {value}" for key, value in inspection.tool.items())))
    return rows


def _coverage(coverage: Coverage) -> str:
    share = coverage.num_packed / max(1, coverage.num_listed)
    left_out = sum(coverage.left_out.values())
    return (
        f"{coverage.num_packed:,} of {coverage.num_listed:,} listed videos packed ({share:.1%}), "
        f"{coverage.num_missing:,} missing, {left_out:,} left out"
        + (f": {_shares(coverage.left_out)}" if left_out else "")
    )


def format_bytes(number: int) -> str:
    """Bytes in the largest unit of which there is at least one, like 3.2 GiB."""
    value = float(number)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:,.4g} TiB"


def _shares(counts: dict[str, int], most: int = 6) -> str:
    """Return the most frequent values with their counts."""
    items = [f"{name} ({count:,})" for name, count in list(counts.items())[:most]]
    others = list(counts.values())[most:]
    return ", ".join([*items, *([f"{len(others):,} others ({sum(others):,})"] if others else [])]) or "none"


def _page(inspection: Inspection, clips: Sequence[Thumbnails]) -> str:
    classes = [
        {
            "name": name,
            "counts": _class_counts(inspection, name),
            "clips": [
                {
                    "about": _about(clip),
                    "source": clip.source,
                    "problem": clip.problem,
                    "image": "" if clip.problem else strip_url(clip.pictures),
                    "alt": f"{len(clip.pictures)} frames of {clip.source}",
                }
                for clip in members
            ],
        }
        for name, members in _by_class(clips)
    ]
    return render_page(
        "contact_sheet.html",
        title=Path(inspection.path.rstrip("/")).name or inspection.path,
        path=inspection.path,
        rows=summary_rows(inspection),
        charts=list(_charts(inspection)),
        classes=classes,
        num_classes=len(inspection.classes),
        duplicates=inspection.duplicates[:50],
        num_duplicates=inspection.num_duplicates,
    )


def _by_class(clips: Sequence[Thumbnails]) -> Iterator[tuple[str, list[Thumbnails]]]:
    for name, members in groupby(clips, key=lambda clip: clip.class_name):
        yield name, list(members)


def _class_counts(inspection: Inspection, name: str) -> str:
    counts = {split: values.per_class.get(name, 0) for split, values in inspection.splits.items()}
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())


def _about(clip: Thumbnails) -> str:
    return f"{clip.split}, {clip.num_frames:,} frames, {clip.seconds:.1f} s"


def _charts(inspection: Inspection) -> Iterator[dict[str, str]]:
    """Histograms as SVG elements with their description."""
    for name, distribution in (
        ("frames of a video", inspection.frames),
        ("seconds of a video", inspection.seconds),
        ("KiB of a video", inspection.video_bytes),
    ):
        if distribution is not None:
            scale = 1024 if name.startswith("KiB") else 1
            edges = [edge / scale for edge in distribution.edges]
            figure = _bars(edges, distribution.counts, f"{name}", "videos")
            yield {"svg": figure, "alt": f"Histogram of {name}, from {edges[0]:.4g} to {edges[-1]:.4g}."}
    for name, split in inspection.splits.items():
        sizes = sorted(split.per_class.values(), reverse=True)
        figure = _bars(list(range(len(sizes) + 1)), sizes, f"classes of {name}, largest first", "samples")
        yield {"svg": figure, "alt": f"Samples of each class of {name}, from {sizes[0]} to {sizes[-1]}."}


def _bars(edges: Sequence[float], counts: Sequence[int], x_label: str, y_label: str) -> str:
    with figure_style():
        figure = Figure(figsize=(4.2, 2.4), layout="constrained")
        axes = figure.add_subplot()
        axes.stairs(counts, edges, fill=True, color=series_color(0))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_ylim(bottom=0)
        return inline(render(figure), prefix=x_label.replace(" ", "-"))  # ids of one page must differ


def _png(inspection: Inspection, clips: Sequence[Thumbnails]) -> bytes:
    """Rows of pictures under their class names."""
    blocks = [(name, members) for name, members in _by_class(clips)]
    height = _png_rows([len(members) for _, members in blocks])
    strips = {id(clip): side_by_side(clip.pictures) for clip in clips if not clip.problem}
    width = 2 * _MARGIN + max([800, *(strip.shape[1] for strip in strips.values())])
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    y = _MARGIN

    def write(text: str, **style: Any) -> None:
        nonlocal y
        label = plain_label(text, max_length=width // 7)
        place = (_MARGIN / width, 1 - (y + _TEXT_HEIGHT / 2) / height)
        figure.text(*place, label, va="center", size=9, parse_math=False, **style)
        y += _TEXT_HEIGHT

    with figure_style():
        total = sum(split.num_samples for split in inspection.splits.values())
        write(
            f"{inspection.path}: {total:,} samples, {len(inspection.classes):,} classes",
            weight="bold",
            color="black",
        )
        write(f"manifest {inspection.manifest_hash}", color="dimgray")
        for name, members in blocks:
            write(f"{name} ({_class_counts(inspection, name)})", weight="bold", color="black")
            for clip in members:
                about = f"{clip.source}: {_about(clip)}"
                rows = slice(y + _TEXT_HEIGHT, y + _TEXT_HEIGHT + clip.pictures.shape[1])
                if clip.problem:
                    write(f"cannot be read: {clip.problem}; {about}", color="firebrick")
                    canvas[rows, _MARGIN : width - _MARGIN] = (250, 228, 224)
                else:
                    write(about, color="dimgray")
                    strip = strips[id(clip)]
                    canvas[rows, _MARGIN : _MARGIN + strip.shape[1]] = strip
                y += clip.pictures.shape[1] + GAP
        figure.figimage(canvas, 0, 0, origin="upper")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": "corrnet-train"})
    return buffer.getvalue()
