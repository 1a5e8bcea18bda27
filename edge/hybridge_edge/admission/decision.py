"""What a hand-over means for a device, decided from what the store remembers. Pure: no files, no clock, no engine.

| the hand-over                                        | becomes |
|------------------------------------------------------|---------|
| an epoch lower than the one obeyed                   | SUPERSEDED, or ALREADY where it asks for what runs |
| the same epoch, another package                      | SUPERSEDED: one epoch asks for one thing; a person at the
|                                                      | device may still install one, at the epoch that holds |
| a digest quarantined at this epoch or a later one    | QUARANTINED; only a higher epoch lifts it |
| a digest whose trial ended badly at this epoch       | REFUSED, without another trial; a higher epoch tries again |
| the digest that runs                                 | ALREADY; a higher epoch is remembered |
| the digest that runs, as a shadow                    | ALREADY: it answers, and cannot stand beside itself |
| anything else                                        | ACTIVATE, STAGE, SHADOW or RETIRE |

A package refused for anything but its trial is examined again when it is asked for again: what stood against it (a
trust file, a full disk) may be gone. A trial that a package did not survive is not repeated: it may have cost the
device.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.states import Mode
from hybridge_edge.ledger import ModelRecord

TRIAL = "trial"
"""The step whose refusals are remembered as final for an epoch."""


class Action(Enum):
    """What the server does about a hand-over."""

    ACTIVATE = "activate"
    STAGE = "stage"
    RETIRE = "retire"
    SHADOW = "shadow"
    ALREADY = "already"
    SUPERSEDED = "superseded"
    QUARANTINED = "quarantined"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Decision:
    """The action, and the reason where it is not simply done."""

    action: Action
    reason: str = ""


def decide(record: ModelRecord, handover: Handover, resident: bool, by_hand: bool = False) -> Decision:
    """Decide on a hand-over.

    Args:
        record: what the store remembers of the model.
        resident: whether the digest asked for is the one that answers in memory right now.
        by_hand: somebody on the device installs a package at the epoch that holds, and so outranks no later deployment.
    """
    wanted = record.wanted
    if wanted is not None and handover.epoch < wanted.epoch:
        if resident and handover.mode is Mode.ACTIVATE:
            return Decision(Action.ALREADY)
        return Decision(Action.SUPERSEDED, f"Epoch {handover.epoch} is superseded by epoch {wanted.epoch}.")
    same_epoch = wanted is not None and handover.epoch == wanted.epoch
    if (
        same_epoch
        and wanted is not None
        and not by_hand
        and (handover.digest, handover.mode) != (wanted.digest, wanted.mode)
    ):
        return Decision(
            Action.SUPERSEDED, f"Epoch {handover.epoch} asked for {wanted.digest[:19]} ({wanted.mode.value}) already."
        )
    if handover.mode is Mode.RETIRE:
        return Decision(Action.ALREADY if same_epoch and record.active is None else Action.RETIRE)
    quarantine = record.quarantine_of(handover.digest)
    if quarantine is not None and handover.epoch <= quarantine.epoch:
        return Decision(Action.QUARANTINED, quarantine.reason)
    if resident and handover.mode in (Mode.ACTIVATE, Mode.SHADOW):
        return Decision(Action.ALREADY)
    refusal = record.refusal_of(handover.digest)
    if refusal is not None and refusal.step == TRIAL and handover.epoch <= refusal.epoch:
        return Decision(Action.REFUSED, f"{refusal.reason} It is tried again at a higher epoch.")
    return Decision({Mode.STAGE: Action.STAGE, Mode.SHADOW: Action.SHADOW}.get(handover.mode, Action.ACTIVATE))
