"""What a package may take of this device's memory and disk, and what has to make room for it. Pure.

Memory is counted as what loaded models hold together. While a switch is made the version before answers still, so for
that moment both are in memory whatever the plan: the limit is for what stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from hybridge_edge.contract.budgets import Budgets
from hybridge_edge.contract.errors import PackageRefused

STEP = "budget"
DISK_STEP = "install"
RESERVE_BYTES = 64 * 1024 * 1024
"""What an installation leaves free on the disk, for the ledger and the spool's bookkeeping."""


class Previous(Enum):
    """Where the version before is, once the new one answers."""

    NONE = "none"
    RESIDENT = "resident"
    ON_DISK = "on disk only"


@dataclass(frozen=True, slots=True)
class Held:
    """A model in memory: what it takes, in MB, and whether it answers, stands by, or stands beside as a shadow."""

    model: str
    version: str
    megabytes: int
    answers: bool
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the version before stays and why, which models' standbys make room, and what is then held, in MB.

    ``end_shadows``: models whose shadows make room. A shadow is the first to go.
    """

    previous: Previous
    reason: str
    let_go: tuple[str, ...]
    megabytes: int
    end_shadows: tuple[str, ...] = ()


def plan(model: str, megabytes: int, budgets: Budgets, held: Sequence[Held], limit: int) -> Plan:
    """Decide what stays in memory beside a package that takes ``megabytes`` MB.

    Args:
        held: everything in memory before the switch. limit: MB that loaded models may hold together, 0 for no limit.

    Raises:
        PackageRefused: step budget: it takes more than its manifest says, or than there is.
    """
    _check_own(megabytes, budgets)
    before = next((one for one in held if one.model == model and one.answers), None)
    others = [one for one in held if one.model != model]
    needed = megabytes + sum(one.megabytes for one in others if one.answers)
    if limit and needed > limit:
        raise PackageRefused(
            f"The package takes {megabytes} MB and the other models {needed - megabytes} MB; {limit} MB are allowed "
            "together.",
            "Retire a model, raise memoryMegabytes, or make a smaller model.",
            step=STEP,
        )
    standbys = [one for one in others if not one.answers and not one.shadow]
    total = needed + sum(one.megabytes for one in standbys)
    if before is None:
        previous, reason = Previous.NONE, "there is no version before"
    elif not limit or total + before.megabytes <= limit:
        previous, total = Previous.RESIDENT, total + before.megabytes
        reason = f"{total} MB are held then" + (f", {limit} MB are allowed" if limit else "")
    else:
        previous, reason = Previous.ON_DISK, f"with it {total + before.megabytes} MB would be held, over {limit} MB"
    let_go: list[str] = []
    for one in sorted(standbys, key=lambda one: (-one.megabytes, one.model)):
        if limit and total > limit:
            let_go.append(one.model)
            total -= one.megabytes
    ended: list[str] = []
    for one in sorted((one for one in others if one.shadow), key=lambda one: (one.megabytes, one.model)):
        if limit and total + one.megabytes > limit:
            ended.append(one.model)
        else:
            total += one.megabytes
    return Plan(previous, reason, tuple(let_go), total, tuple(ended))


def plan_shadow(model: str, megabytes: int, budgets: Budgets, held: Sequence[Held], limit: int) -> tuple[str, ...]:
    """Models whose versions before make room for a shadow that takes ``megabytes`` MB beside all that answers.

    Args:
        held, limit: as of ``plan``.

    Raises:
        PackageRefused: step budget: it takes more than its manifest says, or there is no room for it.
    """
    _check_own(megabytes, budgets)
    stays = sum(one.megabytes for one in held if one.answers or (one.shadow and one.model != model))
    if limit and megabytes + stays > limit:
        raise PackageRefused(
            f"As a shadow the package takes {megabytes} MB beside the {stays} MB of what answers and of other shadows; "
            f"{limit} MB are allowed together.",
            "Raise memoryMegabytes, or activate it without a shadow: then it takes the place of what answers.",
            step=STEP,
        )
    standbys = [one for one in held if not one.answers and not one.shadow]
    total = megabytes + stays + sum(one.megabytes for one in standbys)
    let_go: list[str] = []
    for one in sorted(standbys, key=lambda one: (-one.megabytes, one.model)):
        if limit and total > limit:
            let_go.append(one.model)
            total -= one.megabytes
    return tuple(let_go)


def _check_own(megabytes: int, budgets: Budgets) -> None:
    if budgets.memory_megabytes and megabytes > budgets.memory_megabytes:
        raise PackageRefused(
            f"The package takes {megabytes} MB of memory; its own budget is {budgets.memory_megabytes} MB.",
            "Raise the budget, or make a smaller model.",
            step=STEP,
        )


def fits(megabytes: int, held: Sequence[Held], limit: int) -> bool:
    """Whether a version before may be kept in memory too."""
    return not limit or megabytes + sum(one.megabytes for one in held) <= limit


def check_disk(size: int, free: int) -> None:
    """Whether a package of ``size`` bytes may be copied where ``free`` bytes are; before anything is copied.

    Raises:
        PackageRefused: step install: it may not.
    """
    if free < size + RESERVE_BYTES:
        raise PackageRefused(
            f"The package needs {_megabytes(size)} MB and {free >> 20} MB are free, of which {RESERVE_BYTES >> 20} MB "
            "are kept.",
            "Make room on the device.",
            step=DISK_STEP,
        )


def _megabytes(size: int) -> int:
    return -(-size // 1024**2)
