"""Videos for the benchmarks: textures that move over each other, so that they are as hard to compress as film."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

RATE = 30


def moving_textures(seed: int, size: tuple[int, int], num_frames: int) -> list[np.ndarray]:
    """Pictures, uint8 [height, width, 3]: two textures with detail on all scales that move in different ways."""
    width, height = size
    rng = np.random.default_rng(seed)
    margin = 64
    layers = [_texture(rng, height + 2 * margin, width + 2 * margin) for _ in range(2)]
    rows, columns = np.mgrid[0:height, 0:width]
    mask = (np.hypot(rows - height / 2, columns - width / 2) < 0.35 * height)[..., None]
    speeds = rng.uniform(-2.0, 2.0, (2, 2))
    frames = []
    for number in range(num_frames):
        parts = []
        for layer, speed in zip(layers, speeds, strict=True):
            y, x = (int(margin + (margin - 1) * np.sin(number * v / (margin - 1))) for v in speed)
            parts.append(layer[y : y + height, x : x + width])
        picture = np.where(mask, parts[0], parts[1]) + rng.normal(0, 1.5, (height, width, 1))
        frames.append(picture.clip(0, 255).astype(np.uint8))
    return frames


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise whose spectrum falls with frequency like that of natural pictures, float [height, width, 3]."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    channels = []
    for _ in range(3):
        spectrum = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
        picture = np.fft.irfft2(spectrum / frequency**1.1, s=(height, width))
        channels.append(picture)
    gray = channels[0]
    color = [gray + 0.35 * channel for channel in channels]
    texture = np.stack(color, axis=-1)
    return 125 + 45 * texture / texture.std()


# Codec, container and options of the encoders of the benchmarks, by the name of the kind.
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "H.264 GOP 12": (
        "libx264",
        "mp4",
        {"preset": "veryfast", "crf": "23", "x264-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=0"},
    ),
    "H.264 GOP 250": ("libx264", "mp4", {"preset": "veryfast", "crf": "23", "x264-params": "keyint=250"}),
    "H.264 as packed": (
        "libx264",
        "mp4",
        {
            "preset": "veryfast",
            "tune": "fastdecode",
            "crf": "20",
            "x264-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=0:mbtree=0",
        },
    ),
    "VP9": (
        "libvpx-vp9",
        "webm",
        {"crf": "33", "b": "0", "deadline": "realtime", "cpu-used": "7", "g": "128"},
    ),
    "MPEG-4": ("mpeg4", "avi", {"g": "12", "b": "1200k"}),
}


def encode(frames: list[np.ndarray], kind: str) -> bytes:
    """A video file of pictures."""
    codec, container, options = KINDS[kind]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(frames):
            frame = VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def write_videos(
    folder: Path, *, num_videos: int, size: tuple[int, int], num_frames: int, kind: str = "H.264 GOP 12"
) -> None:
    """Write folder/<class>/<number>.<ending>, two classes."""
    for number in range(num_videos):
        path = folder / f"class {number % 2}" / f"{number}.{KINDS[kind][1]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(moving_textures(number, size, num_frames), kind))
