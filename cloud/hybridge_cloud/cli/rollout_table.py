"""How a rollout looks: a live table for people, lines for logs, one JSON object for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hybridge_cloud.rollout.observation import DeviceView, Observation
from hybridge_cloud.rollout.record import Entry, Record
from hybridge_cloud.rollout.state import Status, WaveState
from hybridge_cloud.rollout.verdict import Outcome
from hybridge_edge.contract.report import ModelReport
from hybridge_edge.contract.states import Mode, PackageState

if TYPE_CHECKING:
    from rich.table import Table

    from hybridge_cloud.rollout.controller import Turn

NOTHING_MOVES = "Nothing moves unless a controller runs: hybridge rollout watch {id} --fleet {fleet}"
_SAID = 20
"""Lines of what happened that the live table keeps on show."""


def document(record: Record, entries: tuple[Entry, ...] | None = None) -> str:
    """The rollout as one line of JSON: ``plan``, ``state`` and, where given, ``audit``."""
    found: dict[str, object] = {"plan": record.plan.to_json(), "state": record.state.to_json()}
    if entries is not None:
        found["audit"] = [entry.to_json() for entry in entries]
    return json.dumps(found, sort_keys=True)


def headline(record: Record) -> str:
    """One sentence: what, where, how it stands, and why."""
    plan, state = record.plan, record.state
    reason = f": {state.reason}" if state.reason else ""
    return f"{plan.id}: {plan.model} {plan.version} on {plan.fleet} is {state.status.value}{reason}"


def lines(record: Record) -> Iterator[str]:
    """The waves, their verdicts and the devices that are not where the rollout wants them."""
    plan, state = record.plan, record.state
    yield headline(record)
    before = plan.previous_version or "nothing"
    measured = plan.comparison
    compared = f"; measured disagreement {measured.disagreed} of {measured.rows} rows" if measured else ""
    yield f"instead of {before}, planned {_clock(plan.created_at_ms)} by {plan.created_by}{compared}"
    for wave in state.waves:
        planned = plan.wave(wave.ring)
        yield f"ring {wave.ring}: {wave.status.value}, {', '.join(planned.devices) or 'no devices'}{_written(wave)}"
        for verdict in wave.shadowed:
            yield f"  as a shadow {verdict.outcome.value} {verdict.gate.value}: {verdict.reason}"
        for verdict in wave.verdicts:
            yield f"  {verdict.outcome.value} {verdict.gate.value}: {verdict.reason}"
    for gap in state.gaps:
        yield f"gap: {gap.sentence(plan.model)}"
    for item in state.exceptions:
        yield f"not there: {item.thing}: {item.why}"
    if not state.is_over:
        yield NOTHING_MOVES.format(id=plan.id, fleet=plan.fleet)
    elif state.exceptions:
        yield f"As of the last look; look again: hybridge rollout watch {plan.id} --fleet {plan.fleet}"


def why(record: Record, entries: tuple[Entry, ...]) -> Iterator[str]:
    """What failed or holds, with its numbers, and the whole history."""
    yield headline(record)
    for wave in record.state.waves:
        for verdict in wave.verdicts:
            if verdict.outcome is not Outcome.PASS:
                test = f" ({verdict.test})" if verdict.test else ""
                yield f"ring {wave.ring}: {verdict.outcome.value} {verdict.gate.value}{test}: {verdict.reason}"
    for gap in record.state.gaps:
        yield f"gap: {gap.sentence(record.plan.model)}"
    for item in record.state.exceptions:
        yield f"not there: {item.thing}: {item.why}"
    for entry in entries:
        for line in entry.lines:
            yield f"{_clock(entry.at_ms)}  {line}"


@contextmanager
def shown(as_json: bool) -> Iterator[Callable[[Turn], None]]:
    """Yield what a controller tells of every turn: a live table on a terminal, lines or JSON lines elsewhere."""
    from rich.console import Console

    console = Console()
    if as_json or not console.is_terminal:
        yield _Lines(as_json).told
        return
    from rich.live import Live

    table = _Live()
    with Live(console=console, refresh_per_second=4) as live:

        def told(turn: Turn) -> None:
            live.update(table.drawn(turn))

        yield told


class _Lines:
    """Says what changed since the last turn."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._status: Status | None = None
        self._last = ""
        self._verdicts: dict[tuple[int, str], Outcome] = {}

    def told(self, turn: Turn) -> None:
        state = turn.record.state
        if self._as_json:
            text = document(turn.record)
            if text != self._last:
                self._last = text
                print(text, flush=True)
            return
        said = list(turn.lines)
        for wave in state.waves:
            for verdict in wave.verdicts:
                key = (wave.ring, verdict.gate.value)
                if self._verdicts.get(key) is not verdict.outcome:
                    self._verdicts[key] = verdict.outcome
                    said.append(f"ring {wave.ring}: {verdict.outcome.value} {verdict.gate.value}: {verdict.reason}")
        if state.status is not self._status:
            self._status = state.status
            said.append(headline(turn.record))
        for line in said:
            if line != self._last:  # what waits says so once, not every second
                print(line, flush=True)
            self._last = line


