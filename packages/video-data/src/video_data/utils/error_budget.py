"""Counting what could not be read, by reason, and stopping when it is too much."""

import logging
from collections import Counter

from video_data.utils.errors import InputError, WorkError
from video_data.utils.messages import MOST_NAMES

_SHARE = 0.01  # of the samples that may be unreadable
_VIDEOS = 5  # of a pass that may be unreadable, though they are more than that share

_log = logging.getLogger(__name__)


def allowed_errors(
    error_budget: float | None, num_samples: float, *, num_videos: int, repeats: int = 1
) -> float:
    """Return how many samples may be unreadable.

    Args:
        error_budget: Their fraction; None stands for 0.01, and in small sets for 5 videos of each pass.
        num_samples: Samples that are read, in any number of passes.
        num_videos: Videos of a pass.
        repeats: Samples that a pass takes of each video.

    Raises:
        InputError: The fraction is not from 0 to 1.
    """
    if error_budget is None:
        return max(_SHARE * num_samples, _VIDEOS * max(repeats, num_samples / max(1, num_videos)))
    if not 0 <= error_budget <= 1:
        raise InputError(f"error_budget is a fraction from 0 to 1, got {error_budget}")
    return error_budget * num_samples


class ErrorBudget:
    """Counts samples that could not be read; the first for each reason is logged as a warning.

    Args:
        allowed: How many there may be.

    Attributes:
        counts: How many there were, by reason.
    """

    def __init__(self, allowed: float) -> None:
        self.counts: Counter[str] = Counter()
        self._allowed = allowed
        self._logged: set[str] = set()

    def clear(self) -> None:
        """Begin to count anew; reasons that were logged stay logged."""
        self.counts = Counter()

    def add(self, key: str, reason: str, message: str) -> None:
        """Count one sample.

        Args:
            key: What names it.
            reason: What was wrong, in the same words for all samples of which it is true.
            message: What was wrong, with the details.

        Raises:
            RuntimeError: There are more than allowed; the message has the counts.
        """
        self.counts[reason] += 1
        if reason not in self._logged:
            self._logged.add(reason)
            _log.warning(
                "%s was left out: %s. More for this reason are counted without a message.", key, message
            )
        if self.counts.total() > self._allowed:
            summary = "; ".join(
                f"{count} x {reason}" for reason, count in self.counts.most_common(MOST_NAMES)
            )
            if len(self.counts) > MOST_NAMES:
                summary += f"; and {len(self.counts) - MOST_NAMES} more reasons"
            raise WorkError(
                f"{self.counts.total()} samples could not be read, the error budget allows {int(self._allowed)} "
                f"in this run: {summary}. Last one: {key}. corrnet verify names what is damaged; with a larger "
                "error_budget (data.error_budget in a recipe) the rest is used all the same"
            )
