"""Graphs that no runtime should ever see are refused by their bytes, with the reason and what to do (S7a)."""

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import onnx
import pytest
from hostile_graphs import (
    CONDITION,
    HOSTILE,
    OURS,
    call,
    changed,
    external,
    findings,
    function,
    good,
    if_node,
    loop_node,
    nested,
    scan_node,
    sequence_map,
    tensor,
    with_location_in_the_high_bits,
    with_two_graphs,
)
from onnx import TensorProto, helper

from hybridge_edge import engine, onnx_wire
from hybridge_edge.admission.lint import check_graphs, used_control_flow
from hybridge_edge.contract.errors import PackageRefused
from hybridge_edge.contract.states import PackageState
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.trust import open_package


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_graph_is_refused_with_its_reason(name: str) -> None:
    make, reason = HOSTILE[name]
    found = findings(make())
    assert any(re.search(reason, one) for one in found), found


@pytest.mark.parametrize("make", [with_location_in_the_high_bits, with_two_graphs])
def test_protobuf_takes_such_a_file_for_one_with_data_outside(make: Callable[[], bytes]) -> None:
    """The control of two rows: a reader that took the file at its word would have seen nothing."""
    read = onnx.ModelProto.FromString(make())
    assert [one.data_location for one in read.graph.initializer] == [TensorProto.EXTERNAL]


def test_the_corpus_is_large_enough() -> None:
    assert len(HOSTILE) >= 40


def test_good_graphs_have_no_findings() -> None:
    assert findings(good()) == []
    assert findings(good(initialisers=(tensor(), CONDITION))) == []
    assert findings(good(if_node(), initialisers=(CONDITION,)), ("If",)) == []
    assert findings(good(loop_node(), initialisers=(CONDITION,)), ("Loop",)) == []
    assert findings(good(scan_node()), ("Scan",)) == []
    assert findings(nested(4), ("If",)) == []
    assert findings(good(*call("f", 3), functions=(function("f", *call("g", 2)), function("g")), opsets=OURS)) == []
    assert findings(good(helper.make_node("Gelu", ["mean"], ["r"], domain="com.microsoft"))) == []
    assert findings(changed(lambda model: model.graph.output[0].type.tensor_type.ClearField("shape"))) == []


def test_what_a_graph_uses_is_found_wherever_it_stands() -> None:
    """What ``hybridge compile`` declares is what a device asks for."""
    for model, used in (
        (good(), ()),
        (good(if_node(loop_node()), initialisers=(CONDITION,)), ("If", "Loop")),
        (good(sequence_map(), scan_node()), ("Loop", "Scan")),
        (good(functions=(function("f", loop_node()),), opsets=OURS), ("Loop",)),
    ):
        assert used_control_flow(good().SerializeToString(), model.SerializeToString()) == used
        assert findings(model, used) == []
    with pytest.raises(PackageRefused, match="no graph"):
        used_control_flow(b"")


def test_what_is_declared_is_all_that_may_be_used() -> None:
    assert findings(good(if_node(loop_node()), initialisers=(CONDITION,)), ("If",)) == [
        "model.onnx: node 'for ever' (Loop) is control flow that the manifest does not declare."
    ]


def test_a_file_of_too_many_fields_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_wire, "MAX_FIELDS", 10)
    assert findings(good()) == ["model.onnx holds more than 10 fields."]


def test_findings_are_bounded() -> None:
    assert len(findings(good(*[helper.make_node("Run", ["mean"], [""], domain="evil")] * 100))) == 16


def test_the_newest_that_the_runtime_reads_is_what_it_reads() -> None:
    """The detector's control: one more of either is refused by the runtime itself."""
    import onnxruntime

    readable = engine.readable()
    for ir_version, opset, read in (
        (readable.ir_version, readable.opset, True),
        (readable.ir_version + 1, readable.opset, False),
        (readable.ir_version, readable.opset + 1, False),
    ):
        model = good(opsets=(("", opset),))
        model.ir_version = ir_version
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        except Exception:
            assert not read, (ir_version, opset)
        else:
            assert read, (ir_version, opset)


def test_a_package_is_refused_at_the_step_and_the_old_one_serves(
    device: Any, packages: Callable, kit: ModuleType, trust: TrustDocument
) -> None:
    old = packages("1.0.0", 1.0)
    check_graphs(open_package(old.folder, trust), engine.readable())  # the control: this one is nothing to refuse
    device.activation.hand_over(old.handover(1))
    bad = packages("1.1.0", 2.0, graph=good(initialisers=(external("/etc/passwd"),)).SerializeToString())
    with pytest.raises(PackageRefused) as refused:
        check_graphs(open_package(bad.folder, trust), engine.readable())
    assert refused.value.step == "lint"
    loads = device.loads
    answer = device.activation.hand_over(bad.handover(2))
    assert (answer.state, answer.reason) == (
        PackageState.REFUSED,
        "lint: model.onnx: tensor 'weights' has its data outside of the file.",
    )
    assert (device.loads, device.serves()) == (loads, ("1.0.0", 1.0))
    assert not device.store.holds(bad.digest)
