"""What a manifest may say of states, and what it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybridge_edge.contract.document import canonical
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.state import MAX_STATE_BYTES, MAX_STATES, State, inputs_of, outputs_of

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
GOOD = {"input": "h", "output": "hn", "datatype": "FP32", "shape": [1, 4], "graph": "model", "initial": 0.0}


def manifest(states: list[dict[str, Any]], **changes: Any) -> Manifest:
    fields = json.loads((GOLDEN / "manifest.json").read_bytes())
    return Manifest.from_bytes(canonical({**fields, "max_batch": 1, "states": states, **changes}))


def test_states_of_both_graphs_are_told_apart() -> None:
    read = manifest([GOOD, {**GOOD, "input": "context", "output": "next", "graph": "features"}])
    assert [spec.name for spec in inputs_of(read.states, "model")] == ["h"]
    assert [spec.name for spec in outputs_of(read.states, "features")] == ["next"]
    assert (read.states[0].shape, read.states[0].size) == ((1, 4), 16)


def test_a_manifest_without_states_does_not_speak_of_them() -> None:
    assert b"states" not in Manifest.from_bytes((GOLDEN / "manifest.json").read_bytes()).to_bytes()


def test_a_whole_number_begins_as_the_same_bytes_as_its_float() -> None:
    one, other = (State("h", "hn", "FP32", (1,), initial=value) for value in (2, 2.0))
    assert canonical(one.to_json()) == canonical(other.to_json())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"shape": [-1, 4]}, "positive dimensions"),
        ({"shape": []}, "positive dimensions"),
        ({"shape": [1 << 20, 1 << 10]}, "bytes; "),
        ({"datatype": "BYTES"}, "BYTES"),
        ({"datatype": "INT8", "initial": 128.0}, "no value 128"),
        ({"datatype": "UINT8", "initial": -1.0}, "no value -1"),
        ({"datatype": "INT32", "initial": 0.5}, "no value 0.5"),
        ({"datatype": "BOOL", "initial": 2.0}, "no value 2"),
        ({"datatype": "FP16", "initial": 1e9}, "no value"),
        ({"graph": "other"}, "none of"),
        ({"input": ""}, "names of 1 to 128"),
        ({"output": "probabilities"}, "name of another tensor"),
        ({"input": "features"}, "name of another tensor"),
    ],
)
def test_a_state_that_cannot_be_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidDocument, match=named):
        manifest([{**GOOD, **changes}])


def test_states_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InvalidDocument, match="one row"):
        manifest([GOOD], max_batch=8)
    with pytest.raises(InvalidDocument, match="declares a state twice"):
        manifest([GOOD, {**GOOD, "output": "other"}])
    with pytest.raises(InvalidDocument, match="name of another tensor"):
        manifest([GOOD, {**GOOD, "input": "c"}])
    many = [{**GOOD, "input": f"h{n}", "output": f"hn{n}"} for n in range(MAX_STATES + 1)]
    with pytest.raises(InvalidDocument, match="are more than"):
        manifest(many)
    large = [{**one, "shape": [MAX_STATE_BYTES // 8]} for one in many[:3]]
    with pytest.raises(InvalidDocument, match="take more than"):
        manifest(large)
    assert len(manifest(large[:2]).states) == 2


@pytest.mark.parametrize(
    ("datatype", "initial"), [("INT8", -128.0), ("UINT64", 2.0**63), ("BOOL", 1.0), ("FP64", 1e300), ("FP16", -65504.0)]
)
def test_extremes_that_a_datatype_has_are_taken(datatype: str, initial: float) -> None:
    assert manifest([{**GOOD, "datatype": datatype, "initial": initial}]).states[0].initial == initial
