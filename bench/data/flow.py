"""Ways to store optical flow: bytes, error and the time to read it.

    python -m bench.data.flow VIDEO...

Each video is encoded as packing does, its first frames' flow computed, and the flow stored in several ways. Errors are
against the flow cut to the limit, in pixels of motion; times are of one core. Prints Markdown.
"""

import argparse
import io
import itertools
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

from video_data import PackOptions
from video_data.media.encode import encode_h264, reencode_video
from video_data.media.filters import plane_rows
from video_data.media.flow import (
    FLOW_CRF,
    FLOW_LIMIT,
    farneback_flow,
    gray_pictures,
    quantize_flow,
    single_threaded,
)

NUM_FRAMES = 90


def frames_of(pictures: list[np.ndarray]) -> list[VideoFrame]:
    frames = []
    for number, picture in enumerate(pictures):
        frame = VideoFrame.from_ndarray(picture, format="gray")
        frame.pts, frame.time_base = number, Fraction(1, 25)
        frames.append(frame)
    return frames


def encode(pictures: list[np.ndarray], codec: str, options: dict[str, str], pixels: str = "gray") -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures[0].shape
        stream.pix_fmt = pixels
        stream.codec_context.color_range = 2
        stream.codec_context.thread_count = 1
        for frame in frames_of(pictures):
            output.mux(stream.encode(frame.reformat(format=pixels, src_color_range=2, dst_color_range=2)))
        output.mux(stream.encode())
    return buffer.getvalue()


def decode(content: bytes) -> np.ndarray:
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return np.stack([plane_rows(f, 0)[:, : f.width].copy() for f in container.decode(stream)])


def measure(path: Path) -> None:
    options = PackOptions()
    content = reencode_video(path, max_short_side=options.max_short_side, gop=options.gop, crf=options.crf)
    pictures = list(gray_pictures(content))
    num_all, pictures = len(pictures), pictures[:NUM_FRAMES]
    start = time.thread_time()
    with single_threaded():
        flow = np.stack([farneback_flow(*pair) for pair in itertools.pairwise(pictures)])
    milliseconds = 1e3 * (time.thread_time() - start) / len(flow)
    size = np.abs(flow)
    height, width = pictures[0].shape
    print(
        f"\n**{path.name}**, {width}x{height}, {len(content) / num_all:.0f} bytes a frame of RGB; Farneback ",
        end="",
    )
    print(
        f"{milliseconds:.1f} ms a pair; motion {size.mean():.2f} px in the mean, {np.quantile(size, 0.99):.1f} px ",
        end="",
    )
    print(f"at the 99th percentile, {(size > FLOW_LIMIT).mean():.2%} cut to the limit\n")
    print("| stored as | bytes a frame | mean error, px | 99 % of errors below, px | decoding, ms a frame |")
    print("|---|--:|--:|--:|--:|")
    truth = np.concatenate([flow[..., 0], flow[..., 1]], axis=1).clip(-FLOW_LIMIT, FLOW_LIMIT)
    stacked = list(quantize_flow(truth))
    ways = {
        f"H.264, crf {crf}": encode_h264(frames_of(stacked), gop=options.gop, crf=crf)
        for crf in (10, 14, FLOW_CRF, 23)
    }
    ways["H.264, lossless"] = encode(
        stacked, "libx264", {"preset": "veryfast", "qp": "0", "g": str(options.gop)}
    )
    ways["FFV1, lossless"] = encode(stacked, "ffv1", {})
    ways["MJPEG, default quality"] = encode(stacked, "mjpeg", {}, "yuvj420p")
    for name, stored in ways.items():
        start = time.thread_time()
        decoded = decode(stored)
        milliseconds = 1e3 * (time.thread_time() - start) / len(decoded)
        error = np.abs((decoded.astype(np.float32) - 128) * (FLOW_LIMIT / 127) - truth)
        print(
            f"| {name} | {len(stored) / len(decoded):.0f} | {error.mean():.3f} | {np.quantile(error, 0.99):.2f} "
            f"| {milliseconds:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+")
    for path in parser.parse_args().videos:
        measure(path)


if __name__ == "__main__":
    main()
