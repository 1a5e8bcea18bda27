"""Rollouts over a simulated fleet: what must hold whatever devices, reports, controllers and operators do.

Every random test names its seed; `Simulation(scenario, seed)` gives the same run again.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from hybridge_cloud.rollout import commands
from hybridge_cloud.rollout.action import WriteWave
from hybridge_cloud.rollout.binomial import at_least
from hybridge_cloud.rollout.simulate import (
    BEFORE,
    EPOCH,
    FIRST_EPOCH,
    GOOD,
    SIMULATED_LIMITS,
    Broken,
    Scenario,
    Simulation,
)
from hybridge_cloud.rollout.simulated_device import Model, Weather
from hybridge_cloud.rollout.state import ENDED, Status, WaveStatus

BAD = {
    "ten times the errors": replace(GOOD, error_rate=GOOD.error_rate * 10),
    "shuffled": replace(GOOD, disagreement=0.75),
    "ten times slower": replace(GOOD, slower=0.99),
    "NaN": replace(GOOD, guard_rate=1.0),
    "refused": replace(GOOD, refuses=True),
    "kills its device": replace(GOOD, kills=True),
}
ROUGH = Weather(lost=0.3, doubled=0.3, late=0.3)
ENOUGH = replace(SIMULATED_LIMITS, minimum_requests=3000)
"""Requests after which three failures in a hundred are told from the one that is allowed: none of 400 went past ring 0.
With the 200 of the default some 6 in 100 of such models are found in ring 1 and put back from there."""
random = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


def _passed_in_turn(simulation: Simulation) -> None:
    """Rings are reached in order, and each once."""
    assert simulation.reached("2.0.0") == set(range(len(simulation.reached("2.0.0"))))


def _all_back(simulation: Simulation) -> None:
    """Every device that can be reached runs the version before, and the others are listed."""
    listed = {item.thing for item in simulation.state.exceptions}
    assert set(simulation.on("2.0.0")) <= listed
    for device in simulation.devices:
        versions = [version for version, _ in device.history]
        assert versions in (["1.0.0"], ["1.0.0", "2.0.0"], ["1.0.0", "2.0.0", "1.0.0"])  # never to and fro


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_model_never_gets_past_ring_0_and_is_put_back(kind: str, seed: int) -> None:
    simulation = Simulation(Scenario(BAD[kind], weather=ROUGH), seed)
    state = simulation.run()
    assert state.status is Status.PUT_BACK, state.reason
    assert simulation.reached("2.0.0") == {0}
    _all_back(simulation)
    assert state.detected_at_ms <= state.put_back_at_ms


def test_good_models_pass_and_are_aborted_no_more_often_than_stated() -> None:
    """An A/A rollout: devices differ in their error rates, and a look a tick may not cost more than stated."""
    same = Model("2.0.0", GOOD.digest, error_rate=BEFORE.error_rate, disagreement=0.0)
    runs = 40
    ended = [Simulation(Scenario(same, weather=Weather()), seed).run() for seed in range(runs)]
    aborted = [state.reason for state in ended if state.status is not Status.SUCCEEDED]
    stated = 3 * 5 * 0.001  # waves, gates that test, alpha
    assert at_least(len(aborted), runs, stated) > 0.001, aborted


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(BAD)), st.integers(1, 3))
@random
def test_controllers_that_crash_sleep_and_overtake_each_other_never_advance_twice(
    seed: int, kind: str, controllers: int
) -> None:
    note(f"seed {seed}")
    for model in (GOOD, BAD[kind]):
        scenario = Scenario(model, controllers=controllers, crash=0.05, weather=ROUGH, limits=ENOUGH)
        simulation = Simulation(scenario, seed)
        state = simulation.run()  # raises Broken where a ring is written twice, too early, or while paused
        _passed_in_turn(simulation)
        if model is GOOD:
            assert state.status is Status.SUCCEEDED, state.reason
        else:
            assert simulation.reached("2.0.0") == {0}
            _all_back(simulation)


@given(st.integers(0, 2**32 - 1), st.integers(0, 45), st.booleans())
@random
def test_an_abort_at_any_tick_puts_every_device_back(seed: int, tick: int, reckless: bool) -> None:
    note(f"seed {seed}")
    simulation = Simulation(Scenario(controllers=2, crash=0.05, reckless=reckless, weather=ROUGH), seed)
    for _ in range(tick):
        simulation.step()
    if simulation.state.status is Status.SUCCEEDED:
        simulation.operate(lambda state: commands.rollback(simulation.plan, state, EPOCH + 7, simulation.now_ms))
    else:
        simulation.operate(lambda state: commands.abort(simulation.plan, state, simulation.now_ms))
    state = simulation.run()
    assert state.status in (Status.PUT_BACK, Status.STOPPED)
    for _ in range(20):
        simulation.step()
    assert simulation.on("2.0.0") == []
    again = commands.abort(simulation.plan, simulation.state, simulation.now_ms)
    assert again == simulation.state


@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(["pause", "resume", "advance"]), max_size=8))
@random
def test_an_operator_may_pause_resume_and_advance_at_any_time(seed: int, asked: list[str]) -> None:
    note(f"seed {seed}")
    simulation = Simulation(Scenario(controllers=2, crash=0.03), seed)
    for name in asked:
        for _ in range(int(simulation.rng.integers(1, 8))):
            simulation.step()
        running = any(wave.status is WaveStatus.WRITTEN for wave in simulation.state.waves)
        if simulation.state.status in ENDED or (name == "advance" and not running):
            continue
        command = getattr(commands, name)
        simulation.operate(lambda state, command=command: command(state, simulation.now_ms))  # type: ignore[misc]
    if simulation.state.status is Status.PAUSED:
        written = [len(ring) for ring in simulation.revisions]
        for _ in range(60):
            simulation.step()
        assert [len(ring) for ring in simulation.revisions] == written
        simulation.operate(lambda state: commands.resume(state, simulation.now_ms))
    assert simulation.run().status is Status.SUCCEEDED
    _passed_in_turn(simulation)


@pytest.mark.parametrize("lost", [0.5, 0.9, 1.0])
def test_silence_never_passes(lost: float) -> None:
    simulation = Simulation(Scenario(weather=Weather(lost=lost)), 7)
    state = simulation.run()
    if lost == 1.0:
        assert state.status is Status.PUT_BACK
        assert simulation.reached("2.0.0") == {0}
        assert [item.thing for item in state.exceptions] == ["d0-0"]
    for wave in state.waves:
        if wave.status is WaveStatus.PASSED:
            assert all(verdict.outcome.value == "PASS" for verdict in wave.verdicts)


def test_an_offline_device_converges_directly_when_it_returns_and_is_listed_until_then() -> None:
    back_ms = 10**12

    def away(thing: str, now_ms: int) -> bool:
        return thing in ("d1-0", "d2-3") and now_ms < back_ms

    simulation = Simulation(Scenario(weather=Weather(offline=away)), 3)
    state = simulation.run()
    assert state.status is Status.SUCCEEDED
    assert {item.thing for item in state.exceptions} == {"d1-0", "d2-3"}
    simulation.operate(lambda state: commands.rollback(simulation.plan, state, EPOCH + 5, simulation.now_ms))
    state = simulation.run()
    assert {item.thing for item in state.exceptions} == {"d1-0", "d2-3"}
    simulation.now_ms = back_ms
    simulation.run(lambda now: not now.state.exceptions)
    for device in simulation.devices:
        seen = [version for version, _ in device.history]
        assert seen == (["1.0.0"] if device.thing in ("d1-0", "d2-3") else ["1.0.0", "2.0.0", "1.0.0"])


def test_a_device_that_took_a_bad_model_and_went_offline_is_put_back_when_it_returns() -> None:
    gone_ms, back_ms = 1_000_000_000 + 120_000, 10**12
    weather = Weather(offline=lambda thing, now_ms: gone_ms <= now_ms < back_ms)
    simulation = Simulation(Scenario(replace(GOOD, guard_rate=1.0), weather=weather), 5)
    simulation.run(lambda now: now.state.status in ENDED)
    assert simulation.on("2.0.0") == ["d0-0"]
    assert [item.thing for item in simulation.state.exceptions] == ["d0-0"]
    simulation.now_ms = back_ms
    simulation.run(lambda now: not now.state.exceptions)
    assert simulation.on("2.0.0") == []
    assert simulation.devices[0].history[-1] == ("1.0.0", EPOCH + 1)


def test_a_foreign_revision_in_the_middle_stops_and_touches_nothing_more() -> None:
    simulation = Simulation(Scenario(controllers=2), 11)
    simulation.run(lambda now: now.state.waves[1].is_reached)
    simulation.write_foreign(1, "7.0.0")
    state = simulation.run()
    assert state.status is Status.STOPPED
    assert state.reason.startswith("FOREIGN_REVISION")
    written = [len(ring) for ring in simulation.revisions]
    for _ in range(20):
        simulation.step()
    assert [len(ring) for ring in simulation.revisions] == written
    assert simulation.reached("2.0.0") <= {0, 1}


def test_a_first_version_runs_on_and_a_bad_one_stops() -> None:
    good, bad = (Simulation(Scenario(model, first=True), 1) for model in (GOOD, BAD["NaN"]))
    assert good.run().status is Status.SUCCEEDED
    state = bad.run()
    assert state.status is Status.STOPPED
    assert bad.reached("2.0.0") == {0}
    bad.step()
    assert bad.revisions[0][-1].cancelled


def test_a_thousand_devices_are_put_back_after_an_abort_in_the_last_ring() -> None:
    simulation = Simulation(Scenario(rings=(10, 90, 900), tick_seconds=60.0), 2)
    simulation.run(lambda now: now.state.waves[2].is_reached and len(now.on("2.0.0")) > 300)
    simulation.operate(lambda state: commands.abort(simulation.plan, state, simulation.now_ms))
    assert simulation.run().status is Status.PUT_BACK
    assert simulation.on("2.0.0") == []
    assert {device.epoch for device in simulation.devices} == {EPOCH + 1}


def test_the_same_seed_gives_the_same_run() -> None:
    runs = [Simulation(Scenario(controllers=2, crash=0.05, weather=ROUGH), 99) for _ in range(2)]
    assert runs[0].run() == runs[1].run()
    assert runs[0].revisions == runs[1].revisions


def test_the_simulation_notices_a_controller_that_writes_too_early_or_twice() -> None:
    """The control: what the tests above rely on can fail."""
    simulation = Simulation(Scenario(), 1)
    with pytest.raises(Broken, match="before"):
        simulation._check_forward(WriteWave(1, "2.0.0", EPOCH))
    simulation.run(lambda now: bool(now.state.waves[0].deployment))
    with pytest.raises(Broken, match="twice"):
        simulation._check_forward(WriteWave(0, "2.0.0", EPOCH))
    simulation.operate(lambda state: commands.pause(state, simulation.now_ms))
    with pytest.raises(Broken, match="PAUSED"):
        simulation._check_forward(WriteWave(0, "2.0.0", EPOCH))
    with pytest.raises(Broken, match="no end"):
        Simulation(Scenario(max_ticks=3), 1).run()
    assert FIRST_EPOCH < EPOCH
