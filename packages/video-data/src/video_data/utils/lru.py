"""A cache that forgets what was used longest ago."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Keeps the values that were used last; unlike `functools.lru_cache` it belongs to one object and can be pickled.

    Args:
        max_size: Most values that are kept.
        forget: Called with each value that is dropped.
    """

    def __init__(self, max_size: int, forget: Callable[[V], object] | None = None) -> None:
        self._max_size = max_size
        self._forget = forget
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of `key`, which `make` makes when it is not there."""
        if key not in self._values:
            self._values[key] = make()
            self._shrink(self._max_size)
        self._values.move_to_end(key)
        return self._values[key]

    def drop(self, key: K) -> None:
        """Drop the value of `key` where it is there."""
        if key in self._values:
            self._values.move_to_end(key, last=False)
            self._shrink(len(self._values) - 1)

    def clear(self) -> None:
        """Drop all values."""
        self._shrink(0)

    def _shrink(self, size: int) -> None:
        while len(self._values) > size:
            _, dropped = self._values.popitem(last=False)
            if self._forget is not None:
                self._forget(dropped)
