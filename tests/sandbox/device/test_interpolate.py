from __future__ import annotations

from pathlib import Path

import pytest

from hybridge_cloud.sandbox.device.interpolate import Scope, interpolate
from hybridge_cloud.sandbox.device.mode import Mode
from hybridge_edge.contract.errors import Refused

SCOPE = Scope(
    "T.One",
    Path("/r/packages/artifacts/T.One/1.0.0"),
    Path("/r/packages/artifacts-unarchived/T.One/1.0.0"),
    Path("/r/work/T.One"),
    Path("/r"),
    "thing-1",
    {"text": "a b", "number": 0.5, "deep": {"flag": True, "list": [1, "x"]}, "gone": None},
)


def test_folders_end_with_a_slash_on_lite_only_so_one_more_slash_is_right_on_both() -> None:
    script = "cat {artifacts:path}/f {artifacts:decompressedPath}/z {work:path}/w"
    lite, classic = (interpolate(script, SCOPE, mode, {}) for mode in (Mode.LITE, Mode.CLASSIC))
    assert classic == (
        "cat /r/packages/artifacts/T.One/1.0.0/f /r/packages/artifacts-unarchived/T.One/1.0.0/z /r/work/T.One/w"
    )
    assert lite.replace("//", "/") == classic
    assert "1.0.0//f" in lite


@pytest.mark.parametrize("mode", Mode)
def test_device_and_configuration_variables(mode: Mode) -> None:
    script = "{iot:thingName} {kernel:rootPath} {configuration:/text} {configuration:/deep/flag}"
    script += " {configuration:/deep/list/1}"
    assert interpolate(script, SCOPE, mode, {}) == "thing-1 /r a b true x"


def test_a_json_number_reads_differently_on_lite() -> None:
    assert interpolate("{configuration:/number}", SCOPE, Mode.LITE, {}) == "0.50000000000000000"
    assert interpolate("{configuration:/number}", SCOPE, Mode.CLASSIC, {}) == "0.5"


@pytest.mark.parametrize(
    "script",
    [
        'echo "x is ${X} after"',  # each of these was cut and executed by nucleus lite 2.6
        "echo 'a b' | awk '{print $2}'",
        "echo {foo:bar}",
        "echo {configuration:/missing}",
        "echo {",
        "echo {Other.One:configuration:/text}",
    ],
)
def test_a_script_that_lite_would_cut_is_refused_and_classic_leaves_it_as_it_is(script: str) -> None:
    with pytest.raises(Refused, match="cut"):
        interpolate(script, SCOPE, Mode.LITE, {})
    assert interpolate(script, SCOPE, Mode.CLASSIC, {}) == script


def test_classic_reads_variables_of_direct_dependencies() -> None:
    other = Scope("Other.One", Path("/a"), Path("/u"), Path("/w"), Path("/r"), "thing-1", {"port": 8001})
    script = "{Other.One:configuration:/port} {Other.One:artifacts:path} {Not.There:artifacts:path}"
    assert interpolate(script, SCOPE, Mode.CLASSIC, {"Other.One": other}) == "8001 /a {Not.There:artifacts:path}"


def test_a_replaced_value_is_not_replaced_again() -> None:
    scope = Scope("T", Path("/a"), Path("/u"), Path("/w"), Path("/r"), "t", {"x": "{iot:thingName}"})
    for mode in Mode:
        assert interpolate("{configuration:/x}", scope, mode, {}) == "{iot:thingName}"
