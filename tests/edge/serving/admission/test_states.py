"""A package with states on its way to serving: lint, its golden sequence, warm-up, probes; and live comparisons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest

from hybridge_edge.admission.trial import try_in_child
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.state import State
from hybridge_edge.contract.states import PackageState
from hybridge_edge.serving.call import Call
from hybridge_edge.serving.sequences import Step
from hybridge_edge.serving.service import Inference


@pytest.fixture
def counters(tmp_path: Path, kit: ModuleType) -> Callable[..., Any]:
    count = iter(range(100))
    return lambda *arguments, **options: kit.build_counter(tmp_path / f"counter-{next(count)}", *arguments, **options)


def ask(device: Any, kit: ModuleType, step: Step | None, value: Any) -> Any:
    return device.service.infer(Inference(kit.COUNTER, "", "", {"x": value.reshape(1, -1)}, sequence=step), Call(5.0))


def test_it_is_admitted_by_its_golden_sequence_in_a_real_trial(
    device: Any, counters: Callable[..., Any], kit: ModuleType
) -> None:
    device.trial = lambda package, stop: try_in_child(package, 1, stop)
    device.restart()
    answer = device.activation.hand_over(counters().handover(1))
    assert answer.state is PackageState.ACTIVE, answer
    values = kit.steps_of()
    found = [ask(device, kit, Step(1, at == 0), value).outputs[0][1] for at, value in enumerate(values)]
    assert numpy.array_equal(numpy.vstack(found), kit.counted(values))  # neither trial nor warm-up left anything
    assert device.service.sequences.counts().begun == 1


def without(manifest: Manifest, name: str) -> Manifest:
    return replace(manifest, states=tuple(one for one in manifest.states if one.input != name))


def other(manifest: Manifest, state: State) -> Manifest:
    """The manifest with another state of that input, or one more."""
    return replace(manifest, states=(*without(manifest, state.input).states, state))


REFUSED: dict[str, tuple[Callable[[Manifest], Manifest], str]] = {
    "a state that the manifest forgot": (lambda one: without(one, "seen"), "'seen'"),
    "a state that no graph has": (lambda one: other(one, State("more", "more_next", "FP32", (1,))), "'more'"),
    "another type": (lambda one: other(one, State("seen", "seen_next", "INT32", (1,))), "the manifest says INT32"),
    "another shape": (
        lambda one: other(one, State("total", "next", "FP32", (2, 2))),
        "says FP32 of [2, 2]",
    ),
    "another graph": (lambda one: other(one, State("total", "next", "FP32", (1, 2), "features")), "'total'"),
    "another beginning": (lambda one: other(one, State("total", "next", "FP32", (1, 2))), "differs by up to 100"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_states_that_are_not_the_graphs_are_refused(device: Any, counters: Callable[..., Any], case: str) -> None:
    change, sentence = REFUSED[case]
    answer = device.activation.hand_over(counters(change=change).handover(1))
    assert answer.state is PackageState.REFUSED
    assert sentence in answer.reason


def test_golden_outputs_that_differ_in_a_late_step_are_found(
    device: Any, counters: Callable[..., Any], kit: ModuleType
) -> None:
    """The positive control: a device that ran each step from the beginning would find the first step right alone."""
    built = counters(golden_error=1.0)
    assert device.activation.hand_over(built.handover(1)).state is PackageState.REFUSED
    assert not numpy.array_equal(kit.counted(kit.steps_of(7))[1:], kit.counted(kit.steps_of(7)[1:]))


def test_probes_are_one_sequence_in_each_version(device: Any, counters: Callable[..., Any], kit: ModuleType) -> None:
    assert device.activation.hand_over(counters().handover(1)).state is PackageState.ACTIVE
    seen: dict[str, list[Any]] = {}
    inner = device.activation._steps._runner.beside

    def beside(resident: Any, inputs: Any, wait_s: float, state: Any = None) -> Any:
        result = inner(resident, inputs, wait_s, state)
        if wait_s > 5:  # probes wait longer than warm-up does
            seen.setdefault(resident.manifest.version, []).append(result.outputs["sum"])
        return result

    device.activation._steps._runner.beside = beside
    assert device.activation.hand_over(counters("1.1.0", probes=6).handover(2)).state is PackageState.ACTIVE
    wanted = kit.counted(kit.steps_of(11, 6))
    for version in ("1.0.0", "1.1.0"):
        warming, *found = seen[version]
        assert numpy.array_equal(numpy.vstack(found), wanted), version
        assert numpy.array_equal(warming, wanted[:1])
    evidence = device.reports()["1.1.0"].evidence
    assert (evidence.probes, evidence.probes_disagreed) == (6, 0)


def test_live_comparisons_leave_models_with_states_out(
    device: Any, counters: Callable[..., Any], packages: Callable[..., Any], kit: ModuleType, wait_for: Any
) -> None:
    device.live_share = 1.0
    device.restart()
    for epoch, version in enumerate(("1.0.0", "1.1.0"), start=1):
        assert device.activation.hand_over(counters(version).handover(epoch)).state is PackageState.ACTIVE
        assert device.activation.hand_over(packages(version).handover(epoch)).state is PackageState.ACTIVE
    for value in kit.steps_of():
        ask(device, kit, None, value)
        device.ask(kit.window())
    watch, counter = (device.service.residents.active(name) for name in (kit.MODEL, kit.COUNTER))
    wait_for(lambda: watch.tally.evidence("", watch.paired).live == 5)  # the control: others are compared
    assert counter.tally.evidence("", counter.paired).live == 0


def test_its_samples_are_captured_without_the_state(device: Any, counters: Callable[..., Any], kit: ModuleType) -> None:
    class Kept:
        def __init__(self) -> None:
            self.observations: list[Any] = []

        def offer(self, observation: Any) -> None:
            self.observations.append(observation)

        def close(self) -> None:
            pass

    assert device.activation.hand_over(counters().handover(1)).state is PackageState.ACTIVE
    kept = device.service.capture = Kept()
    values = kit.steps_of()
    for at, value in enumerate(values):
        ask(device, kit, Step(1, at == 0), value)
    assert [sorted(one.features) for one in kept.observations] == [["smooth"]] * 5
    assert [sorted(one.outputs) for one in kept.observations] == [["count", "sum"]] * 5
    assert numpy.array_equal(numpy.vstack([one.outputs["sum"] for one in kept.observations]), kit.counted(values))
    device.service.capture = None