class _Live:
    """What the table shows: the last look at every device, and the last things that happened."""

    def __init__(self) -> None:
        self._observation: Observation | None = None
        self._said: list[str] = []

    def drawn(self, turn: Turn) -> Table:
        from rich.table import Table
        from rich.text import Text

        self._observation = turn.observation or self._observation
        self._said = [*self._said, *(line for line in turn.lines if line not in self._said)][-_SAID:]
        record = turn.record
        whole = Table.grid()
        whole.add_row(Text(headline(record), style="bold"))
        whole.add_row(self._devices(record))
        for wave in record.state.waves:
            for verdict in wave.verdicts:
                style = {Outcome.PASS: "green", Outcome.FAIL: "red", Outcome.HOLD: "yellow"}[verdict.outcome]
                text = f"ring {wave.ring}  {verdict.outcome.value} {verdict.gate.value}: {verdict.reason}"
                whole.add_row(Text(text, style=style))
        for line in self._said:
            whole.add_row(Text(line, style="dim"))
        return whole

    def _devices(self, record: Record) -> Table:
        from rich.table import Table

        table = Table("ring", "wave", "device", "runs", "requests", "probes", "live", "last report")
        for wave in record.state.waves:
            for thing in record.plan.wave(wave.ring).devices:
                view = self._observation.view(thing) if self._observation else None
                table.add_row(str(wave.ring), wave.status.value, thing, *_cells(view))
        return table


def _cells(view: DeviceView | None) -> tuple[str, ...]:
    if view is None:
        return "?", "", "", "", ""
    runs = "; ".join(f"{item.version} {item.state.value}" for item in view.reports) or view.failed or "no report"
    if view.component is not None:
        runs = f"{view.component.version} {view.component.state}"
    active = next((item for item in view.reports if item.state is PackageState.ACTIVE), None)
    when = _clock(view.last_report_ms) if view.last_report_ms else "never"
    return runs, *_evidence(active), when if view.online else f"{when}, offline"


def _evidence(report: ModelReport | None) -> tuple[str, str, str]:
    found = report.evidence if report is not None else None
    if found is None:
        return "", "", ""
    return (
        f"{found.requests}, {found.errors + found.guarded} bad",
        f"{found.probes_disagreed} of {found.probes} differ",
        f"{found.live_disagreed} of {found.live} differ",
    )


def _written(wave: WaveState) -> str:
    how = " as a shadow" if wave.mode is Mode.SHADOW else ""
    text = f"{how}, epoch {wave.epoch}, {wave.deployment or 'deployment not known yet'}" if wave.is_reached else ""
    return f"{text}, put back by {wave.put_back_deployment}" if wave.put_back_deployment else text


def _clock(at_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_ms / 1000))
