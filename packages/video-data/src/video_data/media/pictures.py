"""Folders of pictures as videos: JPEG pictures of one size become Motion JPEG, bit for bit."""

import hashlib
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from video_data.media.container import probe_video
from video_data.media.display import Display, frame_display
from video_data.media.encode import READABLE_CRF, READABLE_GOP, reencode_pictures
from video_data.media.limits import MAX_FRAMES, MAX_PIXELS, UnindexableVideo, VideoError, check_frame_size
from video_data.utils.errors import describe

FRAME_RATE = Fraction(25)  # where none is known
PICTURE_SUFFIXES = frozenset(("jpg", "jpeg", "png"))
_CODECS = {b"\xff\xd8": "mjpeg", b"\x89PNG": "png"}  # by the first bytes of a file


def list_pictures(folder: Path) -> list[Path]:
    """Return the pictures of a folder by name, which must be the order of the frames; hidden files are passed over.

    Raises:
        VideoError: There are none, or too many.
    """
    pictures = sorted(
        path
        for path in folder.iterdir()
        if path.suffix[1:].lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
    )
    if not pictures:
        raise VideoError("no pictures in this folder")
    if len(pictures) > MAX_FRAMES:
        raise VideoError(f"more than {MAX_FRAMES} pictures", reason="too many frames")
    return pictures


def hash_pictures(pictures: list[Path]) -> str:
    """SHA-256 of the names and contents of pictures."""
    digest = hashlib.sha256()
    for path in pictures:
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
        digest.update(content)
    return digest.hexdigest()


def shorter_side(pictures: list[Path]) -> int:
    """Shorter side of the first picture in pixels."""
    frame, display = _decode(pictures[0])
    return min(display.size(frame.width, frame.height))


def are_jpeg(pictures: list[Path]) -> bool:
    """Whether all pictures have the ending of JPEG files."""
    return all(path.suffix.lower() in (".jpg", ".jpeg") for path in pictures)


def pictures_video(folder: Path, frame_rate: Fraction = FRAME_RATE) -> bytes:
    """Return a video of a folder's pictures: Motion JPEG bit for bit where they are JPEG of one size, else encoded.

    Args:
        folder: It holds a picture for each frame, in the order of their names.
        frame_rate: Frames a second.

    Raises:
        VideoError: There is no picture, or one cannot be decoded.
    """
    pictures = list_pictures(folder)
    if are_jpeg(pictures):
        content = motion_jpeg(pictures, frame_rate)
        try:
            probe_video(content)
            return content
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
        VideoError: The first of them cannot be decoded. Others are checked by whoever decodes the video.
    """
    first, _ = _decode(pictures[0])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mjpeg", rate=frame_rate)
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, first.format.name
        stream.time_base = 1 / frame_rate
        for number, path in enumerate(pictures):
            packet = Packet(path.read_bytes())
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


def _decode(path: Path) -> tuple[VideoFrame, Display]:
    content = path.read_bytes()
    codec = next((name for start, name in _CODECS.items() if content.startswith(start)), None)
    if codec is None:
        raise VideoError(f"{path.name} is no JPEG or PNG picture", reason="a file is no picture")
    context = av.CodecContext.create(codec, "r")
    assert isinstance(context, VideoCodecContext)
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_PIXELS)}
    try:
        frames = [*context.decode(Packet(content)), *context.decode(None)]
    except Exception as error:  # a broken picture may raise anything
        raise VideoError(f"{path.name}: {describe(error)}", reason="a picture cannot be read") from error
    if len(frames) != 1 or not isinstance(frames[0], VideoFrame):
        raise VideoError(
            f"{path.name} holds {len(frames)} pictures, expected 1", reason="a file is no picture"
        )
    check_frame_size(frames[0].width, frames[0].height)
    return frames[0], frame_display(frames[0], context.sample_aspect_ratio)
