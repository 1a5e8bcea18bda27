"""The plan, its limits and the state as documents: what is written is what is read, and what is wrong is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hybridge_cloud.rollout.plan import Limits, Plan, Wave, read_limits
from hybridge_cloud.rollout.simulate import Scenario, Simulation
from hybridge_cloud.rollout.state import State, Status
from hybridge_edge.contract.errors import InvalidDocument


@pytest.fixture
def plan() -> Plan:
    return Simulation(Scenario(), 0).plan


def test_a_plan_and_a_state_are_read_as_they_were_written(plan: Plan) -> None:
    simulation = Simulation(Scenario(), 0)
    simulation.run(lambda now: now.state.waves[1].is_reached)
    assert simulation.state.waves[0].verdicts
    assert State.from_bytes(simulation.state.to_bytes()) == simulation.state
    first = replace(plan, previous_version="", previous_digest="", comparison=None)
    for one in (plan, first):
        assert Plan.from_bytes(one.to_bytes()) == one


def test_every_limit_has_a_default_and_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "rollout.yaml"
    path.write_text("")
    assert read_limits(path) == read_limits(None) == Limits()
    path.write_text("bake_seconds: 5\nreport_seconds: 20\nerror_rate: 0.02\napprove: [1, 3]\n")
    assert read_limits(path) == Limits(bake_seconds=5, report_seconds=20, error_rate=0.02, approve=(1, 3))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bake_second: 5", "'bake_second'"),
        ("bake_seconds: -1", "'bake_seconds'"),
        ("bake_seconds: yes", "'bake_seconds'"),
        ("bake_seconds: 5.5", "'bake_seconds'"),
        ("bake_seconds: 7200", "'deadline_seconds'"),
        ("alpha: 0", "'alpha'"),
        ("error_rate: 1.5", "'error_rate'"),
        ("minimum_requests: 0", "silence never passes"),
        ("report_seconds: 0", "'report_seconds'"),
        ("disagreement_margin: 1", "'disagreement_margin'"),
        ("approve: [4]", "'approve'"),
        ("approve: [1, 1]", "'approve'"),
        ("- 1", "not a JSON object"),
        ("a: [", "is not YAML"),
        ("alpha: .nan", "'alpha'"),
        ("!!python/object/apply:os.system [true]", "is not YAML"),
    ],
)
def test_a_wrong_limit_is_refused_by_its_name(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "rollout.yaml"
    path.write_text(text + "\n")
    with pytest.raises(InvalidDocument, match=said.replace("[", r"\[")):
        read_limits(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match=r"none\.yaml cannot be read"):
        read_limits(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"waves": ()}, "no device to begin with"),
        ({"waves": (Wave(0, "f-r0", ()),)}, "no device to begin with"),
        ({"waves": (Wave(1, "f-r1", ("a",)), Wave(0, "f-r0", ("b",)))}, "order"),
        ({"waves": (Wave(0, "f-r0", ("a",)), Wave(1, "f-r1", ("a",)))}, "two waves"),
        ({"previous_version": ""}, "what it replaces"),
        ({"previous_digest": "sha256:" + "2" * 64}, "what it replaces"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(plan: Plan, changed: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidDocument, match=said):
        replace(plan, **changed)  # type: ignore[arg-type]


def test_a_state_with_a_word_nobody_knows_is_refused() -> None:
    data = Simulation(Scenario(), 0).state.to_bytes()
    assert State.from_bytes(data).status is Status.RUNNING
    for known, unknown in ((b'"RUNNING"', b'"WALKING"'), (b'"PENDING"', b'"LATER"'), (b'"format":1', b'"format":2')):
        with pytest.raises(InvalidDocument):
            State.from_bytes(data.replace(known, unknown, 1))
