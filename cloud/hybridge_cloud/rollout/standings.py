"""Where all devices of a ring stand towards what they are asked for: a package or a component's version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hybridge_cloud.rollout.component_standing import component_standing
from hybridge_cloud.rollout.observation import DeviceView, Observation
from hybridge_cloud.rollout.plan import Plan
from hybridge_cloud.rollout.standing import Asked, End, Standing, has_obeyed, standing
from hybridge_cloud.rollout.state import State, WaveState


def asked_forward(plan: Plan, wave: WaveState, since_ms: int) -> Asked:
    """What the devices of a wave are asked for."""
    asked = Asked(plan.digest, plan.id, wave.epoch, since_ms, mode=wave.mode)
    return _of_component(plan, asked, wave, plan.version) if plan.is_component else asked


def asked_back(plan: Plan, state: State, wave: WaveState, since_ms: int) -> Asked:
    """What they are asked for where the version before is put back."""
    asked = Asked(plan.previous_digest, plan.id, state.put_back_epoch, since_ms, is_back=True)
    return _of_component(plan, asked, wave, plan.previous_version) if plan.is_component else asked


def standings(
    planned: Sequence[str], ring: int, observation: Observation, asked: Asked, report_seconds: int, now_ms: int
) -> tuple[Standing, ...]:
    """Every device of a ring: those of the plan, whether the account shows them or not, and those that joined since."""
    one = component_standing if asked.component else standing
    views = {device.thing: device for device in observation.devices}
    named = set(planned)
    joined = (device.thing for device in observation.devices if device.ring == ring and device.thing not in named)
    return tuple(
        one(views.get(thing) or _unseen(thing, ring), asked, report_seconds, now_ms) for thing in (*planned, *joined)
    )


def has_converged(view: DeviceView, asked: Asked, report_seconds: int, now_ms: int) -> bool:
    """Whether a device runs what was asked, or has obeyed something newer since."""
    if asked.component:
        return component_standing(view, asked, report_seconds, now_ms).end is End.DONE
    return has_obeyed(view, asked)


def _of_component(plan: Plan, asked: Asked, wave: WaveState, version: str) -> Asked:
    return replace(asked, component=plan.model, version=version, baseline=wave.baseline)


def _unseen(thing: str, ring: int) -> DeviceView:
    return DeviceView(thing, ring, online=False, last_report_ms=0)
