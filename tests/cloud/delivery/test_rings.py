"""Which ring a device is in."""

from __future__ import annotations

import pytest

from hybridge_cloud.fleet.rings import ring_of
from hybridge_edge.contract.errors import InvalidName


def fleet_of(count: int) -> dict[str, int]:
    placed: dict[str, int] = {}
    for number in range(count):
        name = f"device-{number}"
        placed[name] = ring_of(name, placed)
    return placed


def test_the_first_device_of_a_fleet_goes_first() -> None:
    assert ring_of("anything", {}) == 0


def test_shares_are_one_ten_fifty_hundred_per_cent() -> None:
    placed = list(fleet_of(20_000).values())
    cumulative = [sum(1 for ring in placed if ring <= limit) / len(placed) for limit in range(4)]
    assert cumulative == pytest.approx([0.01, 0.10, 0.50, 1.0], abs=0.01)


def test_a_device_keeps_its_ring_for_life() -> None:
    placed = fleet_of(200)
    assert {name: ring_of(name, placed) for name in placed} == placed
    assert {name: ring_of(name, placed, pinned=0) for name in placed} == placed


def test_a_new_device_can_be_pinned_to_a_ring_that_exists() -> None:
    assert ring_of("new", {"first": 0}, pinned=2) == 2
    with pytest.raises(InvalidName, match="Ring 4 does not exist"):
        ring_of("new", {"first": 0}, pinned=4)
