"""What a container promises of a video and what its decoder delivers, and the one rule for damaged frames.

Decoding goes on after a damaged frame, as in FFmpeg's players: what the decoder marks as damaged and what it refuses is
counted. A video of which more than `MOST_DAMAGED` is damaged is refused; one that ends early or has a gap is kept and
reported.
"""

from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from video_data.media.limits import DamagedVideo, VideoError
from video_data.media.reasons import ENCRYPTED
from video_data.utils.errors import describe

MOST_DAMAGED = 0.1  # share of the frames of a video
MOST_MISSING = 0.1  # share of the promised length beyond which a video is reported as incomplete
MOST_GAP = 2.0  # seconds between two frames beyond which a video may have a gap
_GAP_STEPS = 10  # a gap is so many times as long as the usual step between frames
_USUAL = 0.98  # share of the steps that are usual ones
_SPARED_FRAMES = 3  # a video is not incomplete for so few; the last frame's duration is often not known


@dataclass(frozen=True)
class Delivery:
    """What was promised and delivered of a video.

    Attributes:
        promised_seconds: Length that the container states; None where it states none.
        missing_seconds: How much of that has no frames, at its end.
        num_frames: Frames that were decoded.
        num_damaged: Frames that the decoder marked as damaged, and packets that it refused.
        gap: Start and end of the longest part without frames, in seconds from the first frame; None where no two frames
            lie so far apart that frames are missing: more than `MOST_GAP` seconds, and more than ten times as far as
            98 % of the frames, and as the longest duration of a frame that the container states. So neither a changing
            frame rate nor a pause that is stated makes a gap.
    """

    promised_seconds: float | None
    missing_seconds: float
    num_frames: int
    num_damaged: int
    gap: tuple[float, float] | None = None

    @property
    def is_incomplete(self) -> bool:
        """Whether more than `MOST_MISSING` of the promised length is missing."""
        if self.promised_seconds is None or self.missing_seconds <= MOST_MISSING * self.promised_seconds:
            return False
        delivered = self.promised_seconds - self.missing_seconds
        return self.missing_seconds * self.num_frames > _SPARED_FRAMES * delivered

    @property
    def is_flawed(self) -> bool:
        """Whether frames are damaged, or are missing at the end or in between."""
        return self.num_damaged > 0 or self.is_incomplete or self.gap is not None

    def __str__(self) -> str:
        """Return what is wrong, in words."""
        flaws = []
        if self.num_damaged:
            flaws.append(f"{self.num_damaged} of {self.num_frames} frames are damaged")
        if self.gap is not None:
            flaws.append(f"no frames from {self.gap[0]:.2f} to {self.gap[1]:.2f} seconds")
        if self.is_incomplete and self.promised_seconds is not None:
            end = self.promised_seconds - self.missing_seconds
            flaws.append(f"ends after {end:.2f} of {self.promised_seconds:.2f} seconds")
        return ", ".join(flaws)


def stream_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the length of one stream that its container states; None where it states none, or that of the file."""
    name = container.format.name.split(",")[0]
    tick = stream.time_base
    if name == "mov" and stream.duration and tick:
        return float(stream.duration * tick)
    if name == "avi" and stream.frames and tick:
        return float(stream.frames * tick)
    return _tagged_seconds(stream) if name == "matroska" else None


def _file_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the length of a whole file, that of its longest stream; None where it is not stated, or an estimate."""
    # A stream has a duration here where FFmpeg estimated it from the size of the file.
    if container.format.name.split(",")[0] in ("matroska", "flv") and stream.duration is None:
        return container.duration / av.time_base if container.duration else None
    return None


