"""Counting what could not be read, by reason, and stopping when it is too much."""

import logging
from collections import Counter

from video_data.utils.errors import WorkError

DEFAULT_ERROR_BUDGET = 0.01  # fraction of the samples of a pass that may be unreadable

_log = logging.getLogger(__name__)


class ErrorBudget:
    """Counts samples that could not be read; the first for each reason is logged as a warning.

    Args:
        allowed: how many there may be.

    Attributes:
        counts: how many there were, by reason.
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
            key: what names it.
            reason: what was wrong, in the same words for all samples of which it is true.
            message: what was wrong, with the details.

        Raises:
            RuntimeError: there are more than allowed; the message has the counts.
        """
        self.counts[reason] += 1
        if reason not in self._logged:
            self._logged.add(reason)
            _log.warning(
                "%s was left out: %s. More for this reason are counted without a message.", key, message
            )
        if self.counts.total() > self._allowed:
            summary = "; ".join(f"{count} x {reason}" for reason, count in self.counts.most_common())
            raise WorkError(
                f"{self.counts.total()} samples could not be read, the error budget allows {int(self._allowed)} "
                f"in this run: {summary}. Last one: {key}"
            )
