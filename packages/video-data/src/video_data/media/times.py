"""Increasing times for frames whose own do not increase, with their order and their durations."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

_MOST_REORDERED = 16  # frames that H.264 and HEVC may hold back


def repair_times(pts: Sequence[int | None], is_key: Sequence[bool], step: int) -> tuple[list[int], int]:
    """Return increasing times from 0 on for frames in the order in which the decoder delivers them.

    That order is right also where the times are not. Times that are exchanged among neighbors, as where a container
    stores the order of decoding (H.264 with B-frames in AVI), are sorted. Where time begins anew, as in transport
    streams that were joined, it goes on. Frames of one time share the time until the next one.

    Args:
        pts: Times of the frames in ticks; None where a frame has none and follows the last one by `step`.
        is_key: Whether decoding can begin at the frame.
        step: Duration of a frame in ticks where the times do not tell it.

    Returns:
        The times in units of a tick divided by the second value, which is 1 where ticks are short enough.
    """
    known: list[int] = []
    for value in pts:
        known.append(value if value is not None else known[-1] + step if known else 0)
    times: list[int] = []
    for segment in _segments(known, is_key, step):
        begin = times[-1] + step if times else 0
        step = _usual_step(segment, step)
        times += [begin + time - segment[0] for time in segment]
    return _spread(times, step)


def _segments(pts: Sequence[int], is_key: Sequence[bool], step: int) -> list[list[int]]:
    """Return the sorted times of parts between which time begins anew; a time that alone goes back is replaced."""
    segments: list[list[int]] = []
    latest: list[
        int
    ] = []  # the last frames' times, of which one frame never passes more than _MOST_REORDERED
    for number, (time, key) in enumerate(zip(pts, is_key, strict=True)):
        passed = sum(other > time for other in latest)
        if not segments or passed > _MOST_REORDERED or (passed and key and time <= min(segments[-1])):
            following = pts[number + 1 : number + 3]
            if segments and following and min(following) > max(latest):
                time = latest[-1] + step
            else:
                segments.append([])
                latest = []
        segments[-1].append(time)
        latest = [*latest[-_MOST_REORDERED:], time]
    return [sorted(segment) for segment in segments]


def _usual_step(times: Sequence[int], default: int) -> int:
    steps = sorted(after - before for before, after in pairwise(times) if after > before)
    return steps[len(steps) // 2] if steps else default


def _spread(times: Sequence[int], step: int) -> tuple[list[int], int]:
    """Return increasing times in parts of a tick: frames of one time are spread until the next time."""
    runs: list[tuple[int, int]] = []
    for time in times:
        if runs and runs[-1][0] == time:
            runs[-1] = (time, runs[-1][1] + 1)
        else:
            runs.append((time, 1))
    ends = [time for time, _ in runs[1:]] + [runs[-1][0] + step] if runs else []
    parts = max((-(-count // (end - time)) for (time, count), end in zip(runs, ends, strict=True)), default=1)
    spread = [
        int(parts * (time + Fraction((end - time) * number, count)))
        for (time, count), end in zip(runs, ends, strict=True)
        for number in range(count)
    ]
    return spread, parts
