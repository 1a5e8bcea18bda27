"""What the contract refuses, with a sentence that names the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import HybridgeError, InvalidDocument, InvalidName
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.package_file import relative_path
from hybridge_edge.contract.sample import Sample

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"


def manifest(**changes: Any) -> bytes:
    fields = json.loads((GOLDEN / "manifest.json").read_bytes())
    return canonical({**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": "Watch"}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"version": "1.0"}, "version"),
        ({"version": "01.0.0"}, "version"),
        ({"max_batch": 0}, "max_batch"),
        ({"max_batch": True}, "max_batch"),
        ({"features_digest": "abc"}, "features_digest"),
        ({"variants": []}, "variants"),
        ({"inputs": []}, "signature"),
        ({"files": []}, "does not list"),
        ({"confidence_output": "logits"}, "confidence"),
        ({"metrics": {"accuracy": "high"}}, "accuracy"),
        ({"inputs": [{"name": "window", "datatype": "FP31", "shape": [-1, 2]}]}, "FP31"),
        ({"inputs": [{"name": "window", "datatype": "FP32", "shape": [-1, -1]}]}, "shape"),
        ({"inputs": [{"name": "window", "datatype": "FP32", "shape": [1 << 20, 1 << 20]}]}, "elements"),
    ],
)
def test_a_manifest_with_a_wrong_field_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidDocument, match=named):
        Manifest.from_bytes(manifest(**changes))


def test_an_unchanged_manifest_passes() -> None:
    assert Manifest.from_bytes(manifest()).name == "watch"


@pytest.mark.parametrize(
    "path",
    [
        "../x.onnx",
        "/x.onnx",
        "a/../x.onnx",
        "x.pt",
        "x.pkl",
        "a\\x.onnx",
        "./x.onnx",
        "x\n.onnx",
        "manifest.json",
        "a/b/c/d/x.onnx",
        "",
    ],
)
def test_a_path_that_could_leave_the_folder_or_hold_code_is_refused(path: str) -> None:
    with pytest.raises(InvalidDocument):
        relative_path(path)


def test_plain_paths_pass() -> None:
    assert [relative_path(path) for path in ("features.onnx", "golden/window.npy")] == [
        "features.onnx",
        "golden/window.npy",
    ]


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":2}', '{"a":NaN}', '{"a":1e400}', "[]", "nonsense", '{"a":' * 3000 + "1" + "}" * 3000, "\xff"]
)
def test_json_that_could_be_read_two_ways_is_refused(text: str) -> None:
    with pytest.raises(InvalidDocument):
        parse(text.encode("latin-1"), "document").number("a")


@given(st.binary(max_size=400), st.integers(0, 400))
def test_a_sample_damaged_anywhere_is_refused_or_another_sample_but_never_a_crash(noise: bytes, position: int) -> None:
    data = bytearray((GOLDEN / "sample.bin").read_bytes())
    data[position : position + len(noise)] = noise
    try:
        Sample.from_bytes(bytes(data))
    except HybridgeError:
        pass


@pytest.mark.parametrize("key", ["devices/a/batches/watch/x.json", "devices/thing:1/batches/m/5-1-2.json"])
def test_a_batch_manifest_s_key_is_recognised(key: str) -> None:
    assert names.parse_batch_manifest_key(key) is not None


@pytest.mark.parametrize(
    "key",
    [
        "devices/a/data/watch/x.npz",
        "devices/a/batches/Watch/x.json",
        "devices//batches/m/x.json",
        "x",
        "devices/a/batches/m/x/y.json",
    ],
)
def test_other_keys_are_not(key: str) -> None:
    assert names.parse_batch_manifest_key(key) is None


def test_names_of_models_devices_fleets_and_prefixes_are_checked() -> None:
    for call in (
        lambda: names.model_name("Watch"),
        lambda: names.thing_name("a b"),
        lambda: names.fleet_name("x" * 121),
        lambda: names.ring_group("f", 4),
        lambda: names.ComponentNames("a..b"),
        lambda: names.sample_id(""),
        lambda: names.version("1.0.0-rc1"),
    ):
        with pytest.raises(InvalidName):
            call()


def test_versions_are_ordered_by_number_and_not_by_letter() -> None:
    assert sorted(["10.0.0", "2.0.0", "1.9.9"], key=names.version_key) == ["1.9.9", "2.0.0", "10.0.0"]
