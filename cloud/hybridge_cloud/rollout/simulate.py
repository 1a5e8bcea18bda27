"""A simulated account and fleet in which the real `decide` rolls out: no network, no clock, one seed.

What is simulated is what surrounds the decision: a store with conditional writes, rings with revisions, devices that
are slow, offline or silent, and any number of controllers, each of which may stop or die between any two of its steps.
What is real is the plan, the state, the decision, the gates, and the operator's commands.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hybridge_cloud.rollout import commands
from hybridge_cloud.rollout.action import Action, Cancel, WriteWave, is_wanted, recorded
from hybridge_cloud.rollout.decide import decide, foreign
from hybridge_cloud.rollout.observation import Observation, Revision
from hybridge_cloud.rollout.plan import Limits, Plan, Wave
from hybridge_cloud.rollout.simulated_device import Model, SimulatedDevice, Weather
from hybridge_cloud.rollout.state import ENDED, State, Status, WaveStatus, planned
from hybridge_edge.contract.expectations import Comparison

EPOCH = 10
FIRST_EPOCH = 3
"""Of the version before."""
ROLLOUT = "fleet-10"
START_MS = 1_000_000_000
SIMULATED_LIMITS = Limits(bake_seconds=120, report_seconds=300, deadline_seconds=1800)
BEFORE = Model("1.0.0", "sha256:" + "1" * 64)
GOOD = Model("2.0.0", "sha256:" + "2" * 64, disagreement=0.03)


class Broken(AssertionError):
    """Something happened that must never happen."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run. ``rings`` holds the number of devices by ring; ``crash`` the share of controllers' steps that kill one.

    Attributes:
        reckless: writers do not ask whether their act is still wanted right before it, as if a lease had expired.
        first: the fleet never had the model.
    """

    model: Model = GOOD
    rings: tuple[int, ...] = (1, 2, 4)
    weather: Weather = field(default_factory=Weather)
    limits: Limits = SIMULATED_LIMITS
    controllers: int = 1
    crash: float = 0.0
    reckless: bool = False
    first: bool = False
    tick_seconds: float = 15.0
    max_ticks: int = 1000


class Simulation:
    """A fleet, an account and controllers; `step` lets one tick pass. The same seed gives the same run."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.rng = np.random.default_rng(seed)
        self.now_ms = START_MS
        names = [[f"d{ring}-{number}" for number in range(count)] for ring, count in enumerate(scenario.rings)]
        before = None if scenario.first else BEFORE
        rows = 400
        self.plan = Plan(
            ROLLOUT, "fleet", "watch", scenario.model.version, scenario.model.digest,
            before.version if before else "", before.digest if before else "",
            None if before is None else Comparison(before.digest, rows, int(rows * GOOD.disagreement)),
            tuple(Wave(ring, f"fleet-r{ring}", tuple(things)) for ring, things in enumerate(names)),
            scenario.limits, START_MS, "simulation",
        )  # fmt: skip
        models = {model.version: model for model in (BEFORE, scenario.model)}
        self.devices = [
            SimulatedDevice(thing, ring, np.random.default_rng([seed, ring, number]), scenario.weather, models,
                            BEFORE.version, FIRST_EPOCH)
            for ring, things in enumerate(names)
            for number, thing in enumerate(things)
        ]  # fmt: skip
        first = Revision("before", before.version if before else "", "before", FIRST_EPOCH)
        self.revisions: list[list[Revision]] = [[first] for _ in names]
        beside = EPOCH - 1 if scenario.limits.shadow is not None else 0
        self.state = commands.start(planned(self.plan), EPOCH, EPOCH + 1, START_MS, beside)
        self.etag = 0
        self.audit: list[str] = []
        self.lost_writes = 0
        self._controllers = [self._controller() for _ in range(scenario.controllers)]

    def run(self, until: Callable[[Simulation], bool] | None = None) -> State:
        """Tick until the rollout is over, or ``until`` says so. Raises Broken where it never is."""
        for _ in range(self.scenario.max_ticks):
            if until(self) if until else self.state.status in ENDED:
                return self.state
            self.step()
        raise Broken(f"no end after {self.scenario.max_ticks} ticks: {self.state.status.value}, {self.state.reason}")

    def step(self) -> None:
        """One tick: devices live, then every controller makes a few of its steps, in any order."""
        since, self.now_ms = self.now_ms, self.now_ms + int(self.scenario.tick_seconds * 1000)
        for device in self.devices:
            device.live(self.revisions[device.ring][-1], since, self.now_ms)
        steps = 12 if len(self._controllers) == 1 else int(self.rng.integers(1, 24))
        for _ in range(steps):
            at = int(self.rng.integers(len(self._controllers)))
            if self.rng.random() < self.scenario.crash:
                self._controllers[at].close()
                self._controllers[at] = self._controller()
            next(self._controllers[at])

    def operate(self, command: Callable[[State], State]) -> None:
        """An operator's command, written as the command line does: again where somebody was faster."""
        self._put(command(self.state), self.etag)

    def write_foreign(self, ring: int, version: str) -> None:
        """Somebody else deploys to a ring."""
        name = f"foreign-{ring}-{len(self.revisions[ring])}"
        self.revisions[ring].append(Revision(name, version, "", 0, ours=False))

    def observe(self) -> Observation:
        """What a controller would see now."""
        latest = [ring[-1] for ring in self.revisions]
        views = tuple(device.view(latest[device.ring], self.now_ms) for device in self.devices)
        return Observation(views, dict(enumerate(latest)))

    def on(self, version: str) -> list[str]:
        """Devices whose active version this is."""
        return [device.thing for device in self.devices if device.version == version]

    def reached(self, version: str) -> set[int]:
        """Rings that ever had a revision with this version."""
        return {ring for ring, all_of in enumerate(self.revisions) if any(one.version == version for one in all_of)}

    def _put(self, state: State, etag: int) -> bool:
        if etag != self.etag:
            self.lost_writes += 1
            return False
        self.state = State.from_bytes(state.to_bytes())
        self.etag += 1
        return True

    def _controller(self) -> Generator[None, None, None]:
        """One controller: every yield is a place where it may sleep for long, or die."""
        while True:
            state, etag = self.state, self.etag
            yield
            observation, now_ms = self.observe(), self.now_ms
            yield
            decision = decide(self.plan, state, observation, now_ms)
            if decision.state != state:
                if not self._put(decision.state, etag):
                    continue
                self.audit.extend(decision.audit)
            yield
            yield from self._act(decision.actions)

    def _act(self, actions: Sequence[Action]) -> Generator[None, None, None]:
        for action in actions:
            if not is_wanted(self.state, action):
                continue
            if self.scenario.reckless:
                yield
            outcome = self._write(action)
            yield
            while True:
                state, etag = self.state, self.etag
                if outcome is None:
                    after = foreign(self.plan, state, action.ring, self.revisions[action.ring][-1].deployment,
                                    self.now_ms).state  # fmt: skip
                else:
                    after = recorded(state, action, outcome, self.now_ms)
                if after == state or self._put(after, etag):
                    break
                yield

    def _write(self, action: Action) -> str | None:
        """The account's side of an action: a deployment's id, or None where the ring's latest one is foreign."""
        ring = self.revisions[action.ring]
        latest = ring[-1]
        if isinstance(action, Cancel):
            at = next(index for index, one in enumerate(ring) if one.deployment == action.deployment)
            ring[at] = replace(ring[at], cancelled=True)
            return action.deployment
        if not latest.ours:
            return None
        asked = (action.version, self.plan.id, action.epoch)
        if (latest.version, latest.rollout, latest.epoch) == asked and not latest.cancelled:
            return latest.deployment
        if isinstance(action, WriteWave):
            self._check_forward(action)
        ring.append(Revision(f"r{action.ring}-{len(ring)}-e{action.epoch}", *asked, mode=action.mode.value))
        return ring[-1].deployment

    def _check_forward(self, action: WriteWave) -> None:
        """A wave is written only after every wave before it has passed, once, and never while paused."""
        before = [wave for wave in self.state.waves if wave.ring < action.ring]
        written = [one for one in self.revisions[action.ring] if one.epoch == action.epoch and not one.cancelled]
        if self.scenario.reckless and self.state.status is not Status.RUNNING:
            return
        if self.state.status is not Status.RUNNING:
            raise Broken(f"ring {action.ring} was written while {self.state.status.value}")
        if any(wave.status is not WaveStatus.PASSED for wave in before):
            raise Broken(f"ring {action.ring} was written before {before} had passed")
        if written:
            raise Broken(f"ring {action.ring} was written twice: {written}")