def _tagged_seconds(stream: VideoStream) -> float | None:
    """Return the length of one track as programs that write Matroska tag it, for example `00:01:03.054000000`."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds or None


def repeats_frame(packet: "Packet[VideoStream]") -> bool:
    """Whether a packet is empty, by which Theora says that the last frame is shown again; decoders refuse such packets.

    What ends the packets of a stream is empty too, and has no time.
    """
    return not packet.size and packet.pts is not None


class Tally:
    """Counts what a decoder delivers of a stream.

    Args:
        container: The open container.
        stream: The stream that is decoded.
        most_damaged: Share of damaged frames that is allowed.

    Attributes:
        streams: The streams to read: others too where the length of the file is all that is stated, since the longest
            of them decides whether it is complete.
    """

    def __init__(
        self, container: InputContainer, stream: VideoStream, most_damaged: float = MOST_DAMAGED
    ) -> None:
        self._most_damaged = most_damaged
        own, whole = stream_seconds(container, stream), _file_seconds(container, stream)
        self._promised = min((seconds for seconds in (own, whole) if seconds is not None), default=None)
        self.streams: list[Stream] = [stream] if own is not None or whole is None else list(container.streams)
        self._others_end = 0.0
        name = container.format.name.split(",")[0]
        # A promised length counts from the stream's first frame, or from time 0 of the whole file.
        self._is_from_zero = name in ("matroska", "flv", "avi")
        self._stores_dts = name == "avi"  # FFmpeg makes up the times at which frames are shown
        self._tick = stream.time_base or Fraction(1)
        self._window: tuple[Fraction, Fraction] | None = None
        self._first: int | None = None
        self._last = 0
        self._last_duration = 0
        self._previous: int | None = None
        self._steps: list[tuple[int, int]] = []  # between frames, with the time after it; where time goes on
        self._longest_duration = 0
        self._num_frames = 0
        self._num_marked = 0
        self._num_refused = 0
        self._refusal = ""
        self._first_damaged: int | None = None

    def limit_to(self, start: Fraction, end: Fraction, begin: int) -> None:
        """Count what is shown from `start` and before `end` alone, in ticks; the stream begins at `begin`."""
        self._window = (start, end)
        if self._promised is not None:
            origin = 0 if self._is_from_zero else begin
            promised_end = min(end, origin + Fraction(self._promised) / self._tick)
            self._promised = max(0.0, float((promised_end - start) * self._tick))

    def decode(self, packet: "Packet[VideoStream]") -> list[VideoFrame]:
        """Decode a packet; one that the decoder refuses is counted and gives no frames.

        Raises:
            VideoError: The packet is encrypted.
        """
        if packet.has_sidedata("encryption_info"):
            raise VideoError(ENCRYPTED)
        if repeats_frame(packet):
            self._note_time(packet.pts, packet.duration)
            return []
        if self._stores_dts and packet.size:
            self._note_time(packet.dts, packet.duration)
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except av.FFmpegError as error:
            self._num_refused += 1
            self._refusal = describe(error)
            self._note_damage()
            return []
        for frame in frames:
            self._add(frame)
        return frames

    def note_other(self, packet: "Packet[Stream]") -> None:
        """Note how far another stream goes."""
        if packet.pts is not None and packet.time_base is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._others_end = max(self._others_end, end)

    def _is_wanted(self, time: int | None) -> bool:
        return self._window is None or (time is not None and self._window[0] <= time < self._window[1])

    def _note_time(self, time: int | None, duration: int | None) -> None:
        if time is not None and self._is_wanted(time):
            self._first = time if self._first is None else min(time, self._first)
            if time >= self._last:
                self._last, self._last_duration = time, duration or 0
            if self._previous is not None and time > self._previous:
                self._steps.append((time - self._previous, time))
            self._previous = time
            self._longest_duration = max(self._longest_duration, duration or 0)

    def _note_damage(self) -> None:
        if self._first_damaged is None:
            self._first_damaged = self._num_frames

    def _add(self, frame: VideoFrame) -> None:
        if not self._is_wanted(frame.pts):
            return
        if frame.is_corrupt:
            self._num_marked += 1
            self._note_damage()
        self._num_frames += 1
        if not self._stores_dts:
            self._note_time(frame.pts, frame.duration)

    def delivery(self) -> Delivery:
        """Return what was delivered until now.

        Raises:
            DamagedVideo: More than the allowed share is damaged.
        """
        num_damaged = self._num_marked + self._num_refused
        total = self._num_frames + self._num_refused
        if self._num_refused and not self._num_frames:
            raise DamagedVideo(
                f"none of {total} packets can be decoded: {self._refusal}",
                reason=f"no packet can be decoded: {self._refusal}",
            )
        if num_damaged > self._most_damaged * total:
            raise DamagedVideo(
                f"{num_damaged} of {total} frames are damaged, from frame {self._first_damaged} on; "
                f"allowed is a share of {self._most_damaged:g}",
                reason="too many frames are damaged",
            )
        missing = round(self._missing_seconds(), 3)
        return Delivery(self._promised, missing, self._num_frames, num_damaged, self._gap())

    def _gap(self) -> tuple[float, float] | None:
        if not self._steps or self._first is None:
            return None
        usual, _ = sorted(self._steps)[int(_USUAL * (len(self._steps) - 1))]
        step, end = max(self._steps)
        if step <= max(MOST_GAP / self._tick, _GAP_STEPS * max(usual, self._longest_duration)):
            return None
        start, end = end - step - self._first, end - self._first
        return round(float(start * self._tick), 3), round(float(end * self._tick), 3)

    def _missing_seconds(self) -> float:
        if self._promised is None or self._first is None:
            return 0.0
        usual = (self._last - self._first) / max(1, self._num_frames - 1)
        end = self._last + max(usual, self._last_duration)
        begin: float = min(0, self._first) if self._is_from_zero else self._first
        if self._window is not None:
            begin = float(self._window[0])
        tick = float(self._tick)
        missing = self._promised - max(end * tick, self._others_end) + begin * tick
        # Less than a frame is rounding.
        return missing if missing * self._num_frames > self._promised - missing else 0.0
