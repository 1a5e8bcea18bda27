"""How long devices had no healthy component after an update failed there: measured from outside, so "at most".

A gap begins with the last sign of health that is known, and ends with the first one after. Between two looks nothing is
seen, and a server reports now and then only: the true time without one is shorter than what is stated, never longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hybridge_cloud.rollout.component_standing import BROKEN, UP, healthy_since_ms, is_healthy, last_sign_ms
from hybridge_cloud.rollout.observation import DeviceView, Observation
from hybridge_cloud.rollout.standing import MAX_REASON, Asked, End, Standing
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader

if TYPE_CHECKING:
    from hybridge_cloud.rollout.state import State, WaveState

NUCLEUS = "its nucleus"


@dataclass(frozen=True, slots=True)
class Gap:
    """A device without a healthy component.

    Attributes:
        since_ms: the last sign of health before. until_ms: the first one after, 0 while there is none. Unix time.
        why: what was seen. by: who brought it back: a deployment's id, or NUCLEUS; "" while nobody has.
    """

    thing: str
    since_ms: int
    why: str
    until_ms: int = 0
    by: str = ""

    @property
    def seconds(self) -> float:
        """How long it was at most; 0 while it lasts."""
        return max(0, self.until_ms - self.since_ms) / 1000 if self.until_ms else 0.0

    def sentence(self, component: str) -> str:
        """What people read."""
        if not self.until_ms:
            return f"{self.thing} has no healthy {component}: {self.why}"
        return f"{self.thing} had no healthy {component} for at most {self.seconds:.0f} s; brought back by {self.by}"

    @classmethod
    def read(cls, reader: Reader) -> Gap:
        return cls(
            thing=reader.text("thing", check=names.thing_name),
            since_ms=reader.integer("since_ms"),
            why=reader.text("why"),
            until_ms=reader.integer("until_ms"),
            by=reader.text("by"),
        )

    def to_json(self) -> dict[str, object]:
        return {
            "thing": self.thing,
            "since_ms": self.since_ms,
            "why": self.why,
            "until_ms": self.until_ms,
            "by": self.by,
        }


def followed(
    state: State, wave: WaveState, seen: Sequence[Standing], observation: Observation, asked: Asked, audit: list[str]
) -> State:
    """The state with the gaps of one wave's devices as they are now: begun, ended, or begun again."""
    gaps = {gap.thing: gap for gap in state.gaps}
    for item in seen:
        view = observation.view(item.thing)
        if view is None:
            continue
        before = gaps.get(item.thing)
        after = _of(before, item, view, wave, asked)
        if after is not None and after != before:
            gaps[item.thing] = after
            audit.append(after.sentence(asked.component))
            if before is None and after.until_ms:  # begun and over between two looks: both are said
                audit.insert(-1, replace(after, until_ms=0, by="").sentence(asked.component))
    return replace(state, gaps=tuple(gaps[thing] for thing in sorted(gaps)))


def _of(gap: Gap | None, item: Standing, view: DeviceView, wave: WaveState, asked: Asked) -> Gap | None:
    is_broken = view.component is not None and view.component.state == BROKEN
    is_lost = item.end is End.FAILED or is_broken
    if gap is None:  # an update that failed while its ring was being put back already was a loss, too
        is_lost = is_lost or item.end is End.REFUSED or bool(view.update_failed)
    if is_lost and (gap is None or (gap.until_ms and not is_healthy(view, asked, gap.since_ms))):
        # One that is lost again is counted from its first loss: longer than it was, never shorter.
        since_ms = last_sign_ms(view, asked, wave.written_at_ms) if gap is None else gap.since_ms
        why = f"Greengrass: {view.update_failed[:MAX_REASON]}" if view.update_failed else item.why
        gap = Gap(item.thing, since_ms, why)
    if gap is None or gap.until_ms or not is_healthy(view, asked, gap.since_ms):
        return gap
    return replace(gap, until_ms=healthy_since_ms(view, gap.since_ms), by=_by(view, wave))


def _by(view: DeviceView, wave: WaveState) -> str:
    found = view.component
    put_back_ms = wave.put_back_written_at_ms
    is_ours = bool(put_back_ms) and found is not None and found.state in UP and found.changed_ms >= put_back_ms
    return f"deployment {wave.put_back_deployment}" if is_ours and wave.put_back_deployment else NUCLEUS
