"""What a video may be: its file endings and formats, its size and length, and the errors beyond that."""

import time

from video_data.utils.errors import InputError

# File name endings without the dot, lower case.
VIDEO_SUFFIXES = frozenset(
    ("3gp", "avi", "flv", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "ts", "webm", "wmv")
)
# Their demuxers read one stream of bytes and open nothing else: no playlists, no concat, no image patterns.
FORMAT_WHITELIST = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,gif,ogg,asf"
MAX_PIXELS = 1 << 25  # of one frame; 8K UHD is 33.2 million
MAX_FRAMES = 1 << 20  # of one video
MAX_BYTES = 1 << 31  # of one video
MAX_SECONDS = (
    3600.0  # of processor time to decode one video from end to end; packing encodes in this time too
)
MAX_CLIP_SECONDS = 120.0  # of processor time to decode the clips of one sample


class VideoError(InputError):
    """A video cannot be read; the message says why, without its path.

    Attributes:
        reason: The message without what differs from video to video, to count by.
    """

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or message


class DamagedVideo(VideoError):
    """A video without frames, or with too many damaged ones."""


class UnindexableVideo(VideoError):
    """A video whose frames cannot be found again by their times; encoding it again helps."""

    _advice = "; pack it with mode reencode"

    def __init__(self, message: str) -> None:
        # Another process makes it again from the message with the advice.
        super().__init__(message.removesuffix(self._advice) + self._advice)


class Deadline:
    """A limit on the processor time of this thread. It does not run while other programs have the processor."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.thread_time() + seconds

    def check(self) -> None:
        """Raise `VideoError` when the time is over."""
        if time.thread_time() > self._end:
            raise VideoError(f"more than {self._seconds:g} seconds of processor time", reason="too much time")


def check_frame_size(width: int, height: int) -> None:
    """Raise `VideoError` unless a frame has at least 2x2 and at most `MAX_PIXELS` pixels."""
    if min(width, height) < 2:
        raise VideoError(f"frames of {width}x{height} pixels are too small", reason="frames are too small")
    if width * height > MAX_PIXELS:
        raise VideoError(
            f"frames of {width}x{height} pixels are larger than {MAX_PIXELS} pixels",
            reason="frames are too large",
        )
