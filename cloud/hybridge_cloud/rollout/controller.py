"""Drive a rollout: look, decide, write the intent, act, record. Any number of controllers may; each may die anywhere.

What was decided is in the state before anything is done, and everything that is done may be done again: a controller
that finds an intent without an outcome does it, and one that comes second finds it done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from hybridge_cloud.aws import greengrass
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.fleet import membership
from hybridge_cloud.fleet import record as fleet_record
from hybridge_cloud.fleet.record import FleetModel
from hybridge_cloud.rollout import action as actions
from hybridge_cloud.rollout import look
from hybridge_cloud.rollout import record as rollouts
from hybridge_cloud.rollout.action import Action, Cancel, PutBack, WriteWave
from hybridge_cloud.rollout.decide import Decision, decide, foreign
from hybridge_cloud.rollout.lease import WAIT_SECONDS, Clock, LeaseHeld, holder_name, wall_clock
from hybridge_cloud.rollout.observation import Observation
from hybridge_cloud.rollout.plan import Plan
from hybridge_cloud.rollout.record import Record
from hybridge_cloud.rollout.state import State, Status
from hybridge_cloud.rollout.write import Change, ForeignRevision, write
from hybridge_edge.contract.errors import Conflict, Unavailable

POLL_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 30.0
"""Between two turns while the account does not answer."""

Observe = Callable[[Bucket, Plan, State, str, int], Observation]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn made of a rollout: where it stands now, what was seen, and what was done or could not be."""

    record: Record
    observation: Observation | None
    lines: tuple[str, ...] = ()


class Controller:
    """Drives one rollout.

    Args:
        observe: where it looks; the account by default.
        lease_wait_seconds: for a ring that another command writes; after that, the next turn tries again.
        told: called after every turn.
    """

    def __init__(
        self,
        bucket: Bucket,
        fleet: str,
        rollout: str,
        *,
        observe: Observe = look.observe,
        clock: Clock = wall_clock,
        lease_wait_seconds: float = WAIT_SECONDS,
        told: Callable[[Turn], None] = lambda turn: None,
    ) -> None:
        self._bucket, self._fleet, self._rollout = bucket, fleet, rollout
        self._observe, self._clock, self._told = observe, clock, told
        self._lease_wait_seconds = lease_wait_seconds
        self._prefix = fleet_record.read(bucket, fleet).prefix
        self.holder = holder_name()

    def run(self, stop: threading.Event, poll_seconds: float = POLL_SECONDS) -> Record:
        """Turn until the rollout is over or ``stop`` is set, and return where it stands.

        An account that does not answer is asked again, less and less often; a faster writer is let through.
        """
        wait = poll_seconds
        while True:
            try:
                turn = self.turn()
                wait = poll_seconds
                self._told(turn)
                state = turn.record.state
                if state.is_over and not actions.wanted(turn.record.plan, state):
                    return turn.record
            except (Unavailable, Conflict) as error:
                wait = min(MAX_BACKOFF_SECONDS, wait * 2)
                self._told_of(error)
            if stop.wait(wait):
                return self._read()

    def turn(self) -> Turn:
        """Look, decide, write the intent, act, record: once.

        Raises:
            Unavailable: the account does not answer. Refused: it says no to what is to be written.
        """
        record = self._read()
        now = self._clock()
        observation = self._observe(self._bucket, record.plan, record.state, self._prefix, now)
        decision = decide(record.plan, record.state, observation, now)
        # Before an end is stored, so that none is ever without it; epochs keep a slower loser from undoing it.
        settle(self._bucket, record.plan, decision.state)
        lines: list[str] = []
        record = self._intend(record, decision, now, lines)
        for action in actions.wanted(record.plan, record.state):
            record = self._act(record, action, lines)
        return Turn(record, observation, tuple(lines))

    def _intend(self, record: Record, decision: Decision, now: int, lines: list[str]) -> Record:
        """Store what was decided; where another writer was faster, what it stored stands."""
        try:
            record = rollouts.store(self._bucket, record, decision.state)
        except Conflict:
            return self._read()
        if decision.audit:
            rollouts.note(self._bucket, record, now, self.holder, decision.audit)
            lines.extend(decision.audit)
        return record

    def _act(self, record: Record, action: Action, lines: list[str]) -> Record:
        """Do one thing and record its outcome; what cannot be done now is wanted again in the next turn."""
        deployment = ""
        if isinstance(action, Cancel):
            line = self._cancel(record, action)
        else:
            try:
                deployment = self._write(record.plan, action)
            except LeaseHeld as held:
                lines.append(f"HOLD: ring {action.ring} waits for its lease: {held}")
                return record
            except ForeignRevision as found:
                ring, latest = action.ring, found.deployment
                stopped = foreign(record.plan, record.state, ring, latest, self._clock())
                return self._intend(record, stopped, self._clock(), lines)
            if not deployment:
                return self._read()
            what = "written" if isinstance(action, WriteWave) else "put back"
            line = f"ring {action.ring}: {what} at epoch {action.epoch} as deployment {deployment}"
        now = self._clock()
        before, record = rollouts.change(
            self._bucket, record, lambda stored: actions.recorded(stored.state, action, deployment, now)
        )
        if record.state != before.state:  # else another controller did it, and said so
            rollouts.note(self._bucket, record, now, self.holder, (line,))
            lines.append(line)
        return record

    def _write(self, plan: Plan, action: WriteWave | PutBack) -> str:
        change = Change(plan.model, action.version, plan.id, action.epoch, action.mode)
        ring = next(ring for ring in membership.rings(plan.fleet) if ring.number == action.ring)
        return write(
            self._bucket,
            ring,
            change,
            self._prefix,
            self.holder,
            clock=self._clock,
            wait_seconds=self._lease_wait_seconds,
            wanted=lambda: actions.is_wanted(self._read().state, action),
        )

    def _cancel(self, record: Record, action: Cancel) -> str:
        others = rollouts.others_running(self._bucket, record)
        if others:
            return (
                f"ring {action.ring}: {action.deployment} stays, since it carries what {', '.join(others)} asks for too"
            )
        done = greengrass.cancel_deployment(action.deployment)
        return f"ring {action.ring}: {action.deployment} {'cancelled' if done else 'was not active any more'}"

    def _read(self) -> Record:
        return rollouts.read(self._bucket, self._fleet, self._rollout)

    def _told_of(self, error: Exception) -> None:
        """Say what keeps the rollout waiting, where its record can still be read."""
        try:
            self._told(Turn(self._read(), None, (f"waiting: {error}",)))
        except (Unavailable, Conflict):
            pass  # the same account that did not answer


def settle(bucket: Bucket, plan: Plan, state: State) -> None:
    """Make the fleet's record say what a rollout that is over left behind. Doing it again changes nothing.

    A newer deployment's word, which has a higher epoch, stays. What a ring runs of a component that is no model, its
    latest deployment says.
    """
    if plan.is_component:
        return
    if state.status is Status.SUCCEEDED:
        now = FleetModel(plan.model, plan.version, plan.digest, plan.id, state.epoch)
    elif state.status is Status.PUT_BACK:
        now = FleetModel(plan.model, plan.previous_version, plan.previous_digest, plan.id, state.put_back_epoch)
    else:
        return
    fleet_record.change(bucket, plan.fleet, lambda found: found.with_model(now))
