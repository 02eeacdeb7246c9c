"""Pictures as a video, the frames of a stream with their classes, and text on pictures."""

import functools
import logging
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from corrnet_train.inference.classifier import Prediction
from corrnet_train.utils.errors import InputError
from video_data.loading.live import WindowFrame
from video_data.media.display import frame_kind
from video_data.media.encode import check_encoder
from video_data.media.filters import PictureGraph
from video_data.utils.files import atomic_path

_FALLBACK_RATE = 25  # frames a second of a stream without times
_log = logging.getLogger(__name__)
_warned: set[str] = set()


def text_font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font that has the characters of a text: DejaVu Sans, which comes with Matplotlib, or one of this system.

    Where none has all of them the one with most is taken, and the first text of which that is true is logged.

    Args:
        text: What will be drawn.
        size: Height of a line in pixels.
    """
    characters = frozenset(char for char in text if char.isprintable() and not char.isspace())
    path, missing = _best_font(characters)
    if missing and not _warned >= set(missing):
        _warned.update(missing)
        _log.warning(
            "no font of this system draws %s; install one, for example Noto Sans CJK for Chinese, Japanese and Korean",
            "".join(missing),
        )
    return ImageFont.truetype(path, size)


@functools.lru_cache(maxsize=256)
def _best_font(characters: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    """Path of the font that lacks the fewest characters, and those; a search takes about a millisecond a font."""
    from matplotlib import font_manager, get_data_path

    best = str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    missing = _missing(best, characters)
    if missing:
        for entry in sorted(font_manager.fontManager.ttflist, key=lambda entry: entry.fname):
            if "Last Resort" in entry.name or not Path(entry.fname).is_file():  # boxes for all of Unicode
                continue
            others = _missing(entry.fname, characters)
            if len(others) < len(missing):
                best, missing = entry.fname, others
    return best, missing


def _missing(path: str, characters: frozenset[str]) -> tuple[str, ...]:
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return tuple(sorted(char for char in characters if not font.get_char_index(ord(char))))
    except (OSError, RuntimeError):  # a damaged font
        return tuple(sorted(characters))


class VideoWriter:
    """Writes pictures to an mp4 file, which appears under its name when it is complete.

    Leaving the block by an error leaves no file.

    Args:
        path: The file.

    Raises:
        ValueError: This FFmpeg cannot encode; at the end, there was no picture.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> Self:
        """Open the file."""
        check_encoder()
        file = self._stack.enter_context(atomic_path(self._path))
        self._container = self._stack.enter_context(av.open(str(file), "w", format="mp4"))
        return self

    def __exit__(self, *exception: Any) -> None:
        """Complete the file."""
        if exception[0] is not None:
            self._stack.__exit__(*exception)
        elif self._stream is not None:
            self._container.mux(self._stream.encode())
            self._stack.close()
        else:
            error = InputError(f"no pictures to write to {self._path}")
            self._stack.__exit__(InputError, error, None)
            raise error

    def add(self, picture: Image.Image, seconds: float) -> None:
        """Add a picture; the first one decides the size, which is rounded down to even numbers.

        Args:
            picture: In RGB.
            seconds: When it is shown.
        """
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=25, options={"crf": "20"})
            self._stream.width, self._stream.height = picture.width // 2 * 2, picture.height // 2 * 2
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, 1000)
        size = (self._stream.width, self._stream.height)
        if picture.size == (size[0] + picture.width % 2, size[1] + picture.height % 2):
            picture = picture.crop((0, 0, *size))
        frame = av.VideoFrame.from_ndarray(np.asarray(picture.resize(size)), format="rgb24")
        frame.pts = self._last = max(self._last + 1, round(1000 * seconds))
        frame.time_base = Fraction(1, 1000)
        self._container.mux(self._stream.encode(frame))


class AnnotatedVideo(VideoWriter):
    """Writes the frames of a stream to an mp4 file, each with the classes of the last window.

    Args:
        path: The file.
        top: Classes to draw.

    Raises:
        ValueError: At the end, there was no frame.
    """

    def __init__(self, path: Path, *, top: int = 3) -> None:
        super().__init__(path)
        self._top = top
        self._kind: object = None
        self._graph: PictureGraph | None = None

    def add_frame(self, frame: WindowFrame, prediction: Prediction | None) -> None:
        """Add a frame, as `classify_stream` hands it to `on_frame`."""
        kind = (frame.display, frame_kind(frame.frame))
        if self._graph is None or kind != self._kind:
            self._kind, self._graph = kind, PictureGraph(frame.frame, frame.display)
        picture = Image.fromarray(self._graph.convert(frame.frame))
        if prediction is not None:
            draw_classes(picture, prediction, self._top)
        self.add(picture, frame.number / _FALLBACK_RATE if frame.seconds is None else frame.seconds)


def draw_classes(image: Image.Image, prediction: Prediction, top: int) -> None:
    """Draw the most probable classes with bars into the upper left corner."""
    size = max(10, image.height // 18)
    draw = ImageDraw.Draw(image, "RGBA")
    width = min(image.width, 16 * size)
    shown = list(zip(prediction.classes, prediction.scores, prediction.texts, strict=True))[:top]
    for row, (name, score, text) in enumerate(shown):
        y = round(row * 1.5 * size)
        draw.rectangle((0, y, width, y + 1.5 * size), fill=(0, 0, 0, 140))
        if prediction.task != "regression":
            draw.rectangle((0, y, width * score, y + 1.5 * size), fill=(40, 120, 220, 160))
        text = f"{text:>4}  {' '.join(name.split())}"
        draw.text((0.3 * size, y + 0.15 * size), text, font=text_font(text, size), fill="white")
