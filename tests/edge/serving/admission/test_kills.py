"""kill -9 of a whole server at every step of every change; what starts again serves exactly the old or the new (F1).

A few points are taken in CI, one of each kind. All of them, some minutes: HYBRIDGE_TEST_KILLS=all.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hybridge_edge import failpoint
from hybridge_edge.admission.activation import Activation
from hybridge_edge.admission.passed import Measured
from hybridge_edge.admission.trial import Verdict
from hybridge_edge.client import Client
from hybridge_edge.contract.errors import ModelNotFound, Unavailable
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.engine import load
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.service import Service
from hybridge_edge.store import Store

RECOVERS_WITHIN_S = 10.0
INSTALL = (
    "store.ledger-written",
    "activation.verified",
    "activation.linted",
    "store.incoming-made",
    "package.file-copied",
    "store.copied",
    "store.installed",
    "activation.installed",
    "trial.started",
    "trial.ended",
    "passed.written",
    "activation.loading",
    "activation.loaded",
    "activation.proven",
    "activation.persisted",
    "activation.switched",
    "activation.collected",
)
DISCARD = ("store.discarding", "store.discarded")


@dataclass(frozen=True)
class Change:
    """What a server does when it is killed: how many versions it had, and which may answer afterwards.

    ``points``: where it is killed. Versions by number, -1 for none.
    """

    had: int
    points: tuple[str, ...]
    may_serve: tuple[int, ...]
    ends_with: int


CHANGES = {
    "install": Change(0, INSTALL, (-1, 0), 0),
    "upgrade": Change(3, INSTALL + DISCARD, (2, 3), 3),
    "rollback": Change(
        2,
        (
            "fallback.loading",
            "fallback.loaded",
            "store.ledger-written",
            "store.trials-forgotten",
            "fallback.persisted",
            "fallback.switched",
        ),
        (0, 1),
        0,
    ),
    "retire": Change(2, ("store.ledger-written", "activation.retired", "store.incoming-made", *DISCARD), (-1, 1), -1),
    "start": Change(2, ("restore.loading", "store.leftover-removed"), (1,), 1),
    "start under a rollout": Change(2, ("compare.loading",), (1,), 1),
}
ELSEWHERE = {"fallback.condemned", "store.ledger-aside"}
"""Reached by no command: when a digest is quarantined, and when the ledger cannot be read. See test_crash_states."""
IN_CI = {
    ("upgrade", "store.copied"),
    ("upgrade", "trial.started"),
    ("upgrade", "activation.persisted"),
    ("upgrade", "store.discarding"),
    ("rollback", "fallback.persisted"),
}
ALL = [(name, point) for name, change in CHANGES.items() for point in change.points]
WANTED = ALL if os.environ.get("HYBRIDGE_TEST_KILLS") == "all" else sorted(IN_CI)


def test_every_point_is_one_to_be_killed_at() -> None:
    assert {point for _, point in ALL} | ELSEWHERE == set(failpoint.POINTS)
    assert set(ALL) >= IN_CI


def had_before(store: Path, kit: ModuleType, built: list[Any], *, judged: bool) -> None:
    """Activated without a server, and without trials, which are not what is killed here.

    ``judged``: by a rollout, so that a start loads the version before too, to compare them.
    """
    service = Service(Gate(1), lambda model, digest: None)
    activation = Activation(
        Store(store),
        service,
        lambda: kit.trust_of(kit.signer()),
        lambda package, without: load(package, 1),
        lambda: None,
        trial=lambda package, stop: Verdict(Measured(memory_kib=1)),
    )
    for number, one in enumerate(built):
        handover = one.handover(number + 1)
        handover = handover if judged else replace(handover, rollout="by-hand")
        assert activation.hand_over(handover).state is PackageState.ACTIVE
    activation.close()


def change(server: Any, name: str, built: list[Any]) -> None:
    if name == "rollback":
        server.say(verb="rollback", model="watch")
    elif name == "retire":
        server.hand_over(built[1].handover(9, Mode.RETIRE))
    else:
        server.hand_over(built[-1].handover(9))


def serves(server: Any, kit: ModuleType) -> int:
    """The number of the version that answers, its numbers checked; -1 for none."""
    with Client(server.endpoint.inference) as client:
        try:
            answer = client.infer("watch", {"window": kit.window()})
        except ModelNotFound:
            return -1
    number = int(answer.version.split(".")[1])
    difference = answer.outputs["scores"] - kit.scores(kit.window(), 1.0 + number)
    assert abs(float(difference.max())) < 1e-4
    return number


@pytest.mark.parametrize(("name", "point"), WANTED)
def test_a_server_that_is_killed_comes_back_with_the_old_or_the_new(
    server: Any, packages: Callable, kit: ModuleType, name: str, point: str
) -> None:
    wanted = CHANGES[name]
    built = [packages(f"1.{number}.0", 1.0 + number, probes=2) for number in range(max(wanted.had, 1) + 1)]
    built = built[: wanted.had + (name in ("install", "upgrade"))]
    had_before(server.store, kit, built[: wanted.had], judged=name == "start under a rollout")
    if point == "store.leftover-removed":
        (server.store / "packages" / ".incoming-1").mkdir()
    if name.startswith("start"):
        server.start(wait=False, HYBRIDGE_FAILPOINT=f"tree:{point}")
        server.process.wait(30)
    else:
        server.start(HYBRIDGE_FAILPOINT=f"tree:{point}")
        with pytest.raises(Unavailable):
            change(server, name, built)
    server.kill_tree()
    began = time.monotonic()
    server.start()
    now = serves(server, kit)
    took = time.monotonic() - began
    print(f"\n{name} killed at {point}: serves {now} after {took:.1f} s")
    assert now in wanted.may_serve
    assert took < RECOVERS_WITHIN_S
    left = {path.name for path in (server.store / "packages").iterdir()}
    known = {one.digest.removeprefix("sha256:") for one in built}
    incoming = {path for path in left if path.startswith(".incoming-")}
    assert left - known <= incoming
    assert len(incoming) <= 1  # the next activation's own
    if not name.startswith("start"):
        if (name, now) != ("rollback", 0):  # what was rolled back to has nothing before it any more
            change(server, name, built)
        assert serves(server, kit) == wanted.ends_with
    assert server.stop() == 0
    assert not list((server.store / "packages").glob(".incoming-*"))
