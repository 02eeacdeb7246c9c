from video_data.utils.settings import changed_settings


def test_changed_settings_are_named_in_order_with_both_values():
    before, now = {"a": 1, "b": 2, "gone": 3, "same": [4]}, {"a": 1, "b": 5, "new": 6, "same": [4]}
    changed = changed_settings(before, now, names=("new", "b", "same", "gone", "unknown"))
    assert list(changed.items()) == [("new", (None, 6)), ("b", (2, 5)), ("gone", (3, None))]
    assert changed_settings(before, now, names=["a"]) == {}
