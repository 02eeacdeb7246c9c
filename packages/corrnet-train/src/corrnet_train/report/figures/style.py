"""SVG figures that follow the page they stand in.

Matplotlib writes fixed colors. The figures here are drawn with stand-in colors, one per role, which
`render` turns into `currentColor` or a CSS variable: text and lines then suit light and dark pages.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

INK = "#010101"
RIGHT = "#010102"
WRONG = "#010103"
NUM_SERIES = 6

_PIXELS_PER_POINT = 1.4

_ROLES = {INK: "currentColor", RIGHT: "var(--right)", WRONG: "var(--wrong)"}
_ROLES |= {f"#0102{index:02x}": f"var(--series-{index})" for index in range(NUM_SERIES)}
_DASHES = ((), (6.0, 2.0), (2.0, 1.5), (7.0, 2.0, 2.0, 2.0))

_STYLE: Any = {
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "figure.facecolor": "none",
    "grid.color": INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "corrnet",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Context in which a figure is drawn and rendered; no setting outlives it."""
    with rc_context(_STYLE), warnings.catch_warnings():
        # Matplotlib only measures the labels; the browser has the glyphs for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield


def series_color(index: int) -> str:
    """Stand-in color of the index-th model."""
    return f"#0102{index % NUM_SERIES:02x}"


def series_variable(index: int) -> str:
    """CSS value of the index-th model's color."""
    return _ROLES[series_color(index)]


def series_dash(index: int) -> tuple[float, ...]:
    """Dash pattern of the index-th model in line widths; empty for a solid line."""
    return _DASHES[index % len(_DASHES)]


def plain_label(text: str, *, max_length: int = 24) -> str:
    """Text fit for a figure: printable characters only, on one line, cut to `max_length`."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    line = " ".join(printable.split())
    return line if len(line) <= max_length else line[: max_length - 1] + "…"


def render(figure: Figure) -> bytes:
    """Write a figure as a standalone SVG document with its stand-in colors resolved."""
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue().decode()
    # Matplotlib takes no CSS variable for a color. Only style properties are touched: a label may hold the same
    # characters.
    resolved = re.sub(
        r"\b(fill|stroke): (#[0-9a-f]{6})\b",
        lambda match: f"{match[1]}: {_ROLES.get(match[2], match[2])}",
        text,
    )
    return resolved.encode()


def render_png(figure: Figure) -> bytes:
    """Write a figure as a PNG file on white, its text in black."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": "corrnet-train"})
    return buffer.getvalue()


def inline(document: bytes, *, prefix: str) -> str:
    """Turn an SVG document into an element for an HTML page.

    Args:
        document: What `render` returned.
        prefix: Put before every id, so that several figures on a page do not clash.

    Returns:
        The `<svg>` element without XML prolog, namespaces and document-wide style. It fills the width it is
        given up to the size at which its text is about as large as the page's.
    """
    text = document.decode()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    end = text.index(">")
    width = re.search(r'\swidth="([\d.]+)pt"', text[:end])
    assert width
    root = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", text[:end])
    body = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{prefix}-", text[end:])
    return f'{root} style="max-width: {_PIXELS_PER_POINT * float(width[1]):.0f}px"{body}'
