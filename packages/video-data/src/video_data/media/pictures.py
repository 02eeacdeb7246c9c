"""Folders of pictures as videos: JPEG pictures of one size become Motion JPEG, bit for bit."""

import hashlib
import io
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from video_data.media.container import video_errors
from video_data.media.display import Display, frame_display
from video_data.media.encode import READABLE_CRF, READABLE_GOP, reencode_pictures
from video_data.media.limits import MAX_FRAMES, MAX_PIXELS, UnindexableVideo, VideoError, check_frame_size
from video_data.utils.errors import describe
from video_data.utils.files import display_text

FRAME_RATE = Fraction(25)  # where none is known
PICTURE_SUFFIXES = frozenset(("jpg", "jpeg", "png"))
_CODECS = {b"\xff\xd8": "mjpeg", b"\x89PNG": "png"}  # by the first bytes of a file
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # the others stand within the data of a scan
_END_OF_IMAGE = 0xD9
_MOST_NAMES = 4  # sequences that an error names


def holds_pictures(path: Path) -> bool:
    """Whether a path is that of a folder, or that of pictures in one by their pattern, as `clip/img_*.jpg`."""
    if os.path.isdir(path):  # noqa: PTH112  (which is False for names that no system takes)
        return True
    if "*" not in str(path) or path.suffix[1:].lower() not in PICTURE_SUFFIXES or os.path.lexists(path):
        return False
    return "*" in str(path.parent) or os.path.isdir(path.parent)  # noqa: PTH112


def pattern_fault(path: Path) -> str | None:
    """Return what is wrong with pictures by their pattern; None where one `*` stands for the number, in their names."""
    is_elsewhere = "*" in str(path.parent) and not os.path.isdir(path.parent)  # noqa: PTH112
    if path.name.count("*") == 1 and path.suffix[1:].lower() in PICTURE_SUFFIXES and not is_elsewhere:
        return None
    endings = " or ".join(f".{suffix}" for suffix in sorted(PICTURE_SUFFIXES))
    return (
        f"the pattern {display_text(path)} needs one *, which stands for the number in the names of pictures of one "
        f"folder, and the ending {endings}, as in clip/img_*.jpg"
    )


def list_pictures(path: Path) -> list[Path]:
    """Return the pictures of one sequence in the order of their numbers; hidden files are passed over.

    The names of a sequence differ in one number, as `img_00001.jpg`, which may be padded with zeros or not. It goes up
    by 1, or of three or more pictures by another step that is the same everywhere.

    Args:
        path: A folder that holds the pictures of one sequence, or such a folder and the pattern of the sequence that is
            meant, in which `*` stands for the number: `clip/img_*.jpg`.

    Raises:
        VideoError: There are no pictures, or too many, those of several sequences, two with the same number, or numbers
            are missing. The message names them.
    """
    folder, pattern = (path, None) if path.is_dir() else (path.parent, path.name)
    if pattern is not None and (fault := pattern_fault(path)):
        raise VideoError(fault, reason="a pattern of pictures that is none")
    names = sorted(
        file.name
        for file in folder.iterdir()
        if file.suffix[1:].lower() in PICTURE_SUFFIXES and not file.name.startswith(".")
    )
    if not names:
        raise VideoError("no pictures in this folder")
    if len(names) > MAX_FRAMES:
        raise VideoError(f"more than {MAX_FRAMES} pictures", reason="too many frames")
    sequences = _sequences(names) if pattern is None else {pattern: _numbered(names, pattern)}
    if len(sequences) > 1:
        found = sorted(sequences.items(), key=lambda item: (-len(item[1]), item[0]))
        shown = ", ".join(f"{display_text(name)} ({len(files)})" for name, files in found[:_MOST_NAMES])
        more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
        raise VideoError(
            f"several sequences of pictures: {shown}{more}; give the pattern of the one that is meant, as in "
            f"--pictures {display_text(found[0][0])!r} or as the last part of the path",
            reason="several sequences of pictures",
        )
    ((pattern, numbered),) = sequences.items()
    if not numbered:
        raise VideoError(f"no pictures {display_text(pattern)} in this folder")
    _check_steps(sorted(numbered))
    return [folder / name for _, name in sorted(numbered)]


def _sequences(names: list[str]) -> dict[str, list[tuple[int, str]]]:
    """Return numbers and names by pattern: names that differ in one number, or else in the last of several."""
    alike: dict[tuple[str, ...], list[list[str]]] = defaultdict(list)
    for name in names:
        parts = re.split(r"([0-9]+)", name)  # texts and numbers by turns
        alike[tuple(parts[::2])].append(parts)
    sequences: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for texts, group in alike.items():
        places = range(1, 2 * len(texts) - 1, 2)
        changing = [place for place in places if len({parts[place] for parts in group}) > 1]
        number = changing[-1] if changing else max(places, default=None)
        for parts in group:
            name = "".join(parts)
            if number is None:
                sequences[name].append((0, name))
            else:
                pattern = "".join([*parts[:number], "*", *parts[number + 1 :]])
                sequences[pattern].append((int(parts[number]), name))
    return sequences


def _numbered(names: list[str], pattern: str) -> list[tuple[int, str]]:
    """Return the names that a pattern fits, with their numbers."""
    before, _, after = pattern.partition("*")
    fits = re.compile(f"{re.escape(before)}([0-9]+){re.escape(after)}")
    return [(int(match[1]), name) for name in names if (match := fits.fullmatch(name))]


