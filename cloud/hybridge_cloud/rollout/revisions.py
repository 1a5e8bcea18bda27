"""What a ring's latest deployment says of a rollout's model: ours, as it was before, or somebody else's.

Other rollouts write other models into the same ring, and every revision keeps what it does not change. So a revision is
judged by what it asks of this rollout's model, not by its id alone.
"""

from __future__ import annotations

from dataclasses import replace

from hybridge_cloud.rollout.observation import Observation, Revision
from hybridge_cloud.rollout.plan import Plan
from hybridge_cloud.rollout.state import State, Status, WaveState

FOREIGN_REVISION = "FOREIGN_REVISION"


def is_forward(plan: Plan, wave: WaveState, revision: Revision) -> bool:
    """Whether a revision asks for the rollout's version, by its id and epoch."""
    return (revision.version, revision.rollout, revision.epoch) == (plan.version, plan.id, wave.epoch)


def is_back(plan: Plan, state: State, revision: Revision) -> bool:
    """Whether a revision puts the version before back, by the rollout's id and its higher epoch."""
    asked = (revision.version, revision.rollout, revision.epoch)
    return asked == (plan.previous_version, plan.id, state.put_back_epoch)


def is_shadow(plan: Plan, state: State, revision: Revision) -> bool:
    """Whether a revision asks for the rollout's version as a shadow, by its id and lower epoch."""
    asked = (revision.version, revision.rollout, revision.epoch)
    return state.shadow_epoch > 0 and asked == (plan.version, plan.id, state.shadow_epoch)


def adopted(plan: Plan, state: State, observation: Observation) -> State:
    """The state with deployments in it whose writer died, or was overtaken, before it could record them.

    A revision that asks for the rolled-out version again after its ring was put back was written by somebody who slept
    meanwhile: devices do not obey its lower epoch, but the ring is put back once more.
    """
    for wave in state.waves:
        revision = observation.revisions.get(wave.ring)
        if revision is None or not wave.is_reached or revision.cancelled or wave.foreign:
            continue
        if state.status is Status.PUTTING_BACK:
            if not wave.put_back_deployment and is_back(plan, state, revision):
                written_at = wave.put_back_written_at_ms or state.detected_at_ms
                wave = replace(wave, put_back_deployment=revision.deployment, put_back_written_at_ms=written_at)
            elif (
                wave.put_back_deployment
                and (is_forward(plan, wave, revision) or is_shadow(plan, state, revision))
                # Those are shown for a while after they were replaced.
                and revision.deployment not in (wave.deployment, wave.before)
            ):
                wave = replace(wave, put_back_deployment="")
        elif not wave.deployment and is_forward(plan, wave, revision) and revision.deployment != wave.cancelled:
            wave = replace(wave, deployment=revision.deployment)
        state = state.with_wave(wave)
    return state


def foreign_ring(plan: Plan, state: State, observation: Observation) -> tuple[int, str] | None:
    """The first ring of a rollout under way whose latest deployment is not ours, and that deployment; None for none.

    What a ring held before its wave is no foreign revision: the account may show it for a while after the write.
    """
    for wave in state.waves:
        revision = observation.revisions.get(wave.ring)
        if revision is not None and not wave.foreign and not _is_known(plan, state, wave, revision):
            return wave.ring, revision.deployment
    return None


def _is_known(plan: Plan, state: State, wave: WaveState, revision: Revision) -> bool:
    if not wave.is_reached:
        # A version that nobody rolled out stands in the way; a ring without the model does not.
        return state.status is Status.PUTTING_BACK or plan.is_first or revision.version in ("", plan.previous_version)
    if revision.deployment in (wave.before, wave.deployment, wave.put_back_deployment, wave.cancelled):
        return True
    if not revision.ours:
        return False
    back = state.status is Status.PUTTING_BACK and is_back(plan, state, revision)
    return back or is_forward(plan, wave, revision) or is_shadow(plan, state, revision)
