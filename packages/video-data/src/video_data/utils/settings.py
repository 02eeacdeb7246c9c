"""Which settings have changed since something was begun that is to go on."""

from collections.abc import Iterable, Mapping
from typing import Any


def changed_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], *, names: Iterable[str]
) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, each with its value before and now; None stands for one that is missing.

    Args:
        before: settings that something was begun with.
        now: those with which it is to go on.
        names: the settings that count; the result is in their order.
    """
    values = {name: (before.get(name), now.get(name)) for name in names}
    return {name: (old, new) for name, (old, new) in values.items() if old != new}