def _check_steps(numbered: list[tuple[int, str]]) -> None:
    """Raise VideoError when a number stands twice or is missing."""
    pairs = list(itertools.pairwise(numbered))
    steps = [after[0] - before[0] for before, after in pairs]
    step = min(steps, default=1)
    if step == 0:
        before, after = pairs[steps.index(0)]
        raise VideoError(
            f"two pictures have the number {before[0]}: {display_text(before[1])} and {display_text(after[1])}",
            reason="two pictures have the same number",
        )
    if len(steps) == 1:
        step = 1
    gaps = [pair for pair, found in zip(pairs, steps, strict=True) if found != step]
    if gaps:
        (_, before_name), (_, after_name) = gaps[0]
        raise VideoError(
            f"pictures are missing: {len(gaps)} gap{'s' * (len(gaps) > 1)} in their numbers, the first after "
            f"{display_text(before_name)}, before {display_text(after_name)}",
            reason="pictures are missing",
        )


def hash_pictures(pictures: list[Path]) -> str:
    """SHA-256 of the names and contents of pictures."""
    digest = hashlib.sha256()
    for path in pictures:
        content = _read(path)
        digest.update(f"{path.name}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
        digest.update(content)
    return digest.hexdigest()


def shorter_side(pictures: list[Path]) -> int:
    """Shorter side of the first picture in pixels."""
    frame, display = _decode(pictures[0])
    return min(display.size(frame.width, frame.height))


def are_jpeg(pictures: list[Path]) -> bool:
    """Whether all pictures are JPEG by their content; an ending may say otherwise.

    Raises:
        VideoError: One is empty, ends early, or is neither JPEG nor PNG.
    """
    return all(_codec(path, _read(path)) == "mjpeg" for path in pictures)


@video_errors()
def pictures_video(path: Path, frame_rate: Fraction = FRAME_RATE) -> bytes:
    """Return a video of a folder's pictures: Motion JPEG bit for bit where they are JPEG of one size, else encoded.

    Args:
        path: A folder that holds a picture for each frame, or one with a pattern, as `list_pictures` takes it.
        frame_rate: Frames a second.

    Raises:
        VideoError: They are not one sequence without gaps, or one cannot be decoded.
    """
    pictures = list_pictures(path)
    if are_jpeg(pictures):
        try:
            return motion_jpeg(pictures, frame_rate)
        except UnindexableVideo:  # pictures of several sizes
            pass
    return reencode_pictures(
        picture_frames(pictures, frame_rate), max_short_side=None, gop=READABLE_GOP, crf=READABLE_CRF
    )


def motion_jpeg(pictures: list[Path], frame_rate: Fraction) -> bytes:
    """Put JPEG pictures into an mp4 file as they are, each a keyframe.

    Args:
        pictures: JPEG files of one size, in order.
        frame_rate: Frames a second.

    Raises:
        VideoError: One cannot be decoded, or ends early.
        UnindexableVideo: They are of several sizes, turns or pixel shapes.
    """
    first, display = _decode(pictures[0])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        # Without an encoder, which takes neither gray nor CMYK nor RGB pictures.
        stream = container.add_mux_stream("mjpeg", frame_rate, width=first.width, height=first.height)
        stream.time_base = 1 / frame_rate
        for number, path in enumerate(pictures):
            frame, shown = _decode(path)
            if (frame.width, frame.height, shown) != (first.width, first.height, display):
                raise UnindexableVideo("pictures of several sizes or turns")
            packet = Packet(_read(path))
            packet.stream = stream
            packet.time_base = 1 / frame_rate
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            container.mux(packet)
    return buffer.getvalue()


def picture_frames(pictures: list[Path], frame_rate: Fraction) -> Iterator[tuple[VideoFrame, Display]]:
    """Decode pictures one after the other, each with how it is shown.

    Raises:
        VideoError: One cannot be decoded; the message names it.
    """
    for number, path in enumerate(pictures):
        frame, display = _decode(path)
        frame.pts, frame.time_base = number, 1 / frame_rate
        yield frame, display


def _read(path: Path) -> bytes:
    """Return the content of a picture.

    Raises:
        VideoError: The file is empty, or a JPEG picture that ends early, which FFmpeg decodes without a word.
    """
    content = path.read_bytes()
    if not content:
        raise VideoError(f"{display_text(path.name)} is empty", reason="a picture is empty")
    if content.startswith(b"\xff\xd8") and not _has_end(content):
        raise VideoError(f"{display_text(path.name)} ends early", reason="a picture ends early")
    return content


def _has_end(jpeg: bytes) -> bool:
    """Whether a JPEG picture has its end-of-image marker, outside of its segments, which may hold other pictures."""
    position = 2
    while marker := _JPEG_MARKER.search(jpeg, position):
        position = marker.end()
        if jpeg[position - 1] == _END_OF_IMAGE:
            return True
        position += max(2, int.from_bytes(jpeg[position : position + 2]))
    return False


def _codec(path: Path, content: bytes) -> str:
    for start, codec in _CODECS.items():
        if content.startswith(start):
            return codec
    raise VideoError(f"{display_text(path.name)} is no JPEG or PNG picture", reason="a file is no picture")


def _decode(path: Path) -> tuple[VideoFrame, Display]:
    content, name = _read(path), display_text(path.name)
    context = av.CodecContext.create(_codec(path, content), "r")
    assert isinstance(context, VideoCodecContext)
    context.thread_count = 1
    # Without `explode` what cannot be decoded of a JPEG picture is gray.
    context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "crccheck+explode"}
    try:
        frames = [*context.decode(Packet(content)), *context.decode(None)]
    except Exception as error:  # a broken picture may raise anything
        raise VideoError(f"{name}: {describe(error)}", reason="a picture cannot be read") from error
    if len(frames) != 1 or not isinstance(frames[0], VideoFrame):
        raise VideoError(f"{name} holds {len(frames)} pictures, expected 1", reason="a file is no picture")
    check_frame_size(frames[0].width, frames[0].height)
    return frames[0], frame_display(frames[0], context.sample_aspect_ratio)
