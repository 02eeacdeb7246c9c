"""The small statistics the report needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z_95 = 1.959963984540054


def wilson_interval(num_right: int, num_total: int, *, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson, 1927).

    It stays inside 0..1 and is sensible for few trials and for proportions near 0 and 1, where the
    normal approximation is not.

    Args:
        num_right: Trials that succeeded.
        num_total: Trials.
        z: Normal quantile; the default gives a two-sided 95 % interval.

    Returns:
        Lower and upper end, fractions in 0..1.

    Raises:
        ValueError: If `num_total` is not positive or `num_right` is outside 0..`num_total`.
    """
    if num_total < 1:
        raise ValueError(f"num_total must be at least 1, got {num_total}")
    if not 0 <= num_right <= num_total:
        raise ValueError(f"num_right must be in 0..{num_total}, got {num_right}")
    share = num_right / num_total
    shrink = 1 + z * z / num_total
    center = (share + z * z / (2 * num_total)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / num_total + (z / (2 * num_total)) ** 2)
    # The ends are exactly 0 and 1 there; rounding alone would miss them.
    low = 0.0 if num_right == 0 else center - half
    high = 1.0 if num_right == num_total else center + half
    return low, high


def running_mean(values: Sequence[float], *, window: int) -> list[float]:
    """Centered mean over up to `window` neighbors; the window shrinks evenly towards both ends.

    Args:
        values: The series.
        window: Odd number of values to average.

    Returns:
        A list as long as `values`.
    """
    assert window >= 1 and window % 2 == 1
    last = len(values) - 1
    means = []
    for index in range(len(values)):
        reach = min(window // 2, index, last - index)
        neighbors = values[index - reach : index + reach + 1]
        means.append(sum(neighbors) / len(neighbors))
    return means
