"""A device of a simulated fleet: it obeys the higher epoch, measures what its model does, and reports when it can.

Nothing is decided here; the device is what decision 6 says of a real one, seen from the account.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from hybridge_cloud.rollout.observation import DeviceView, Revision
from hybridge_edge.contract.report import Evidence, ModelReport
from hybridge_edge.contract.states import PackageState

PROBES = 128
"""Rows of a simulated package's probe set; the same on every device."""


@dataclass(frozen=True, slots=True)
class Model:
    """How a simulated version behaves on a device: shares of requests, probes, and paired runs.

    ``score_shift`` is how far its scores lie from those of the version before.

    Attributes:
        refuses: it fails its golden inputs. kills: a device that activates it is never heard of again.
    """

    version: str
    digest: str
    error_rate: float = 0.003
    guard_rate: float = 0.0001
    disagreement: float = 0.0
    slower: float = 0.05
    score_shift: float = 0.02
    refuses: bool = False
    kills: bool = False


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to devices and their reports.

    Attributes:
        requests: of a device in a second. spread: of a device's error rate around the model's, as the standard
            deviation of its logarithm. take_seconds: at most, until a deployment is taken. report_seconds: between
            reports. lost, doubled, late: shares of reports. late_seconds: at most.
        offline: the thing is unreachable at a time (thing, Unix ms).
    """

    requests: float = 2.0
    spread: float = 0.25
    take_seconds: float = 60.0
    report_seconds: float = 30.0
    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    late_seconds: float = 120.0
    offline: Callable[[str, int], bool] = lambda thing, now_ms: False


@dataclass(slots=True)
class SimulatedDevice:
    """One device. ``history`` holds (version, epoch) of every switch, the first one included."""

    thing: str
    ring: int
    rng: np.random.Generator
    weather: Weather
    models: dict[str, Model]
    version: str
    epoch: int
    rollout: str = "before"
    refused: Model | None = None
    why: str = ""
    evidence: Evidence | None = None
    shadow: Model | None = None
    shadow_evidence: Evidence | None = None
    is_dead: bool = False
    taken: str = ""
    history: list[tuple[str, int]] = field(default_factory=list)
    delivered: tuple[ModelReport, ...] = ()
    delivered_ms: int = 0
    _due_ms: int = 0
    _taking: tuple[str, int] = ("", 0)
    _on_the_way: deque[tuple[int, tuple[ModelReport, ...]]] = field(default_factory=deque)
    _factor: float = 1.0

    def __post_init__(self) -> None:
        self.history.append((self.version, self.epoch))
        self._factor = float(np.exp(self.rng.normal(0.0, self.weather.spread)))

    def is_online(self, now_ms: int) -> bool:
        return not self.is_dead and not self.weather.offline(self.thing, now_ms)

    def live(self, latest: Revision, since_ms: int, now_ms: int) -> None:
        """Let time pass from ``since_ms`` to ``now_ms``; ``latest`` is what the device's ring is asked for."""
        if self.is_online(now_ms):
            self._take(latest, now_ms)
        if self.is_online(now_ms):
            self._serve((now_ms - since_ms) / 1000)
            if now_ms >= self._due_ms:
                self._report(now_ms)
        while self._on_the_way and self._on_the_way[0][0] <= now_ms:
            arrived, self.delivered = self._on_the_way.popleft()
            self.delivered_ms = max(arrived, self.delivered_ms)

    def view(self, latest: Revision, now_ms: int) -> DeviceView:
        """What the account shows of it."""
        return DeviceView(
            self.thing,
            self.ring,
            online=self.is_online(now_ms),
            last_report_ms=self.delivered_ms,
            taken=bool(latest.deployment) and self.taken == latest.deployment,
            reports=self.delivered,
        )

    def _take(self, latest: Revision, now_ms: int) -> None:
        if latest.deployment == self.taken or latest.cancelled:
            return
        if self._taking[0] != latest.deployment:
            self._taking = (latest.deployment, now_ms + int(self.rng.uniform(0, self.weather.take_seconds) * 1000))
        if now_ms < self._taking[1]:
            return
        self.taken = latest.deployment
        if latest.epoch > self.epoch:
            self._obey(latest)
        self._due_ms = 0

    def _obey(self, asked: Revision) -> None:
        before, model = self.models[self.version], self.models[asked.version]
        self.epoch, self.rollout = asked.epoch, asked.rollout
        if model.refuses:
            self.refused, self.why = model, "golden: 3 of 8 rows differ"
            return
        self.is_dead = model.kills
        self.refused = self.shadow = None
        if asked.mode == "shadow" and model.version != before.version:
            self.shadow, self.shadow_evidence = model, self._probed(before, model)
            return
        if model.version == before.version:
            return
        self.version = model.version
        self.history.append((model.version, asked.epoch))
        self.evidence = self._probed(before, model)

    def _probed(self, before: Model, model: Model) -> Evidence:
        disagreed = int(
            np.random.default_rng([PROBES, *model.digest[-8:].encode()]).binomial(PROBES, model.disagreement)
        )
        return Evidence(
            against=before.digest,
            probes=PROBES,
            probes_disagreed=disagreed,
            probes_slower=int(self.rng.binomial(PROBES, model.slower)),
            probe_us=900,
            probe_us_before=880,
        )

    def _stand_beside(self, model: Model, seen: Evidence, seconds: float) -> None:
        """A fifth of the requests is answered by the shadow too, and every second of these is timed."""
        runs = int(self.rng.binomial(int(self.rng.poisson(self.weather.requests * seconds)), 0.2))
        timed, live = runs // 2, seen.live + runs
        noise = abs(float(self.rng.normal(0.0, 0.5 / np.sqrt(max(1, live)))))
        self.shadow_evidence = replace(
            seen,
            requests=seen.requests + runs,
            errors=seen.errors + int(self.rng.binomial(runs, min(1.0, model.error_rate * self._factor))),
            guarded=seen.guarded + int(self.rng.binomial(runs, model.guard_rate)),
            live=live,
            live_disagreed=seen.live_disagreed + int(self.rng.binomial(runs, model.disagreement)),
            live_timed=seen.live_timed + timed,
            live_slower=seen.live_slower + int(self.rng.binomial(timed, model.slower)),
            score_shift=int(1000 * min(1.0, model.score_shift + noise)),
        )

    def _serve(self, seconds: float) -> None:
        if self.shadow is not None and self.shadow_evidence is not None:
            self._stand_beside(self.shadow, self.shadow_evidence, seconds)
        if self.evidence is None:
            return
        model, seen = self.models[self.version], self.evidence
        requests = int(self.rng.poisson(self.weather.requests * seconds))
        live = int(self.rng.binomial(requests, 0.05))
        self.evidence = replace(
            seen,
            requests=seen.requests + requests,
            errors=seen.errors + int(self.rng.binomial(requests, min(1.0, model.error_rate * self._factor))),
            guarded=seen.guarded + int(self.rng.binomial(requests, model.guard_rate)),
            live=seen.live + live,
            live_disagreed=seen.live_disagreed + int(self.rng.binomial(live, model.disagreement)),
        )

    def _report(self, now_ms: int) -> None:
        self._due_ms = now_ms + int(self.weather.report_seconds * 1000)
        if self.rng.random() < self.weather.lost:
            return
        model = self.models[self.version]
        reports = [self._entry(model, PackageState.ACTIVE, "", self.evidence)]
        if self.shadow is not None:
            reports.append(self._entry(self.shadow, PackageState.SHADOW, "", self.shadow_evidence))
        if self.refused is not None:
            reports.append(self._entry(self.refused, PackageState.REFUSED, self.why, None))
        is_late = self.rng.random() < self.weather.late
        late_ms = int(self.rng.uniform(0, self.weather.late_seconds) * 1000) if is_late else 0
        for _ in range(2 if self.rng.random() < self.weather.doubled else 1):
            self._on_the_way.append((now_ms + late_ms, tuple(reports)))
            late_ms += int(self.rng.uniform(0, self.weather.late_seconds) * 1000)
        # A late report arrives after newer ones and, as a shadow does, takes their place.
        self._on_the_way = deque(sorted(self._on_the_way, key=lambda item: item[0]))

    def _entry(self, model: Model, state: PackageState, why: str, evidence: Evidence | None) -> ModelReport:
        return ModelReport("watch", model.version, model.digest, state, self.rollout, self.epoch, "cpu", why,
                           evidence=evidence)  # fmt: skip
