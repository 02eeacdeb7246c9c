"""The cache of limited size."""

import pickle

import pytest

from video_data.utils.lru import LruCache


def test_what_was_used_longest_ago_is_forgotten():
    dropped = []
    cache = LruCache(2, forget=dropped.append)
    assert [cache.get(key, lambda key=key: key.upper()) for key in "aba"] == ["A", "B", "A"]
    assert cache.get("c", lambda: "C") == "C"
    assert dropped == ["B"]  # it came after A, which was used again
    cache.clear()
    assert dropped == ["B", "A", "C"]


def test_a_value_that_cannot_be_made_leaves_nothing_behind():
    cache = LruCache(1)
    cache.get("a", lambda: 1)
    with pytest.raises(ZeroDivisionError):
        cache.get("b", lambda: 1 // 0)
    assert cache.get("a", lambda: 2) == 1


def test_it_can_be_sent_to_other_processes():
    cache = LruCache(2)
    cache.get("a", lambda: 1)
    assert pickle.loads(pickle.dumps(cache)).get("a", lambda: 2) == 1
