"""Videos that tell which frame is which: each frame shows its number as a row of black and white blocks."""

import io
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame

from video_data.utils.workers import start_worker_server

if not torch.cuda.is_available() and "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

BITS = 8


def paint_number(number: int, width: int, height: int) -> np.ndarray:
    """A gray picture with BITS blocks side by side, the highest bit on the left, uint8 [height, width, 3]."""
    picture = np.full((height, width, 3), 100, dtype=np.uint8)
    block = width // BITS
    for bit in range(BITS):
        picture[:, bit * block : (bit + 1) * block] = 235 if number >> (BITS - 1 - bit) & 1 else 20
    return picture


def encode_video(numbers: Sequence[int], *, codec: str = "libx264", **options: Any) -> bytes:
    """A video whose frames show these numbers; the options are those of `_encode`."""
    content = _encode(numbers, codec=codec, **options)
    # x265 leaves blocks of the frame before in about one of fifty of such small videos.
    while codec == "libx265" and _shown(content) != list(numbers):
        content = _encode(numbers, codec=codec, **options)
    return content


def _shown(content: bytes) -> list[int]:
    with av.open(io.BytesIO(content)) as container:
        return [numbers_of(frame.to_ndarray(format="rgb24"))[0] for frame in container.decode(video=0)]


def _encode(
    numbers: Sequence[int],
    *,
    codec: str,
    size: tuple[int, int] = (64, 64),
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 1000),
    container: str = "mp4",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int = 0,
) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, container_options=container_options or {}) as output:
        stream = output.add_stream(codec, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = stream.time_base = time_base
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        for index, number in enumerate(numbers):
            frame = VideoFrame.from_ndarray(paint_number(number, *size), format="rgb24")
            frame.pts = 40 * index if pts is None else pts[index]
            frame.time_base = time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def numbers_of(clip: np.ndarray) -> list[int]:
    """Frame numbers of pictures [..., H, W, 3] that show the whole width."""
    frames = clip.reshape(-1, *clip.shape[-3:])
    width = frames.shape[2]
    columns = [int((bit + 0.5) * width / BITS) for bit in range(BITS)]
    bits = frames[:, frames.shape[1] // 2, columns].mean(axis=-1) > 128
    return [int("".join("1" if bit else "0" for bit in row), 2) for row in bits]


@pytest.fixture(scope="session")
def make_video() -> Callable[..., bytes]:
    return encode_video


def encode_picture(number: int, size: tuple[int, int] = (64, 48), codec: str = "mjpeg") -> bytes:
    """A JPEG or PNG picture that shows a number."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="image2pipe") as output:
        stream = output.add_stream(codec, rate=1, options={"qscale": "2"} if codec == "mjpeg" else {})
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
        output.mux(stream.encode(VideoFrame.from_ndarray(paint_number(number, *size), format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_picture() -> Callable[..., bytes]:
    return encode_picture


@pytest.fixture(scope="session")
def frame_numbers() -> Callable[[np.ndarray], list[int]]:
    return numbers_of


def remux_packets(
    video: bytes,
    container: str,
    change: Callable[[int, Any], None] = lambda number, packet: None,
    **options: str,
) -> bytes:
    """The packets of a video in another container, each after `change(number, packet)`."""
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(video)) as source,
        av.open(buffer, "w", format=container, container_options=options) as output,
    ):
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.pts is not None):
            packet.stream = stream
            change(number, packet)
            output.mux(packet)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def remux() -> Callable[..., bytes]:
    return remux_packets


@pytest.fixture(scope="session")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 numbered videos in three classes; the frames of video v have the numbers 8 v, 8 v + 1, ..."""
    folder = tmp_path_factory.mktemp("classes")
    for video in range(24):
        path = folder / f"class {'abc'[video % 3]}" / f"video {video}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_video([8 * video + i for i in range(8)]))
    return folder


@pytest.fixture(scope="session")
def filmed_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to the videos of $CORRNET_TEST_VIDEOS but those of over 40 million pixels, which show nothing new."""
    source = os.environ.get("CORRNET_TEST_VIDEOS")
    if source is None:
        pytest.skip("CORRNET_TEST_VIDEOS names no folder of videos")
    folder = tmp_path_factory.mktemp("filmed")
    root = Path(source).resolve()
    for path in (path for path in root.rglob("*") if path.is_file()):
        if _num_pixels(path) <= 40e6:
            link = folder / path.relative_to(root)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return folder


def _num_pixels(path: Path) -> float:
    """Pixels of all frames of a video, as it declares; 0 of what is none, or broken."""
    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            seconds = (container.duration or 0) / av.time_base
            return seconds * float(stream.average_rate or 0) * stream.width * stream.height
    except (av.FFmpegError, IndexError):
        return 0.0


class Script:
    """A script that `scripts` has started, in a process of its own; its output is in files."""

    def __init__(self, process: Any, streams: list[Path]) -> None:
        self._process, self._streams = process, streams

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 60) -> int:
        self._process.join(timeout)
        assert self.poll() is not None, self.errors
        return self._process.exitcode

    def wait_for_lines(self, number: int, timeout: float = 60) -> list[str]:
        """The first lines of the output, as soon as there are so many."""
        deadline = time.monotonic() + timeout
        while self.output.count("\n") < number:
            assert time.monotonic() < deadline and self.poll() is None, self.errors
            time.sleep(0.01)
        return self.output.splitlines()[:number]

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def members(self) -> list[int]:
        """Ids of the processes of its session that are not dead; one that waits to be collected is."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            except OSError:  # it has ended
                continue
            if int(session) == self.pid and state != "Z":
                found.append(int(path.parent.name))
        return found

    @property
    def output(self) -> str:
        return self._streams[1].read_text()

    @property
    def errors(self) -> str:
        return self._streams[2].read_text()


@pytest.fixture
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Script]]:
    """Starts scripts in processes that are forked from one with the imports, which take an interpreter seconds."""
    context = multiprocessing.get_context("forkserver")
    folder, started = tmp_path_factory.mktemp("scripts"), []

    def start(script: str | Path, *arguments: object) -> Script:
        """`script` is a file, or the text of one."""
        number = len(started)
        if isinstance(script, str):
            path = folder / f"script{number}.py"
            path.write_text(script)
            script = path
        streams = [Path(os.devnull), folder / f"{number}.out", folder / f"{number}.err"]
        for path in streams[1:]:
            path.touch()
        names = {
            "SCRIPT": str(script),
            "ARGUMENTS": list(map(str, arguments)),
            "STREAMS": list(map(str, streams)),
        }
        start_worker_server()  # has torch and this package
        launcher = Path(__file__).parent / "processes" / "launch.py"
        process = context.Process(target=runpy.run_path, args=(str(launcher), names))
        process.start()
        started.append(Script(process, streams))
        return started[-1]

    yield start
    for script in started:
        if script.poll() is None:
            os.killpg(script.pid, signal.SIGKILL)
