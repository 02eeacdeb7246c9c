"""The order of samples: a pure function of (seed, position).

Position `g` counts samples over the whole training run and over all ranks. With N samples in a split, pass `g
// N` goes through all of them once. Each pass shuffles the shards, then shuffles the samples within
consecutive windows of `SHUFFLE_WINDOW` shards, so reads stay near each other on disk. Numbers come from
64-bit mixing and BLAKE2b alone, so the order is the same on every machine and with every version of NumPy.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from video_data.utils.errors import InputError
from video_data.utils.lru import LruCache

SHUFFLE_WINDOW = 16  # shards whose samples are shuffled together
_CACHED_WINDOWS = 4


def hash_words(*words: int, num_words: int = 1) -> list[int]:
    """Hash integers to `num_words` (at most 8) uniform 64-bit integers."""
    data = b"".join(word.to_bytes(16, "little", signed=True) for word in words)
    digest = hashlib.blake2b(data, digest_size=8 * num_words).digest()
    return [int.from_bytes(digest[i : i + 8], "little") for i in range(0, len(digest), 8)]


def uniforms(*words: int, count: int) -> list[float]:
    """`count` (at most 8) numbers in [0, 1) that depend on `words` alone."""
    return [(value >> 11) * 2.0**-53 for value in hash_words(*words, num_words=count)]


def permutation(size: int, *words: int) -> np.ndarray:
    """Return a permutation of range(size) that depends on `words` alone, int64 [size].

    The indices are sorted by a 64-bit mix (the finalizer of splitmix64) of index and key.
    """
    key = np.uint64(hash_words(*words)[0])
    value = (
        np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
    )  # wraps modulo 2**64
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    return np.argsort(value, kind="stable")


class SampleOrder:
    """Maps positions to sample indices of a split.

    Args:
        shard_sizes: Number of samples of each shard, in the order of the manifest.
        seed: Any integer in the signed 64-bit range.

    Raises:
        ValueError: There is no sample.
    """

    def __init__(self, shard_sizes: Sequence[int], *, seed: int) -> None:
        if sum(shard_sizes) < 1:
            raise InputError("an order needs at least one sample")
        self._sizes = list(shard_sizes)
        self._first_index = [0, *accumulate(shard_sizes)]
        self._seed = seed
        self._windows: LruCache[tuple[int, int], np.ndarray] = LruCache(_CACHED_WINDOWS)
        self._passes: LruCache[int, tuple[np.ndarray, list[int]]] = LruCache(_CACHED_WINDOWS)

    @property
    def num_samples(self) -> int:
        """Samples in one pass."""
        return self._first_index[-1]

    def __call__(self, position: int, skip: int = 0) -> int:
        """Index in the split of the sample at a global position (any integer >= 0).

        Args:
            position: The position.
            skip: The sample that comes so much later in the pass is meant, from its beginning again after its end.
        """
        pass_index, offset = divmod(position, self.num_samples)
        offset = (offset + skip) % self.num_samples
        shards, starts = self._passes.get(pass_index, lambda: self._shards_of_pass(pass_index))
        window = bisect_right(starts, offset) - 1
        indices = self._windows.get((pass_index, window), lambda: self._window(pass_index, window, shards))
        return int(indices[offset - starts[window]])

    def _shards_of_pass(self, pass_index: int) -> tuple[np.ndarray, list[int]]:
        """Return the pass's order of shards, and the offset at which each window starts."""
        shards = permutation(len(self._sizes), self._seed, pass_index, 0)
        ends = list(accumulate(self._sizes[shard] for shard in shards))
        return shards, [0, *ends[SHUFFLE_WINDOW - 1 : -1 : SHUFFLE_WINDOW]]

    def _window(self, pass_index: int, window: int, shards: np.ndarray) -> np.ndarray:
        """Sample indices of one window in their shuffled order."""
        members = shards[window * SHUFFLE_WINDOW : (window + 1) * SHUFFLE_WINDOW]
        indices = np.concatenate(
            [np.arange(self._first_index[shard], self._first_index[shard + 1]) for shard in members]
        )
        shuffled: np.ndarray = indices[permutation(len(indices), self._seed, pass_index, 1 + window)]
        return shuffled


class BalancedOrder:
    """Maps positions to sample indices so that each class comes equally often.

    With C classes that have samples, C positions in a row hold one sample of each, in an order of their own. A class
    goes through all of its samples, shuffled, before one comes again, and is then shuffled anew: those of small classes
    come more often. Samples that are near each other may lie in any shards.

    Args:
        labels: Class of each sample, int64 [N].
        seed: Any integer in the signed 64-bit range.

    Raises:
        ValueError: There is no sample.
    """

    def __init__(self, labels: np.ndarray, *, seed: int) -> None:
        if len(labels) < 1:
            raise InputError("an order needs at least one sample")
        self.num_samples = len(labels)
        self._members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self._seed = seed
        self._blocks: LruCache[int, np.ndarray] = LruCache(_CACHED_WINDOWS)
        self._passes: LruCache[tuple[int, int], np.ndarray] = LruCache(2 * len(self._members))

    def __call__(self, position: int, skip: int = 0) -> int:
        """Index in the split of the sample at a global position (any integer >= 0).

        Args:
            position: The position.
            skip: The sample of its class that comes so much later is meant, from the first again after the last.
        """
        block, place = divmod(position, len(self._members))
        classes = self._blocks.get(block, lambda: permutation(len(self._members), self._seed, block, 0))
        number = int(classes[place])
        members = self._members[number]
        pass_index, offset = divmod(block, len(members))
        order = self._passes.get(
            (number, pass_index), lambda: permutation(len(members), self._seed, pass_index, 1 + number)
        )
        return int(members[order[(offset + skip) % len(members)]])
