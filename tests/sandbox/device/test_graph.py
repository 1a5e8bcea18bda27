from __future__ import annotations

import pytest

from hybridge_cloud.sandbox.device.graph import start_order
from hybridge_edge.contract.errors import InvalidDocument


def test_dependencies_start_first_and_absent_ones_are_left_out() -> None:
    order = start_order({"model": ["server"], "uplink": ["server", "absent"], "server": [], "app": ["model", "uplink"]})
    assert sorted(order) == ["app", "model", "server", "uplink"]
    assert order[0] == "server"
    assert order[-1] == "app"


def test_the_order_does_not_depend_on_the_order_of_names() -> None:
    forward = {"a": ["b"], "b": ["c"], "c": [], "d": ["a", "c"]}
    assert start_order(forward) == start_order(dict(reversed(forward.items())))


def test_a_circle_is_named() -> None:
    with pytest.raises(InvalidDocument, match=r"b -> c -> b|c -> b -> c"):
        start_order({"a": ["b"], "b": ["c"], "c": ["b"]})
