from __future__ import annotations

from hybridge_cloud.sandbox.device import configuration


def test_merge_goes_deep_into_objects_and_replaces_the_rest() -> None:
    base = {"a": {"x": 1, "y": 2}, "l": [1, 2], "s": "old"}
    merged = configuration.merge(base, {"a": {"y": 3, "z": 4}, "l": [9], "s": {"now": "object"}})
    assert merged == {"a": {"x": 1, "y": 3, "z": 4}, "l": [9], "s": {"now": "object"}}
    assert base == {"a": {"x": 1, "y": 2}, "l": [1, 2], "s": "old"}


def test_reset_comes_before_merge_and_goes_back_to_the_default() -> None:
    default = {"a": {"x": 1}, "b": 2}
    current = {"a": {"x": 9, "own": 1}, "b": 9, "c": 9}
    after = configuration.apply(current, default, {"b": 5}, ["/a/x", "/b", "/c", "/not/there"], fill=False)
    assert after == {"a": {"x": 1, "own": 1}, "b": 5}
    assert configuration.apply(current, default, {"d": 1}, [""], fill=False) == {"a": {"x": 1}, "b": 2, "d": 1}


def test_a_new_default_key_reaches_an_existing_configuration_on_lite_only() -> None:
    for fill, wanted in ((True, {"old": 9, "new": 1}), (False, {"old": 9})):
        assert configuration.apply({"old": 9}, {"old": 1, "new": 1}, None, [], fill=fill) == wanted


def test_applying_a_deployment_twice_changes_nothing_more() -> None:
    once = configuration.apply({"a": 1}, {"a": 0, "b": 0}, {"a": 2, "c": {"d": 1}}, ["/a"], fill=True)
    assert configuration.apply(once, {"a": 0, "b": 0}, {"a": 2, "c": {"d": 1}}, ["/a"], fill=True) == once


def test_changed_paths_name_each_difference_once() -> None:
    before = {"a": {"x": 1, "y": 1}, "b": 1, "same": [1]}
    after = {"a": {"x": 2, "y": 1}, "c": 1, "same": [1]}
    assert configuration.changed_paths(before, after) == [("a", "x"), ("b",), ("c",)]
    assert configuration.changed_paths({"n": 1}, {"n": True}) == [("n",)]
    assert configuration.changed_paths(after, after) == []
