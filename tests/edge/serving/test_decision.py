"""What a hand-over means, row by row of the table in decision.py."""

import pytest

from hybridge_edge.admission.decision import Action, decide
from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.states import Mode
from hybridge_edge.ledger import Installed, ModelRecord, Verdict, Wanted

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def record(**fields: object) -> ModelRecord:
    return ModelRecord(
        "watch", **{"wanted": Wanted(A, "r", 5, Mode.ACTIVATE), "active": Installed(A, "1.0.0"), **fields}
    )


def handover(digest: str, epoch: int, mode: Mode = Mode.ACTIVATE) -> Handover:
    return Handover("watch", "/package", digest, "r", epoch, mode)


QUARANTINED = record(quarantined=(Verdict(B, "1.1.0", "crashed", 6),), wanted=Wanted(B, "r", 6, Mode.ACTIVATE))
TRIED = record(refused=(Verdict(B, "1.1.0", "it died", 6, "trial"),), wanted=Wanted(B, "r", 6, Mode.ACTIVATE))
LINTED = record(refused=(Verdict(B, "1.1.0", "no", 6, "lint"),), wanted=Wanted(B, "r", 6, Mode.ACTIVATE))
RETIRED = record(active=None, wanted=Wanted(A, "r", 6, Mode.RETIRE))


@pytest.mark.parametrize(
    ("found", "asked", "resident", "action"),
    [
        (ModelRecord("watch"), handover(A, 0), False, Action.ACTIVATE),
        (record(), handover(A, 5), True, Action.ALREADY),
        (record(), handover(A, 6), True, Action.ALREADY),
        (record(), handover(A, 5), False, Action.ACTIVATE),
        (record(), handover(B, 6), False, Action.ACTIVATE),
        (record(), handover(B, 5), False, Action.SUPERSEDED),
        (record(), handover(B, 4), False, Action.SUPERSEDED),
        (record(), handover(A, 4), True, Action.ALREADY),
        (QUARANTINED, handover(B, 6), False, Action.QUARANTINED),
        (QUARANTINED, handover(B, 7), False, Action.ACTIVATE),
        (TRIED, handover(B, 6), False, Action.REFUSED),
        (TRIED, handover(B, 6, Mode.STAGE), False, Action.SUPERSEDED),
        (TRIED, handover(B, 7), False, Action.ACTIVATE),
        (LINTED, handover(B, 6), False, Action.ACTIVATE),
        (record(), handover(A, 6, Mode.RETIRE), True, Action.RETIRE),
        (RETIRED, handover(A, 6, Mode.RETIRE), False, Action.ALREADY),
        (RETIRED, handover(A, 5), False, Action.SUPERSEDED),
        (RETIRED, handover(A, 7), False, Action.ACTIVATE),
        (record(), handover(B, 6, Mode.STAGE), False, Action.STAGE),
    ],
)
def test_a_hand_over_becomes(found: ModelRecord, asked: Handover, resident: bool, action: Action) -> None:
    decision = decide(found, asked, resident)
    assert decision.action is action
    assert bool(decision.reason) == (action in (Action.SUPERSEDED, Action.QUARANTINED, Action.REFUSED))


@pytest.mark.parametrize(
    ("found", "asked", "resident", "action"),
    [
        (ModelRecord("watch"), handover(A, 0), False, Action.ACTIVATE),
        (record(), handover(B, 5), False, Action.ACTIVATE),
        (record(), handover(A, 5), True, Action.ALREADY),
        (RETIRED, handover(B, 6), False, Action.ACTIVATE),
        (QUARANTINED, handover(B, 6), False, Action.QUARANTINED),
        (TRIED, handover(B, 6), False, Action.REFUSED),
    ],
)
def test_what_somebody_on_the_device_installs_at_the_epoch_that_holds_becomes(
    found: ModelRecord, asked: Handover, resident: bool, action: Action
) -> None:
    assert decide(found, asked, resident, by_hand=True).action is action
